"""An interval for an accuracy whose entries share objects, which holds near 0 % and 100 % too."""

from __future__ import annotations

import numpy as np
from scipy import stats

LEVEL = 0.95
PSEUDO = 3.0
"""Clusters without spread inside that stand beside those measured, see ``share_interval``."""


def share_interval(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a mean of entries in [0, 1], whole clusters being the sample.

    It is Wilson's interval (1927) for as many independent entries as say what the clusters say:
    n / rho, where rho is the spread between n clusters, as a share of what it would be if each were
    all right or all wrong (Korn and Graubard 1998; Dean and Pagano 2015 compare such intervals).
    With few successes the measured spread is mostly too small, so it is averaged with that of three
    clusters of rho = 1, whose accuracy is pulled towards one half. One entry per cluster gives
    Wilson's interval itself, up to n / (n - 1). ``python -m eval.coverage`` simulates it.

    Args:
        sums: of each cluster's entries, (n,).
        counts: of each cluster's entries, (n,).
    """
    n = len(counts)
    if n < 2:
        return 0.0, 1.0
    total, squares = counts.sum(), np.square(counts, dtype=float).sum()
    mean = min(max(float(sums.sum() / total), 0.0), 1.0)
    clusters = total**2 / squares  # n where all have equally many entries
    pulled = (mean * clusters + PSEUDO) / (clusters + 2 * PSEUDO)
    beside = PSEUDO * squares / n * pulled * (1 - pulled)
    spread = np.square(sums - mean * counts).sum() * n / (n - 1)
    rho = min(1.0, float((spread + beside) / (squares * mean * (1 - mean) + beside)))
    return _wilson(mean, clusters / rho)


def _wilson(mean: float, n: float) -> tuple[float, float]:
    """Return Wilson's interval of a share among n independent entries."""
    z = stats.norm.ppf(0.5 + LEVEL / 2)
    center = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    return max(0.0, float(center - half)), min(1.0, float(center + half))
