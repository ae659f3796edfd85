"""Intervals, differences, power and calibration for accuracies whose entries share objects: whole
clusters are resampled, and of pairs of objects, the objects that they share are what varies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
PSEUDO = 3.0
"""Clusters without spread inside that stand beside those measured, see ``share_interval``."""
POWER = 0.8
RESAMPLES = 4000
BLOCK = 2_000_000
"""Numbers drawn at a time, of 24 bytes each."""
KEPT = 20_000_000
"""Numbers of two bytes that are kept for the next estimate; where there would be more they are
drawn again."""
CANNOT_NAME = "cannot name the candidates"
"""In place of a verdict against a baseline of CLIP's."""
BINS = 10
"""Of confidence, equally wide."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval over clusters."""

    mean: float
    stderr: float
    low: float
    high: float
    p: float
    """Two-sided p-value of the mean being zero; under 0.05 just where the interval leaves zero
    out."""

    def named(self, name: str) -> dict[str, Any]:
        """Return the fields of a row that hold the mean and its interval."""
        return {name: self.mean, f"{name}_ci95": [self.low, self.high]}


class Clusters:
    """The entries' clusters, and what drawing whole clusters with replacement makes of any values
    of the entries.

    Entries about two objects each make clusters of pairs, which are not independent either: those
    that share an object vary together. Their intervals are Student's, by the variance of Aronow,
    Samii and Assenova (2015), see ``_spread_of_pairs``.

    Args:
        names: the cluster of each entry, (N,); an object's entries belong together. Or the objects
            of each entry, (N, 1), or of each entry about a pair, (N, 2).
    """

    def __init__(self, names: Sequence[Any] | np.ndarray, seed: int = 0) -> None:
        self.objects, index = numbered(names)
        pairs, inverse = np.unique(index, axis=0, return_inverse=True)
        self.index = inverse.ravel()
        """Of each entry, the number of its object, or its pair, (N,)."""
        self.pairs = pairs
        """The objects of each cluster: one, (n, 1), or two, (n, 2)."""
        self.counts, self.seed = np.bincount(self.index), seed
        self.size = min(self.objects, len(pairs))
        """Independent clusters, at most."""
        self._cached: list[np.ndarray] = []

    def estimate(self, values: Sequence[float] | np.ndarray, least: float = 0.0) -> Estimate:
        """Estimate a mean in [0, 1]; with ``least`` -1 a mean difference.

        A mean's interval is that of ``share_interval``, a difference's comes from the bootstrap.
        Percentiles of a bootstrap over n clusters are too narrow by about sqrt(1 - 1/n) and the
        normal's tails; they are widened to those of Student's t (Hesterberg 2015, "expanded
        percentile"). Where all clusters agree, a bootstrap sees no spread: then the interval
        reaches as far as a deviating cluster could hide, 1 - 0.025^(1/n).
        """
        return self.estimates([values], least)[0]

    def estimates(
        self, many: Sequence[Sequence[float] | np.ndarray], least: float = 0.0
    ) -> list[Estimate]:
        """Estimate several means from the same draws, each as if alone; drawing is what takes
        time."""
        arrays = [np.asarray(values, dtype=float) for values in many]
        sums = [np.bincount(self.index, array) for array in arrays]
        if self.pairs.shape[1] == 2:
            return [self._of_pairs(totals, least) for totals in sums]
        spread = [bool(np.ptp(totals / self.counts) >= 1e-12) for totals in sums]
        drawn = iter(self._means(list(compress(sums, spread))))
        n = len(self.counts)
        results = []
        for array, totals, differs in zip(arrays, sums, spread, strict=True):
            mean = float(array.mean())
            estimate = _expanded(mean, next(drawn), n) if differs else _agreed(mean, n, least)
            # Gains of either sign are alike if nothing is found: m of them have 2^m signs, so no p
            # is smaller than that of all on one side.
            one_sided = 2.0 ** (1 - np.count_nonzero(np.abs(totals) > 1e-9))
            estimate = replace(estimate, p=min(1.0, max(estimate.p, one_sided)))
            if least == 0:
                low, high = share_interval(totals, self.counts)
                estimate = replace(estimate, low=low, high=high)
            results.append(estimate)
        return results

    def _of_pairs(self, sums: np.ndarray, least: float) -> Estimate:
        """Estimate a mean of entries about two objects each, from the sums of each pair, (n,)."""
        halves = [self._halved(row) for row in (sums, self.counts)]
        mean, n = float(sums.sum() / self.counts.sum()), self.size
        spread = self._spread_of_pairs(sums - mean * self.counts)
        if spread < 1e-12 or n < 2:
            estimate = _agreed(mean, n, least)
        else:
            stderr = float(np.sqrt(spread) / self.counts.sum())
            reach = stats.t.ppf(0.5 + LEVEL / 2, n - 1) * stderr
            p = 2 * float(stats.t.sf(abs(mean) / stderr, n - 1))
            estimate = Estimate(mean, stderr, max(mean - reach, -1.0), min(mean + reach, 1.0), p)
        differing = min(np.count_nonzero(np.abs(row) > 1e-9) for row in (sums, halves[0]))
        estimate = replace(estimate, p=min(1.0, max(estimate.p, 2.0 ** (1 - differing))))
        if least == 0:
            low, high = share_interval(halves[0], halves[1], spread)
            estimate = replace(estimate, low=low, high=high)
        return estimate

    def _halved(self, values: np.ndarray) -> np.ndarray:
        """Give each object half of what its pairs have: (n,) to (objects,)."""
        return np.bincount(self.pairs.ravel(), np.repeat(values / 2, 2), self.objects)

    def _spread_of_pairs(self, deviations: np.ndarray) -> float:
        """Return the variance of the sum of deviations from the mean, (n,), as pairs that share an
        object vary together: the sum of products of all such pairs, of a pair with itself too.

        It may come out too small by chance, so it is at least that of independent pairs. Of n
        objects two are taken off: the mean is fitted, and each pair has two.
        """
        alone = float(np.square(deviations).sum())
        shared = 4 * float(np.square(self._halved(deviations)).sum()) - alone
        return max(alone, shared) * self.size / max(self.size - 2, 1)

    def _means(self, sums: list[np.ndarray]) -> np.ndarray:
        """Return every draw's mean of each kind of values, (kinds, RESAMPLES)."""
        if not sums:
            return np.empty((0, RESAMPLES))
        columns = np.stack([*sums, self.counts], 1)
        totals = np.concatenate([weights.astype(float) @ columns for weights in self._draws()]).T
        return totals[:-1] / totals[-1]

    def _draws(self) -> Iterator[np.ndarray]:
        """Yield how often each draw holds each cluster, (block, n); kept for the next estimate
        where that is small."""
        if self._cached:
            yield from self._cached
            return
        generator, n = np.random.default_rng(self.seed), len(self.counts)
        block = max(1, min(RESAMPLES, BLOCK // n))
        for start in range(0, RESAMPLES, block):
            drawn = generator.integers(0, n, (min(block, RESAMPLES - start), n))
            drawn += n * np.arange(len(drawn))[:, None]
            weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
            if RESAMPLES * n <= KEPT:
                # No cluster is drawn more often than there are clusters: two bytes are enough.
                self._cached.append(weights.astype(np.uint16))
            yield weights


def numbered(names: Sequence[Any] | np.ndarray) -> tuple[int, np.ndarray]:
    """Count the objects, and number those of each entry in rising order, (N, 1) or (N, 2)."""
    every = np.asarray(names)
    every = every[:, None] if every.ndim == 1 else every
    objects, index = np.unique(every, return_inverse=True)
    return len(objects), np.sort(index.reshape(every.shape), axis=1)


def share_interval(
    sums: np.ndarray, counts: np.ndarray, spread: float | None = None
) -> tuple[float, float]:
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
        spread: the variance of the sum of all entries; that between independent clusters when None.
    """
    n = len(counts)
    if n < 2:
        return 0.0, 1.0
    total, squares = counts.sum(), np.square(counts, dtype=float).sum()
    mean = min(max(float(sums.sum() / total), 0.0), 1.0)
    clusters = total**2 / squares  # n where all have equally many entries
    pulled = (mean * clusters + PSEUDO) / (clusters + 2 * PSEUDO)
    beside = PSEUDO * squares / n * pulled * (1 - pulled)
    if spread is None:
        spread = np.square(sums - mean * counts).sum() * n / (n - 1)
    rho = min(1.0, float((spread + beside) / (squares * mean * (1 - mean) + beside)))
    return _wilson(mean, clusters / rho)


def _wilson(mean: float, n: float) -> tuple[float, float]:
    """Return Wilson's interval of a share among n independent entries."""
    z = stats.norm.ppf(0.5 + LEVEL / 2)
    center = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    return max(0.0, float(center - half)), min(1.0, float(center + half))


def _agreed(mean: float, n: int, least: float) -> Estimate:
    """Estimate a mean of n clusters that all have it."""
    hidden = 1 - (0.5 - LEVEL / 2) ** (1 / n)
    low, high = max(mean - hidden, least), min(1.0, mean + hidden)
    return Estimate(mean, 0.0, low, high, 0.0)


def _expanded(mean: float, means: np.ndarray, n: int) -> Estimate:
    """Estimate a mean of n clusters from the means of their draws, (RESAMPLES,)."""
    tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.5 - LEVEL / 2, n - 1))
    low, high = np.quantile(means, [tail, 1 - tail])
    beyond = (min((means <= 0).sum(), (means >= 0).sum()) + 1) / (RESAMPLES + 2)
    p = 2 * stats.t.cdf(stats.norm.ppf(min(beyond, 0.5)) * np.sqrt((n - 1) / n), n - 1)
    stderr = float(means.std(ddof=1))
    if beyond * (RESAMPLES + 2) < 1.5:
        # Zero lies beyond all draws, where only the normal's shape says how far.
        p = min(p, 2 * stats.t.cdf(-abs(mean) / stderr, n - 1))
    return Estimate(mean, stderr, float(low), float(high), float(min(1.0, p)))


