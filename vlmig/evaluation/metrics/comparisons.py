"""Conditions, and differences between them, paired by entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmig.evaluation.metrics.bootstrap import (
    CANNOT_NAME,
    Clusters,
    detectable,
    holm,
    mcnemar,
    verdict,
)
from vlmig.evaluation.metrics.rescoring import BASELINES, BY_CLIP
from vlmig.evaluation.run_folder import Row

DIVERGENCE, LOSS = "jsd", "loss"
"""The metrics of comparisons in which less is better."""


@dataclass(frozen=True)
class Condition:
    """How answers were obtained."""

    k: int | str
    mix: str
    weights: str
    control: str = "none"


def contrasts(main: Condition) -> dict[str, Condition]:
    """Name what a main condition is compared with."""
    k, mix, weights = main.k, main.mix, main.weights
    against = {"text-only": Condition(0, mix, weights), "k=1": Condition(1, mix, weights)}
    for control, count in (("shuffled", k), ("blank", k), ("caption", 0), ("few-shot", 0)):
        against[control] = Condition(count, mix, weights, control)
    for baseline in BASELINES:
        against[baseline] = Condition(k, baseline, "uniform")
    return against


def compare(
    name: str,
    correct: dict[Condition, np.ndarray],
    main: Condition,
    clusters: np.ndarray,
    masks: dict[str, np.ndarray],
    single: np.ndarray | None = None,
) -> list[Row]:
    """Compare the main condition with text alone, one image, controls and baselines, paired by
    entry.

    Args:
        correct: of each condition, whether each entry is right.
        clusters: of each entry, the object or the two objects that it is about, (N, 1) or (N, 2).
        single: share of the main condition's images by which each entry is right, each image used
            by itself; ``k=1`` is then all of them, not the first.
    """
    against, k = contrasts(main), main.k
    for condition in correct:
        if isinstance(condition.k, str) and condition.k != k:
            against[f"k={condition.k}"] = condition
    values = {condition: right.astype(float) for condition, right in correct.items()}
    if single is not None and against["k=1"] in values:
        values[against["k=1"]] = single
    rows: list[Row] = []
    whole = masks.get("all")
    for subset, mask in masks.items():
        if subset != "all" and whole is not None and mask.sum() == whole.sum():
            continue  # the same comparisons again would only weaken the others
        pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for label, other in against.items():
            if main in values and other in values and other != main:
                pairs[label] = values[main][mask], values[other][mask]
        drawn = Clusters(clusters[mask])
        gains = drawn.estimates([a - b for a, b in pairs.values()], least=-1.0)
        for label, gain in zip(pairs, gains, strict=True):
            p = mcnemar(*pairs[label], clusters[mask])
            row: Row = {
                "task": name,
                "subset": subset,
                "a": f"k={k}",
                "b": label,
                "delta": gain.mean,
            }
            row |= {"ci95": [gain.low, gain.high], "p": gain.p, "mcnemar_p": p}
            rows.append(row | {"stderr": gain.stderr, "clusters": drawn.size})
    return rows


def judge(rows: Sequence[Row]) -> None:
    """Add to the comparisons of one table what they found, and what they could have found, with
    Holm's correction for their number.

    Where the image encoder never read the candidates' words (``unread``), a difference says
    nothing: the row has ``CANNOT_NAME`` in place of a verdict, and does not weaken the others.
    """
    fair = [row for row in rows if not row.get("unread")]
    for row, p in zip(fair, holm([row["p"] for row in fair]), strict=True):
        least = detectable(row["stderr"], row["clusters"], len(fair))
        gain = -row["delta"] if row.get("metric") in (DIVERGENCE, LOSS) else row["delta"]
        row |= {"p_holm": p, "verdict": verdict(gain, p), "detectable": least}
    for row in rows:
        if row.get("unread"):
            row |= {"p_holm": None, "verdict": CANNOT_NAME, "detectable": None}


def mark_unread(rows: list[Row], words: list[str]) -> None:
    """Write the words that the image encoder never read into the comparisons with CLIP's
    baselines; nothing where there are none."""
    for row in rows:
        if words and row["b"] in BY_CLIP:
            row["unread"] = words
