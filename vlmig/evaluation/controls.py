"""Controls: other objects' images, images described in words, and a question without content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from vlmig.evaluation.tasks.items import Item
from vlmig.imagination.visuals import Visuals

CONTENT_FREE = "N/A"
"""Replaces the object of a question in contextual calibration (Zhao et al. 2021)."""


DONORS = 5
"""Objects whose images the control ``shuffled`` shows in an item's place.

One permutation is a single draw. The mean of five scatters less than the objects themselves leave
open; beside stored features it about doubles the time of scoring.
"""


def donors(items: Sequence[Item], seed: int, count: int = DONORS) -> dict[str, list[Item]]:
    """Choose for every object others, whose images the control ``shuffled`` shows in all its items.

    The objects stand in ``count`` rings, each in the order of a hash of seed, ring and name. In
    each ring the donor is the next one that is none yet. So every object gives about as often as it
    takes, and another object in the file changes few donors. Of pairs of things, the donor shares
    none with the pair, if there is such a one.

    Args:
        seed: of the run's images.

    Returns:
        By object, the others' first items: ``count``, or all others where there are fewer.
    """
    first = {item.cluster: item for item in reversed(items)}
    chosen: dict[str, list[Item]] = {}
    for ring in range(min(count, len(first) - 1)):
        order = sorted(first, key=lambda name: _order_key(seed, ring, name))
        for i, name in enumerate(order):
            others = (first[other] for other in order[i + 1 :] + order[:i])
            taken = chosen.setdefault(name, [])
            taken.append(_donor(first[name], others, taken))
    return chosen


def _donor(item: Item, others: Iterable[Item], taken: Sequence[Item]) -> Item:
    """Return the first of the others that is not taken, if it can be one that shares no thing with
    the item."""
    free: list[Item] = []
    for other in others:
        if other not in taken:
            free.append(other)
            if set(item.things).isdisjoint(other.things):
                return other
    return free[0]


def _order_key(seed: int, ring: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {ring} {name}".encode()).digest()


def captioned(item: Item) -> Item:
    """Describe the images in words, for the control ``caption``, which shows none."""
    caption = f"A picture of {item.picture}. "
    return _with_contexts(item, lambda context: caption + context)


def content_free(item: Item) -> Item:
    """Ask the same questions about nothing in particular.

    Whatever names the item's subject is replaced, as whole words and wherever it stands, longest
    names first; a question that does not name it becomes ``CONTENT_FREE`` alone.
    """
    named = {item.picture, item.cluster, *item.cluster.split(" / "), *item.things}
    names = sorted(named, key=len, reverse=True)
    spelled = "|".join(re.escape(name) for name in names if name.strip())
    subject = re.compile(rf"(?<!\w)(?:{spelled})(?:e?s)?(?!\w)", re.IGNORECASE)

    def emptied(context: str) -> str:
        text, count = subject.subn(CONTENT_FREE, context)
        return text if count else CONTENT_FREE

    return _with_contexts(item, emptied)


def _with_contexts(item: Item, change: Callable[[str], str]) -> Item:
    questions = []
    for question in item.questions:
        contexts = tuple(change(context) for context in question.contexts)
        questions.append(replace(question, contexts=contexts))
    return replace(item, questions=tuple(questions))


def with_donors(sets: list[Visuals], others: list[list[Visuals]]) -> list[Visuals]:
    """Append other objects' images to an item's, so that the LM reads each text once for all."""
    joined = []
    for i in range(len(sets)):
        every = [sets[i], *(other[i % len(other)] for other in others)]
        features = torch.cat([images.features for images in every])
        alignment = torch.cat([images.alignment for images in every])
        prompts, items, keys = [], [], []
        for images in every:
            prompts += images.prompts
            items += images.items
            keys += images.keys
        joined.append(Visuals(prompts, features, alignment, items, keys))
    return joined