def mcnemar(a: np.ndarray, b: np.ndarray, clusters: Sequence[Any] | np.ndarray) -> float:
    """Return the p-value of the exact McNemar test over clusters.

    A cluster speaks for the side that has more of its entries right; with one entry per cluster
    this is McNemar's test itself. Entries about two objects count for both, (N, 2).
    """
    count, index = numbered(clusters)
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    each = np.repeat(differences, index.shape[1])
    gains = np.bincount(index.ravel(), each, count)
    wins, losses = int((gains > 1e-9).sum()), int((gains < -1e-9).sum())
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of one table so that the chance of any false "better" or "worse" stays
    at the level (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return adjusted.tolist()


def verdict(delta: float, p: float) -> str:
    """Say in words whether a difference is one: better, worse or tied.

    Args:
        p: adjusted for the number of comparisons in the table.
    """
    if p >= 1 - LEVEL:
        return "tied"
    return "better" if delta > 0 else "worse"


def detectable(stderr: float, clusters: int, comparisons: int = 1) -> float:
    """Return the smallest true mean difference that is called "better" or "worse" with 80 % power.

    It is (t_(1 - a/2) + t_0.8) standard errors, Student's t with a degree of freedom less than
    there are clusters, and a = 0.05 / comparisons: what Holm's correction asks of the smallest p,
    which is its worst case and Bonferroni's level.

    Args:
        stderr: of the mean of paired differences. Where all clusters agree it is 0 and says
            nothing: it counts as at least that of one cluster in n which differs by 1.
        clusters: independent ones, n.
        comparisons: of the run, which are corrected together.
    """
    if clusters < 2:
        return 1.0
    least = np.sqrt(1 - 1 / clusters) / clusters
    level = (1 - LEVEL) / max(comparisons, 1)
    quantiles = stats.t.ppf([1 - level / 2, POWER], clusters - 1)
    return float(min(1.0, quantiles.sum() * max(stderr, least)))


def balanced_accuracy(correct: np.ndarray, labels: Sequence[str] | np.ndarray) -> float:
    """Average the accuracy within each true class, so that a frequent class cannot carry the
    score."""
    _, index, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    return float(np.mean(np.bincount(index, correct) / counts))


def majority(labels: Sequence[str] | np.ndarray, kinds: np.ndarray | None = None) -> float:
    """Return the accuracy of always giving the most frequent label, of each kind of question.

    Args:
        kinds: the kind of each question, (n,); one kind when None.
    """
    every = np.asarray(labels)
    kinds = np.zeros(len(every)) if kinds is None else kinds
    right = 0
    for kind in np.unique(kinds):
        right += np.unique(every[kinds == kind], return_counts=True)[1].max()
    return float(right / len(every))


def reliability(confidence: np.ndarray, correct: np.ndarray) -> tuple[float, list[dict[str, Any]]]:
    """Return the expected calibration error (Guo et al. 2017) and, for each bin of confidence, how
    often it was right."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    rows = []
    for number in np.unique(bins):
        here = bins == number
        rows.append(
            {
                "confidence": float(confidence[here].mean()),
                "acc": float(correct[here].mean()),
                "n": int(here.sum()),
            }
        )
    error = sum(row["n"] * abs(row["confidence"] - row["acc"]) for row in rows) / len(confidence)
    return float(error), rows
