"""Controls: another item's pictures, pictures told in words, and a prompt without content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlmig.evaluation.tasks.items import Item

CONTENT_FREE = "N/A"
"""Stands for the thing asked about in contextual calibration (Zhao et al. 2021)."""


def others(items: Sequence[Item]) -> dict[str, Item]:
    """Give every object another object, whose pictures the shuffled control shows, the same for all its items.

    Empty where all items are about one object.
    """
    first = {item.cluster: item for item in reversed(items)}
    objects = sorted(first)
    if len(objects) < 2:
        return {}
    order = np.random.default_rng(0).permutation(len(objects))
    return {objects[order[i]]: first[objects[order[i - 1]]] for i in range(len(objects))}


def captioned(item: Item) -> Item:
    """Say in words what the pictures show, for the control without pictures."""
    caption = f"A picture of {item.picture}. "
    return replace(
        item,
        questions=tuple(
            replace(q, contexts=tuple(caption + c for c in q.contexts)) for q in item.questions
        ),
    )


def content_free(item: Item) -> Item:
    """Ask about nothing in particular, in the same wordings."""

    def emptied(context: str) -> str:
        for name in sorted(
            {item.picture, item.cluster, *item.cluster.split(" / ")}, key=len, reverse=True
        ):
            start = context.lower().find(name.lower())
            if start >= 0:
                return context[:start] + CONTENT_FREE + context[start + len(name) :]
        return CONTENT_FREE

    questions = (replace(q, contexts=tuple(emptied(c) for c in q.contexts)) for q in item.questions)
    return replace(item, questions=tuple(questions))
