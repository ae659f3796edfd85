"""What the tables share: accuracies and Markdown, and one way to say what is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from eval.results import Results, Row
from vlmig.errors import VLMIGError
from vlmig.report import numbers

Column = tuple[str, str]
"""A task and a subset of its items."""
SUBSETS = ("all", "covered")


def columns(runs: Sequence[Results], tasks: Sequence[str] | None = None) -> list[Column]:
    """List what any of the folders has an accuracy of, of these tasks or of all; a subset that is
    all of a task stands once.

    Raises:
        VLMIGError: there is none.
    """
    named = (
        tasks
        if tasks is not None
        else list(dict.fromkeys(task for run in runs for task in run.tasks))
    )
    found = [
        (task, subset)
        for task in named
        for subset in SUBSETS
        if any(_is_own(run, task, subset) for run in runs)
    ]
    if not found:
        folders = ", ".join(str(run.folder) for run in runs)
        raise VLMIGError(f"no task of this table in {folders}; expected some of {', '.join(named)}")
    return found


def _is_own(run: Results, task: str, subset: str) -> bool:
    row, whole = run.row(task, subset, 0), run.row(task, SUBSETS[0], 0)
    return row is not None and (subset == SUBSETS[0] or whole is None or row["n"] < whole["n"])


def resampled(own: Results) -> list[Column]:
    """List the columns whose samples hold every image's distribution.

    Raises:
        VLMIGError: there is none, or no image.
    """
    found = [column for column in columns([own]) if own.has_distributions(column[0])]
    if not found or not own.k:
        raise VLMIGError(
            f"{own.folder} has no task with candidates beside pictures; measure one with --k 0,6"
        )
    return found


def title(runs: Sequence[Results], column: Column) -> str:
    """Head a column: task, subset and number of items."""
    sizes = dict.fromkeys(str(row["n"]) for run in runs if (row := run.row(*column, 0)))
    return f"{', '.join(column)} (n = {' or '.join(sizes)})"


def beside(numbers: Mapping[str, str], shown: Sequence[Column]) -> list[str]:
    """Put published numbers, by task, into their tasks' first columns: they are about no subset of
    ours."""
    first = dict(reversed(shown))
    return [numbers.get(task, "-") if first[task] == subset else "-" for task, subset in shown]


def floors(runs: Sequence[Results], shown: Sequence[Column]) -> list[list[str]]:
    """Make the rows of those who look at no question: the most frequent answer, and chance."""
    found = [next(run for run in runs if run.row(*column, 0)).floor(*column) for column in shown]
    return [
        [name, *(percent(own[i]) for own in found)] for i, name in enumerate(("majority", "chance"))
    ]


def mean(rows: Sequence[Row]) -> Row:
    """Average several tasks' accuracies, taken as independent; the interval is made of theirs (Zou
    and Donner 2008)."""
    own, ends = np.array([row["acc"] for row in rows]), np.array([row["ci95"] for row in rows])
    below, above = np.sqrt(((ends - own[:, None]) ** 2).sum(0)) / len(rows)
    return {"acc": own.mean(), "ci95": [own.mean() - below, own.mean() + above]}


def percent(share: float | None) -> str:
    """Format a share in %."""
    return "-" if share is None else numbers.percent(share)


def accuracy(row: Row | None) -> str:
    """Format an accuracy in % with its interval."""
    if row is None:
        return "-"
    if row.get("unread"):
        return "cannot name"
    return f"{percent(row['acc'])} {numbers.interval(row['ci95'])}"


def difference(row: Row | None) -> str:
    """Format a comparison in points with its interval, its verdict and what it could have found."""
    if row is None:
        return "-"
    if row.get("unread"):
        return "cannot name"
    low, high = (numbers.signed(end, 0) for end in row["ci95"])
    found = f"{numbers.signed(row['delta'])} [{low}, {high}] {row['verdict']}"
    return f"{found}, finds {percent(row['detectable'])}" if "detectable" in row else found


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def remarks(runs: Sequence[Results], published: str) -> str:
    """Say where the published numbers come from, and why ours are not comparable with them.

    Args:
        published: which numbers, of what model.
    """
    lines = [
        f"Published: {published}, arXiv 2406.13621v2, in %; ours in % with 95 % intervals over "
        "objects."
    ]
    for run in runs:
        settings, content = run.block["settings"], run.content
        found = []
        if run.block["protocol"] != "reference":
            found.append(
                "protocol default, where the published scripts differ (--protocol reference)"
            )
        if content["config"]["limit"]:
            found.append(f"only {content['config']['limit']} items of each task")
        if settings["subset"] == "covered" or any(
            c["subset"] == "covered" for c in run.block["conditions"]
        ):
            found.append("covered: only items that the pocket world can draw")
        model = f"{run.folder}: model {content['config']['model_args']['pretrained']}"
        lines.append(
            f"{model}; not comparable with them: {'; '.join(found)}." if found else f"{model}."
        )
    return "\n".join(lines)


def said(work: Callable[[], None]) -> int:
    """Do something and return the exit status; what a user can get wrong is one line."""
    try:
        work()
    except VLMIGError as error:
        print(f"eval: {error}", file=sys.stderr)
        return 2
    return 0


def run(
    report: Callable[..., str], about: str | None, argv: Sequence[str] | None = None, **files: str
) -> int:
    """Print what ``report`` makes of results folders.

    Args:
        files: further options that name a file, with their help.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="what vlmig eval --out wrote")
    for name, text in files.items():
        parser.add_argument(f"--{name}", type=Path, help=text)
    given = vars(parser.parse_args(argv))
    folders = given.pop("folders")
    return said(lambda: print(report([Results(folder) for folder in folders], **given)))
