"""Conditions, and differences between them, paired by entry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmig.evaluation.metrics.bootstrap import Clusters, mcnemar
from vlmig.evaluation.metrics.rescoring import BASELINES, BY_CLIP
from vlmig.evaluation.run_folder import Row


@dataclass(frozen=True)
class Condition:
    """How answers were obtained."""

    k: int | str
    mix: str
    weights: str
    control: str = "none"


def compare(
    name: str,
    correct: dict[Condition, np.ndarray],
    main: Condition,
    clusters: np.ndarray,
    masks: dict[str, np.ndarray],
) -> list[Row]:
    """Compare the main condition with text alone, one image, controls and baselines, paired by
    entry.

    Args:
        clusters: of each entry; questions and seeds about one object belong together.
    """
    k, mix, weights = main.k, main.mix, main.weights
    against = {
        "text-only": Condition(0, mix, weights),
        "k=1": Condition(1, mix, weights),
        **{f"k={c.k}": c for c in correct if isinstance(c.k, str) and c.k != k},
        **{c: Condition(k, mix, weights, c) for c in ("shuffled", "blank")},
        **{c: Condition(0, mix, weights, c) for c in ("caption", "few-shot")},
        **{b: Condition(k, b, "uniform") for b in BASELINES},
    }
    rows: list[Row] = []
    whole = masks.get("all")
    for subset, mask in masks.items():
        if subset != "all" and whole is not None and mask.sum() == whole.sum():
            continue  # the same comparisons again would only weaken the others
        pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for label, other in against.items():
            if main in correct and other in correct and other != main:
                pairs[label] = (
                    correct[main][mask].astype(float),
                    correct[other][mask].astype(float),
                )
        gains = Clusters(clusters[mask]).estimates([a - b for a, b in pairs.values()], least=-1.0)
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
            rows.append(row)
    return rows


def mark_unread(rows: list[Row], words: list[str]) -> None:
    """Write the words that the image encoder never read into the comparisons with CLIP's
    baselines; nothing where there are none."""
    for row in rows:
        if words and row["b"] in BY_CLIP:
            row["unread"] = words
