"""Conditions, and differences between them, paired by entry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmig.evaluation.metrics.bootstrap import Clusters, mcnemar
from vlmig.evaluation.metrics.rescoring import BASELINES
from vlmig.evaluation.run_folder import Row


@dataclass(frozen=True)
class Condition:
    """What was done to get an answer."""

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
    """Compare the main setting with text alone, one picture, controls and baselines, paired by entry; verdicts come later.

    Args:
        clusters: of each entry; templates and seeds of one object belong together.
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
    rows = []
    whole = masks.get("all")
    for subset, mask in masks.items():
        if subset != "all" and whole is not None and mask.sum() == whole.sum():
            continue  # the same comparisons again, which would only weaken the others
        own = Clusters(clusters[mask])
        there = {
            label: other
            for label, other in against.items()
            if {other, main} <= correct.keys() and other != main
        }
        pairs = {
            label: [correct[one][mask].astype(float) for one in (main, other)]
            for label, other in there.items()
        }
        gains = own.estimates([a - b for a, b in pairs.values()], least=-1.0)
        for (label, (a, b)), gain in zip(pairs.items(), gains, strict=True):
            row: Row = {
                "task": name,
                "subset": subset,
                "a": f"k={k}",
                "b": label,
                "delta": gain.mean,
            }
            row |= {
                "ci95": [gain.low, gain.high],
                "p": gain.p,
                "mcnemar_p": mcnemar(a, b, clusters[mask]),
            }
            rows.append(row)
    return rows
