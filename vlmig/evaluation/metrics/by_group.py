"""Disparity: accuracy by groups of items, and which group is served worst."""

from __future__ import annotations

import numpy as np

from vlmig.evaluation.metrics.bootstrap import Clusters
from vlmig.evaluation.metrics.comparisons import Condition
from vlmig.evaluation.metrics.outcome import Table
from vlmig.evaluation.run_folder import Row
from vlmig.evaluation.tasks.items import Item, groups_by_name

COVERED = "covered"
"""The grouping that every task has where the image source has a world of its own."""
FEWEST = 5
"""Objects that a group needs to be called the best or the worst."""
SHUFFLES = 2000


def disparities(table: Table, items: list[Item]) -> dict[str, list[Row]]:
    """Measure accuracy in the main condition by group, for every grouping of a task's items.

    Returns:
        ``rows``, a group each: accuracy by text alone, with images, and what images gain, with
        intervals over objects. ``spreads``, a grouping each: the best and the worst group of at
        least ``FEWEST`` objects, the accuracy of the one less that of the other, its interval
        (of two independent groups, Zou and Donner 2008), and ``p``: how often groups that are dealt
        to objects at random lie as far apart. Since best and worst are chosen by looking, only
        ``p`` allows for that, not the interval.
    """
    text = Condition(0, table.main.mix, table.main.weights)
    subset = next(iter(table.masks))
    result: dict[str, list[Row]] = {"rows": [], "spreads": []}
    right = table.outcome.correct
    if table.main not in right or text not in right:
        return result
    for by, names in _groupings(table, items).items():
        owners = np.array(names)[table.owner]
        mask = table.masks[subset] & (owners != "")
        rows = []
        for name in sorted(set(owners[mask])):
            members = mask & (owners == name)
            clusters = Clusters(table.repeated(table.clusters[members]))
            inside = table.repeated(members)
            with_images, alone = right[table.main][inside], right[text][inside]
            row: Row = {
                "task": table.outcome.task.name,
                "by": by,
                "group": name,
                **vars(table.main),
            }
            row |= {"n": len(np.unique(table.owner[members])), "clusters": clusters.size}
            row |= clusters.estimate(with_images).named("acc")
            row |= clusters.estimate(alone).named("text_only")
            gain = clusters.estimate(with_images.astype(float) - alone, least=-1.0)
            rows.append(row | gain.named("gain"))
        result["rows"] += rows
        large = [row for row in rows if row["clusters"] >= FEWEST]
        if len(large) > 1:
            result["spreads"].append(_spread(table, large, owners, mask))
    return result


def _groupings(table: Table, items: list[Item]) -> dict[str, list[str]]:
    """Add to the items' groupings the one by ``COVERED``, where it tells items apart."""
    groupings = groups_by_name(items)
    inside = table.subsets.get("covered")
    if inside is not None and COVERED not in groupings and not inside.all() and inside.any():
        of_item = np.zeros(len(items), dtype=bool)
        of_item[table.owner] = inside
        groupings[COVERED] = np.where(of_item, "covered", "not covered").tolist()
    return groupings


def _spread(table: Table, rows: list[Row], owners: np.ndarray, mask: np.ndarray) -> Row:
    """Name the best and the worst of a grouping's groups, and how far apart they are."""
    best, worst = (choose(rows, key=lambda row: row["acc"]) for choose in (max, min))
    (best_low, best_high), (worst_low, worst_high) = best["acc_ci95"], worst["acc_ci95"]
    gap = best["acc"] - worst["acc"]
    below = np.hypot(best["acc"] - best_low, worst_high - worst["acc"])
    above = np.hypot(best_high - best["acc"], worst["acc"] - worst_low)
    large = mask & np.isin(owners, [row["group"] for row in rows])
    values = table.outcome.correct[table.main][table.repeated(large)]
    objects = table.repeated(table.clusters[large, 0])
    return {
        **{name: worst[name] for name in ("task", "by", "k", "mix", "weights")},
        "worst": worst["group"],
        "best": best["group"],
        "spread": gap,
        "ci95": [max(-1.0, float(gap - below)), min(1.0, float(gap + above))],
        "p": chance_of(gap, values, objects, table.repeated(owners[large])),
    }


def chance_of(gap: float, values: np.ndarray, objects: np.ndarray, groups: np.ndarray) -> float:
    """Return how often groups dealt to objects at random are as far apart, best from worst.

    Args:
        gap: difference of the greatest and the smallest mean of a group.
        values: of entries, (N,).
        objects: what each entry is about.
        groups: of each entry; an object is in the group of its first entry.
    """
    _, first, index = np.unique(objects, return_index=True, return_inverse=True)
    sums, counts = np.bincount(index, values.astype(float)), np.bincount(index)
    _, dealt = np.unique(groups[first], return_inverse=True)
    rng, as_far = np.random.default_rng(0), 0
    for _ in range(SHUFFLES):
        order = rng.permutation(dealt)
        means = np.bincount(order, sums) / np.bincount(order, counts)
        as_far += int(np.ptp(means) >= gap - 1e-12)
    return float((as_far + 1) / (SHUFFLES + 1))
