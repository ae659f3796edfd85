"""vlmig: language models that look at imagined images before answering (arXiv 2406.13621).

from vlmig import VLMIG
VLMIG.from_pretrained("pocket").ask("What is the color of a banana?", choices=["yellow", "red"])
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmig.errors import VLMIGError
    from vlmig.models.config import VLMIGConfig
    from vlmig.models.modeling import VLMIGForCausalLM, VLMIGForMaskedLM
    from vlmig.predict.predictor import VLMIG

    __version__: str

__all__ = [
    "VLMIG",
    "VLMIGConfig",
    "VLMIGError",
    "VLMIGForCausalLM",
    "VLMIGForMaskedLM",
    "__version__",
]

_HOMES = {
    "VLMIG": "predict.predictor",
    "VLMIGConfig": "models.config",
    "VLMIGError": "errors",
    "VLMIGForCausalLM": "models.modeling",
    "VLMIGForMaskedLM": "models.modeling",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``vlmig --help`` answers at once."""
    if name == "__version__":  # of the installed package, whose metadata takes a moment to find
        from importlib.metadata import version

        return version("vlmig")
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmig' has no attribute {name!r}")
    return getattr(import_module(f"vlmig.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, those not imported yet too."""
    return sorted({*globals(), *__all__})


AUTO = "transformers.models.auto.configuration_auto"


class _Registration(MetaPathFinder):
    """Makes our configuration known to transformers once its own are loaded, and not before: so
    ``import vlmig`` is enough for ``AutoModelForCausalLM``, and costs nothing without it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Have the module of transformers' configurations register ours at its end."""
        if name != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: Any) -> None:
                run(module)
                import_module("vlmig.models.config")

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


if AUTO in sys.modules:
    import_module("vlmig.models.config")
else:
    sys.meta_path.insert(0, _Registration())
