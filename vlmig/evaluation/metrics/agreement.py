"""How far a distribution over candidates agrees with another one, as CoDa measures it (Paik et al.
2021): divergence of shares, and correlation of ranks."""

from __future__ import annotations

import numpy as np
from scipy.special import rel_entr
from scipy.stats import rankdata


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergence of distributions, in nats: 0 where they are equal, and
    ln 2 where they share no candidate.

    Args:
        p, q: shares of C candidates, (..., C); they broadcast.
    """
    mean = (p + q) / 2
    return (rel_entr(p, mean) + rel_entr(q, mean)).sum(-1) / 2


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Kendall's rank correlation, tau-b, of the last axis; 0 where one side is all alike."""
    first, second = np.triu_indices(a.shape[-1], 1)
    signs = [np.sign(x[..., first] - x[..., second]) for x in (a, b)]
    return _correlation(*signs)


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of the last axis; 0 where one side is all alike."""
    ranks = [rankdata(x, axis=-1) for x in (a, b)]
    return _correlation(*(rank - rank.mean(-1, keepdims=True) for rank in ranks))


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    size = np.sqrt(np.square(a).sum(-1) * np.square(b).sum(-1))
    return (a * b).sum(-1) / np.where(size > 0, size, 1)
