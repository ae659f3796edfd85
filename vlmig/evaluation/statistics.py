"""Intervals and differences for accuracies whose items share objects: everything resamples whole clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000


@dataclass(frozen=True)
class Estimate:
    """A mean with its clustered bootstrap interval."""

    mean: float
    stderr: float
    low: float
    high: float
    p: float
    """Two-sided bootstrap p-value of the mean being zero."""


def clustered(values: Sequence[float] | np.ndarray, clusters: Sequence[str], seed: int = 0) -> Estimate:
    """Estimate a mean; the bootstrap draws clusters, since templates and questions of one object belong together."""
    array = np.asarray(values, dtype=float)
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums, counts = np.bincount(index, array), np.bincount(index)
    draws = np.random.default_rng(seed).integers(0, len(names), (RESAMPLES, len(names)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    p = min(1.0, 2 * (min((means <= 0).sum(), (means >= 0).sum()) + 1) / (RESAMPLES + 1))
    return Estimate(float(array.mean()), float(means.std(ddof=1)), float(low), float(high), float(p))


def verdict(difference: Estimate) -> str:
    """Say in words whether a difference is one: better, worse or tied."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "tied"


def balanced_accuracy(correct: np.ndarray, labels: Sequence[str]) -> float:
    """Average the accuracy within each true class, so that a frequent class cannot carry the score."""
    classes = np.asarray(labels)
    return float(np.mean([correct[classes == c].mean() for c in np.unique(classes)]))


def majority(labels: Sequence[str]) -> float:
    """Return the accuracy of always giving the most frequent label."""
    return float(np.unique(np.asarray(labels), return_counts=True)[1].max() / len(labels))
