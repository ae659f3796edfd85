"""make eval: measure the embedded pocket model on every colour and shape task whose file is there.

It prints the tables of docs/results.md.

    python -m eval.colours_and_shapes [--data DIR]

Only items that the pocket world can draw (--subset covered), with every control, in ten minutes on
two cores: so at most 120 items of a task, drawn by a hash, which cuts ViComTe's colours on train
only. ViComTe is measured on its test split where that file is there, else on train. A task without
its file is named and left out. It runs

    vlmig eval \
      --tasks memory_color,color_terms,object_shape,imagenetvc_color,imagenetvc_shape,vicomte_color,vicomte_shape \
      --subset covered --limit 120 --k 0,1,3,6 --out runs/eval
    python -m eval.headline runs/eval

and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from eval import headline
from eval.tables import said
from vlmig.cli.main import main as vlmig
from vlmig.errors import VLMIGError
from vlmig.evaluation.tasks.yaml_task import declaration

TASKS = (
    "memory_color",
    "color_terms",
    "object_shape",
    "imagenetvc_color",
    "imagenetvc_shape",
    "vicomte_color",
    "vicomte_shape",
)


def measurable(data: Path) -> list[str]:
    """Name the tasks whose files are there, on test or else on train, and say which are not.

    Raises:
        VLMIGError: none are.
    """
    found, missing = [], []
    for task in TASKS:
        files = declaration(task).files
        there = [
            split
            for split in ("test", "train")
            if all((data / f).is_file() for f in files.get(split, [""]))
        ]
        if there:
            found.append(task if there[0] == "test" else f"{task}@{there[0]}")
        else:
            missing.append(f"{task} ({files['test'][0]})")
    if not found:
        raise VLMIGError(
            f"no file of {', '.join(TASKS)} in {data}; pass --data, or set VLMIG_DATA (README, "
            "Benchmark data)"
        )
    if missing:
        print(f"left out, no file in {data}: {', '.join(missing)}\n")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("VLMIG_DATA", "../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/eval"))
    given = parser.parse_args(argv)
    tasks: list[str] = []
    status = said(lambda: tasks.extend(measurable(Path(given.data))))
    if status:
        return status
    command = [
        "eval",
        "--tasks",
        ",".join(tasks),
        "--subset",
        "covered",
        "--limit",
        "120",
        "--k",
        "0,1,3,6",
    ]
    command += ["--data", str(given.data), "--out", str(given.out)]
    print(f"$ vlmig {' '.join(command)}\n", flush=True)
    return vlmig(command) or headline.main([str(given.out)])


if __name__ == "__main__":
    sys.exit(main())
