"""Controls: another object's images, images described in words, and a question without content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vlmig.evaluation.tasks.items import Item

CONTENT_FREE = "N/A"
"""Replaces the object of a question in contextual calibration (Zhao et al. 2021)."""


def others(items: Sequence[Item]) -> dict[str, Item]:
    """Choose for every object another one, whose images the control ``shuffled`` shows in all its
    items.

    Returns:
        By object, the other one's first item; empty where all items are about one object.
    """
    first = {item.cluster: item for item in reversed(items)}
    objects = sorted(first)
    if len(objects) < 2:
        return {}
    order = np.random.default_rng(0).permutation(len(objects))
    return {objects[order[i]]: first[objects[order[i - 1]]] for i in range(len(objects))}


def captioned(item: Item) -> Item:
    """Describe the images in words, for the control ``caption``, which shows none."""
    caption = f"A picture of {item.picture}. "
    return _with_contexts(item, lambda context: caption + context)


def content_free(item: Item) -> Item:
    """Ask the same questions about nothing in particular."""
    names = {item.picture, item.cluster, *item.cluster.split(" / ")}
    longest_first = sorted(names, key=len, reverse=True)

    def emptied(context: str) -> str:
        for name in longest_first:
            start = context.lower().find(name.lower())
            if start >= 0:
                return context[:start] + CONTENT_FREE + context[start + len(name) :]
        return CONTENT_FREE

    return _with_contexts(item, emptied)


def _with_contexts(item: Item, change: Callable[[str], str]) -> Item:
    questions = []
    for question in item.questions:
        contexts = tuple(change(context) for context in question.contexts)
        questions.append(replace(question, contexts=contexts))
    return replace(item, questions=tuple(questions))
