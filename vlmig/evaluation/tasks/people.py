"""What several people say of one thing: shares of the candidates, and how far they agree (CoDa,
Paik et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlmig.errors import VLMIGError
from vlmig.evaluation.metrics.agreement import divergence, kendall
from vlmig.evaluation.tasks.items import Item

GROUPS = ("single", "multi", "any")
"""Of things, by how far people agree: on a single candidate, on multiple ones, on any."""
STEPS = 100
"""At most so many of k-means; CoDa's 521 objects need eight."""
DIGITS = 6
"""Of shares: equal ones are equal however they were summed."""


def shares(said: Any, choices: Sequence[str], location: str) -> tuple[float, ...]:
    """Return the share of people that says each candidate, every person counting alike.

    As published, people whose ranking contradicts the mean of all (Kendall's tau below 0) are left
    out, one after another.

    Args:
        said: how often each candidate was said, or a list of that for each person; a candidate that
            is not named was not said.
        location: where the row comes from, for the error.

    Raises:
        VLMIGError: no such counts.
    """
    people = [said] if isinstance(said, Mapping) else said
    try:
        counts = []
        for person in people:
            counts.append([float(person.get(choice, 0)) for choice in choices])
        rows = np.array(counts).reshape(len(counts), len(choices))
    except (TypeError, ValueError, AttributeError):
        rows = np.array([[np.nan]])
    if not (len(rows) and (rows >= 0).all() and np.isfinite(rows).all() and rows.sum(1).all()):
        raise VLMIGError(
            f"{location} does not say how often people named its candidates; expected numbers from "
            f"0 on, some above 0, for some of {', '.join(choices)}; correct the row"
        )
    rows /= rows.sum(1, keepdims=True)
    while True:
        mean = rows.mean(0).round(DIGITS)
        agreement = kendall(rows, mean)
        if agreement.min() >= 0:
            return tuple(mean.tolist())
        rows = np.delete(rows, agreement.argmin(), 0)


def groups(items: Sequence[Item]) -> list[Item]:
    """Say of each item how far people agree on it.

    Three groups by k-means over the shares in falling order, whichever candidates they are of, with
    the Jensen-Shannon distance, as published; it begins with the items of the greatest, the middle
    and the smallest share of a candidate.
    """
    falling = -np.sort(-np.array([item.distribution for item in items]), axis=1)
    order = np.argsort(-falling[:, 0], kind="stable")
    centers = falling[order[[0, len(order) // 2, -1]]]
    nearest = np.zeros(len(items), dtype=int)
    for _ in range(STEPS):
        nearest = divergence(falling[:, None], centers).argmin(1)
        moved = centers.copy()
        for i in np.unique(nearest):
            moved[i] = falling[nearest == i].mean(0)
        if np.array_equal(moved, centers):
            break
        centers = moved
    return [replace(item, group=GROUPS[i]) for item, i in zip(items, nearest, strict=True)]
