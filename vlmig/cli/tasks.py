"""``vlmig tasks``: the tasks of ``vlmig eval``, their splits, and whose files are there."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmig.cli import options
from vlmig.errors import VLMIGError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [--data FOLDER]"
    text = "folder of benchmark files, to say which are missing (default: VLMIG_DATA)"
    options.add_data(parser, text)


def run(arguments: argparse.Namespace) -> None:
    from vlmig.evaluation.tasks.yaml_task import declaration, known_tasks
    from vlmig.pocket.tasks import TASKS
    from vlmig.report.text_table import text_table

    if arguments.data is not None and not arguments.data.is_dir():
        raise VLMIGError(f"no folder {arguments.data}; expected the one of the benchmark files")
    rows = [["task", "splits", "files below the data folder"]]
    for name in known_tasks():
        task = declaration(name)
        splits = [split + " (default)" * (split == task.split) for split in task.files]
        rows.append([name, ", ".join(splits), _files(task.files[task.split], arguments.data)])
    for name in TASKS:
        rows.append([name, "-", "none: the pocket world's own"])
    print(text_table(rows, "<<<"))


def _files(names: list[str], data: Path | None) -> str:
    """List files, and say which are missing."""
    if not names:
        return "none: its rows are in the package"
    if data is None:
        return ", ".join(names)
    return ", ".join(name if (data / name).is_file() else f"{name} (missing)" for name in names)
