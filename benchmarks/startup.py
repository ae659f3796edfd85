"""Startup time in seconds of libraries, the package, the pocket model and commands.

python -m benchmarks.startup --rounds 3

Each one runs in a new process, in turns. The first round is not measured: it fills the caches and
stores the pictures of the answer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.side_by_side import in_turns, introduction, machine

LOAD = "from vlmig import VLMIG; VLMIG.from_pretrained('pocket')"
MAIN = "from vlmig.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"


def sides(folder: Path) -> dict[str, list[str]]:
    """Return the arguments of Python for each name.

    Args:
        folder: an empty folder, for the feature store.
    """
    store = ["--store", str(folder / "store")]
    ask = ["ask", "What is the color of a banana?", "--choices", "yellow,red", "--k", "2", *store]
    return {
        "import torch": ["-c", "import torch"],
        "import transformers": ["-c", "import transformers"],
        "import vlmig": ["-c", "import vlmig"],
        "from vlmig import VLMIG": ["-c", "from vlmig import VLMIG"],
        "load pocket": ["-c", LOAD],
        "vlmig --help": ["-c", MAIN, "--help"],
        "vlmig ask, stored": ["-c", MAIN, *ask],
        "vlmig report MISSING": ["-c", MAIN, "report", str(folder / "missing")],
        "vlmig train pocket --plan": ["-c", MAIN, "train", "pocket", "--plan", *store],
    }


def start(arguments: Sequence[str], spent: list[float]) -> None:
    """Run Python and add its CPU seconds, user and system, to ``spent``."""
    before = os.times()
    subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    after = os.times()
    spent.append(
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def main(argv: list[str] | None = None) -> None:
    """Measure and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="measured processes of each (default: 3)"
    )
    arguments = parser.parse_args(argv)
    print(introduction(machine()))
    with tempfile.TemporaryDirectory() as folder:
        started = sides(Path(folder))
        spent: dict[str, list[float]] = {name: [] for name in started}
        works = {
            name: partial(start, arguments, spent[name]) for name, arguments in started.items()
        }
        walls = in_turns(works, arguments.rounds)
    print(f"{'median of rounds, seconds':<28}{'CPU':>8}{'wall':>8}")
    for name, wall in walls.items():
        print(f"{name:<28}{median(spent[name][1:]):>8.2f}{median(wall):>8.2f}")


if __name__ == "__main__":
    main()
