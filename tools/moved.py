"""Say which installed libraries differ from requirements.lock: python -m tools.moved.

Printed before the checks on the newest and on the oldest libraries, so that a failure there says
what moved.
"""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"


def canonical(name: str) -> str:
    """Spell a distribution's name as the lock does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def moved(lock: str, installed: dict[str, str]) -> list[str]:
    """Return a line for each installed library of another version than the lock's text says.

    Args:
        lock: a requirements file of ``name==version`` lines.
        installed: version by canonical name.
    """
    locked = dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock, re.M))
    both = sorted(locked.keys() & installed.keys())
    return [
        f"{name} {installed[name]} (locked: {locked[name]})"
        for name in both
        if installed[name] != locked[name]
    ]


def main() -> None:
    """Print the differences."""
    installed = {canonical(found.metadata["Name"]): found.version for found in distributions()}
    lines = moved(LOCK.read_text(), installed)
    print("\n".join([f"{len(lines)} libraries differ from {LOCK.name}", *lines]))


if __name__ == "__main__":
    main()
