"""Accuracy, or another measure, by the number of images: over any of those that were imagined, not
the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb

import numpy as np

from vlmig.evaluation.metrics.rescoring import Rescorer

SUBSETS = 24
"""Subsets of a size, drawn with a seed where there are more."""
EVERY = 10
"""Up to so many images each number is measured; above it, those that were asked for."""


def sizes(most: int, ks: Sequence[int]) -> list[int]:
    """List the numbers of images to measure out of ``most``."""
    return list(range(1, most + 1)) if most <= EVERY else sorted({1, most, *ks} - {0})


def subsets(most: int, size: int) -> list[tuple[int, ...]]:
    """List subsets of a size out of ``most`` images, by their indices.

    All of them, or ``SUBSETS`` different ones drawn with a fixed seed.
    """
    if comb(most, size) <= SUBSETS:
        return list(combinations(range(most), size))
    random = np.random.default_rng(size)
    drawn: dict[tuple[int, ...], None] = {}
    while len(drawn) < SUBSETS:
        drawn[tuple(sorted(random.permutation(most)[:size].tolist()))] = None
    return list(drawn)


def over_subsets(
    rescorers: Sequence[Rescorer],
    size: int,
    most: int,
    rule: tuple[str, str],
    measure: Callable[[Rescorer, list[np.ndarray]], np.ndarray] = Rescorer.correct,
) -> np.ndarray:
    """Average a measure of each entry over subsets of its images, (seeds * entries,): the share of
    them by which it is right.

    Images are exchangeable, each with a seed of its own, so that this estimates the accuracy with
    ``size`` images, of which the first ``size`` are one draw.

    Args:
        rescorers: of each seed.
        most: images of which subsets are taken, the first ones.
        rule: mixing rule and weights.
        measure: of each entry, from the log-likelihoods of each question's candidates.
    """
    averages = []
    for rescorer in rescorers:
        values = []
        for indices in subsets(most, size):
            values.append(measure(rescorer, rescorer.rescore_images(indices, *rule)))
        averages.append(np.mean(values, axis=0))
    return np.concatenate(averages)
