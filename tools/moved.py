"""Say which installed libraries differ from requirements.lock: python -m tools.moved.

Printed before the checks on the newest and on the oldest libraries, so that a failure there says
what moved.
"""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parents[1] / "requirements.lock"


def moved(lock: str, installed: dict[str, str]) -> list[str]:
    """Return a line for each installed library of another version than the lock's text says.

    Args:
        lock: a requirements file of ``name==version`` lines, for several versions of Python.
        installed: version by canonical name.
    """
    lines = []
    for line in lock.splitlines():
        if not line[:1].isalnum():  # a comment, or a hash
            continue
        wanted = Requirement(line.removesuffix("\\").strip())
        name = canonicalize_name(wanted.name)
        if name not in installed or not (wanted.marker is None or wanted.marker.evaluate()):
            continue
        if not wanted.specifier.contains(installed[name], prereleases=True):
            locked = str(wanted.specifier).removeprefix("==")
            lines.append(f"{name} {installed[name]} (locked: {locked})")
    return lines


def main() -> None:
    """Print the differences."""
    installed = {
        canonicalize_name(found.metadata["Name"]): found.version for found in distributions()
    }
    lines = moved(LOCK.read_text(), installed)
    print("\n".join([f"{len(lines)} libraries differ from {LOCK.name}", *lines]))


if __name__ == "__main__":
    main()
