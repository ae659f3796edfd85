"""What is measured of one item: a line of the journal, and the first fields of a line of
samples_*.jsonl."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np


class Shuffled(TypedDict):
    """The ``shuffled`` control: the images of M other objects, the donors.

    Earlier versions showed one: ``of`` is its name, there are no ``labels``, and the other lists
    lack the axis of donors.
    """

    of: list[str] | str
    labels: list[str]
    """What is right for each donor; where it is right for the item, too, its images may help."""
    per_image: list[Any]
    """Per question log p_i, (M, K, C)."""
    alignment: list[Any]
    """Per question, (M, K) or (M, K, C)."""


class Record(TypedDict, total=False):
    """One item's measurements; lists are per question, in the item's order. None stands for an
    unknown number."""

    pictures: list[list[str]]
    """Of each set of images, their keys in the store."""
    prompts: list[str]
    alignment: list[Any]
    """CLIP similarities, (K,), or (K, C) where each candidate has its own images."""
    text_only: list[list[float]]
    """log p_0 of the candidates, (C,)."""
    per_image: list[list[list[float]]]
    """log p_i, (K, C)."""
    blank: list[list[float]]
    """log p_blank, (C,)."""
    generic: list[list[list[float]]]
    """log p beside each of the checkpoint's generic images, (M, C), where ``contrast`` needs it."""
    clip: list[list[float]] | None
    """Of the item: similarity of each image and a statement of each candidate, (K, C)."""
    shuffled: Shuffled
    tokens: list[Any]
    """Candidates' first sub-tokens where only those are scored; with ``loss``, the number of tokens
    of each text."""
    caption: list[list[float]]
    few_shot: list[list[float]]
    content_free: list[list[float]]
    """log p_0 under these controls, (C,)."""
    loss: dict[str, list[float]]
    """By k, the loss of each text in nats."""
    given: dict[str, list[float]]
    """By name, the loss of each text beside one given image: the item's ``own``, another item's
    (``shuffled``), the ``blank`` one."""
    outputs: dict[str, list[str]]
    """By k, the generated answer to each question."""
    why: dict[str, Any]
    """Where asked for, what in the images moved the answers, see ``vlmig.evaluation.why``; in the
    journal an entry of its own."""


def listed(values: Any) -> Any:
    """Return nested lists of numbers, rounded so that JSON keeps them exactly; NaN becomes None."""
    array = np.asarray(values, dtype=float)
    if array.ndim == 0:
        return None if np.isnan(array) else round(float(array), 6)
    return [listed(row) for row in array]
