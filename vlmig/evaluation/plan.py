"""What a run could find, said before it: the smallest differences that its comparisons detect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vlmig.evaluation.metrics.bootstrap import detectable
from vlmig.evaluation.metrics.rescoring import BASELINES
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Item, Task, drawn

SPREADS = {"number of images": 0.2, "text alone, controls": 0.45, "at worst": 1.0}
"""Standard deviations between objects of a paired difference in accuracy: typical ones, as of
memory_color (k=6 less k=1, and less text alone), and the greatest that there can be."""


def plan(
    tasks: Sequence[Task], settings: Settings, data: Path, covered: Callable[[str], bool] | None
) -> list[list[str]]:
    """Tabulate each task's size and, in points, the smallest difference that is called one with
    80 % power, corrected for all comparisons of the run by Holm's worst case.

    Args:
        data: folder of benchmark files.
        covered: tells whether an object belongs to the ``covered`` subset; None has no such subset.
    """
    sizes: list[tuple[str, str, int, int]] = []
    comparisons = 0
    for task in tasks:
        count = len(compared(settings, task, data))
        for subset, items in _subsets(task, settings, data, covered).items():
            objects = len({name for item in items for name in item.objects})
            sizes.append((task.name, subset, len(items), objects))
            comparisons += count
    rows = [["task", "subset", "items", "objects", *SPREADS]]
    for name, subset, count, objects in sizes:
        row = [name, subset, str(count), str(objects)]
        for spread in SPREADS.values():
            least = detectable(spread / np.sqrt(max(objects, 1)), objects, comparisons)
            row.append(f"{100 * least:.1f}")
        rows.append(row)
    return rows


def compared(settings: Settings, task: Task, data: Path) -> list[str]:
    """List what a task's main condition is compared with, at most: a model whose vision encoder has
    no text side lacks two of them."""
    k = settings.main_k
    if k == 0 or task.kind == "text" or task.paired:
        return []
    named = ["text-only", *(f"k={n}" for n in (1, settings.auto) if n in settings.ks and n != k)]
    if task.kind != "choice" or task.scoring == "sequence":
        return named
    named += [name for name in settings.controls if name not in ("none", "few-shot")]
    if "few-shot" in settings.controls and task.demonstrations(data):
        named.append("few-shot")
    return named + list(BASELINES) if isinstance(k, int) else named


def _subsets(
    task: Task, settings: Settings, data: Path, covered: Callable[[str], bool] | None
) -> dict[str, Sequence[Item]]:
    """Return the items of each subset that is compared by itself."""
    items = task.load(data)
    limit = len(items) if settings.limit is None else settings.limit
    if settings.subset == "covered" and covered is not None and task.kind != "text":
        return {"covered": drawn([item for item in items if item.inside(covered)], limit)}
    items = drawn(items, limit)
    subsets: dict[str, Sequence[Item]] = {"all": items}
    if covered is not None:
        inside = [item for item in items if item.inside(covered)]
        if 0 < len(inside) < len(items):
            subsets["covered"] = inside
    return subsets
