"""Audits by minimal pairs: how far apart the answers about two sides are, with images and without.

A pair asks the same about two sides ("a man in a hospital", "a woman in a hospital"). Nothing is
right; what counts is the total variation of the two distributions over the candidates, half the sum
of absolute differences: 0 where the sides are answered alike, 1 where they share nothing. Images
add their own scatter, so beside it stands that of one side's images: the first half of them against
the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import softmax

from vlmig.evaluation.metrics.bootstrap import Clusters
from vlmig.evaluation.metrics.outcome import Outcome
from vlmig.evaluation.metrics.rescoring import Rescorer
from vlmig.evaluation.run_folder import Row
from vlmig.evaluation.tasks.items import groups_by_name

LARGEST = 5
"""Pairs that are named, those whose sides images move farthest apart."""


def pair_rows(outcome: Outcome, rescorers: Sequence[Rescorer], k: int) -> list[Row]:
    """Return rows about all pairs, and about those of each group.

    Args:
        rescorers: of each seed; their items are the sides of pairs, two and two.
    """
    mix, weights = outcome.main
    text = np.mean([_apart(r, r.rescore(0, mix, weights)) for r in rescorers], 0)
    images = np.mean([_apart(r, r.rescore(k, mix, weights)) for r in rescorers], 0)
    within = None
    if k > 1:
        within = np.mean([_scatter(rescorer, k, mix, weights) for rescorer in rescorers], 0)
    names = [item.cluster for item in rescorers[0].items[::2]]
    rows = []
    for by, group, mask in _groups(rescorers[0]):
        clusters = Clusters(np.array(names)[mask])
        row: Row = {"task": outcome.task.name, "by": by, "group": group, "n": int(mask.sum())}
        row |= {"k": k, "mix": mix, "weights": weights}
        for name, values in (("text", text), ("images", images), ("within", within)):
            if values is not None:
                row |= clusters.estimate(values[mask]).named(name)
        change = clusters.estimate((images - text)[mask], least=-1.0)
        rows.append(row | change.named("change") | {"p": change.p})
    rows[0]["largest"] = list(_largest(rescorers[0], text, images, (k, mix, weights)))
    return rows


def _groups(rescorer: Rescorer) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield groupings and groups with the pairs that belong to them, bool (pairs,); all first."""
    firsts = rescorer.items[::2]
    yield "", "all", np.ones(len(firsts), dtype=bool)
    for by, names in groups_by_name(firsts).items():
        groups = np.array(names)
        for group in sorted(set(groups) - {""}):
            yield by, group, groups == group


def _by_pair(rescorer: Rescorer, values: np.ndarray) -> np.ndarray:
    """Average the values of questions (Q,) over wordings, then over both sides, (pairs,)."""
    means = np.bincount(rescorer.owner, values) / np.bincount(rescorer.owner)
    return means.reshape(-1, 2).mean(1)


def _apart(rescorer: Rescorer, values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the total variation of the two sides, mean over wordings, (pairs,)."""
    starts = np.searchsorted(rescorer.owner, np.arange(len(rescorer.items)))
    distances = []
    for question, item in enumerate(rescorer.owner):
        other = item + 1 - 2 * (item % 2)
        opposite = starts[other] + question - starts[item]
        distances.append(total_variation(values[question], values[opposite]))
    return _by_pair(rescorer, np.array(distances))


def _scatter(rescorer: Rescorer, k: int, mix: str, weights: str) -> np.ndarray:
    """Return the total variation between two halves of the same side's images, (pairs,)."""
    halves = range(k // 2), range(k // 2, k)
    first, second = (rescorer.rescore_images(half, mix, weights) for half in halves)
    distances = [total_variation(a, b) for a, b in zip(first, second, strict=True)]
    return _by_pair(rescorer, np.array(distances))


def total_variation(first: np.ndarray, second: np.ndarray) -> float:
    """Return half the sum of absolute differences of two distributions, from log-likelihoods."""
    return float(np.abs(softmax(first) - softmax(second)).sum() / 2)


def _largest(
    rescorer: Rescorer, text: np.ndarray, images: np.ndarray, main: tuple[int, str, str]
) -> Iterator[Row]:
    """Yield the pairs that images move farthest apart: both sides, and the candidate on whose share
    they differ most, in the first wording."""
    starts = np.searchsorted(rescorer.owner, np.arange(len(rescorer.items)))
    values = rescorer.rescore(*main)
    for pair in np.argsort(text - images, kind="stable")[:LARGEST]:
        one, two = rescorer.items[2 * pair], rescorer.items[2 * pair + 1]
        shares = [softmax(values[starts[2 * pair + side]]) for side in (0, 1)]
        most = int(np.abs(shares[0] - shares[1]).argmax())
        named = {"one": one.picture, "two": two.picture, "candidate": one.choices[most]}
        named |= {"shares": [float(shares[0][most]), float(shares[1][most])]}
        yield {**named, "text": float(text[pair]), "images": float(images[pair])}
