"""How far a task's predicted distributions agree with what people say, by k, rule and control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from vlmig.evaluation.metrics.agreement import divergence, kendall, spearman
from vlmig.evaluation.metrics.bootstrap import Clusters, Estimate
from vlmig.evaluation.metrics.comparisons import DIVERGENCE, Condition, contrasts
from vlmig.evaluation.metrics.outcome import Table
from vlmig.evaluation.metrics.rescoring import BASELINES, Rescorer
from vlmig.evaluation.metrics.subsets import over_subsets, sizes, subsets
from vlmig.evaluation.run_folder import EVERY_SEED, Row
from vlmig.evaluation.tasks.items import Item
from vlmig.evaluation.tasks.people import GROUPS

MEASURES = {DIVERGENCE: divergence, "kendall": kendall, "spearman": spearman}
"""Between a predicted distribution and people's: Jensen-Shannon divergence in nats, Kendall's
tau-b, Spearman's correlation."""
COMPARED = ("text-only", "k=1", "shuffled", "blank", "caption", "few-shot", "vote")
"""What the main condition's divergence is compared with; that of another rule with the first three
of these, by the same rule. Each comparison weakens the others."""


class Distributions:
    """Compare the distributions of Q questions with people's, of all items and by how far people
    agree on them.

    Args:
        rescorers: of each seed.
    """

    def __init__(self, table: Table, items: Sequence[Item], rescorers: Sequence[Rescorer]) -> None:
        self.table, self.rescorers = table, rescorers
        self.task, self.seeds = table.outcome.task.name, len(rescorers)
        self.people = np.array([item.distribution for item in items])[table.owner]
        """Shares of people, (Q, C)."""
        groups = np.array([item.group for item in items])[table.owner]
        self.decided = np.array([item.decided for item in items])[table.owner]
        self.masks: dict[tuple[str, str], np.ndarray] = {}
        """By subset and group, which questions belong to it, (Q,)."""
        for subset, inside in table.subsets.items():
            for group in ("all", *GROUPS):
                mask = inside & (groups == group) if group in GROUPS else inside
                if mask.any():
                    self.masks[subset, group] = mask
        self._clusters = {name: self._clusters_of(mask) for name, mask in self.masks.items()}
        self._divergence: dict[Condition, np.ndarray] = {}

    def block(self, conditions: Sequence[Condition], ks: Sequence[int]) -> dict[str, list[Row]]:
        """Compute all about a task: baselines, conditions, the curve over k, and comparisons.

        Args:
            ks: numbers of images that were asked for.
        """
        rows: list[Row] = []
        for condition in conditions:
            rows += self._rows(condition)
        main, comparisons = self.table.main, self._comparisons(self.table.main, COMPARED)
        for other in conditions:
            plain = (other.k, other.control) == (main.k, "none") and other.mix not in BASELINES
            if plain and other != main:
                comparisons += self._comparisons(other, COMPARED[:3])
        named = {"baselines": self._baselines(), "conditions": rows}
        return {**named, "curves": self._curves(ks), "comparisons": comparisons}

    def _clusters_of(self, mask: np.ndarray) -> Clusters:
        return Clusters(self.table.repeated(self.table.clusters[mask]))

    def _named(self, subset: str, group: str) -> Row:
        """Begin a row about a part of the items; ``n`` counts them."""
        count = len(np.unique(self.table.owner[self.masks[subset, group]]))
        return {"task": self.task, "subset": subset, "group": group, "n": count}

    def _baselines(self) -> list[Row]:
        """Return the divergence of guessing, and of always giving the mean of all people."""
        rows = []
        for (subset, group), mask in self.masks.items():
            people = self.people[mask]
            uniform, mean = np.full_like(people, 1 / people.shape[1]), people.mean(0)
            guessed = {"uniform": divergence(uniform, people), "mean": divergence(mean, people)}
            means = {name: float(values.mean()) for name, values in guessed.items()}
            rows.append({**self._named(subset, group), **means})
        return rows

    def _rows(self, condition: Condition) -> list[Row]:
        """Measure a condition: a row for each part of the items."""
        measured = np.concatenate([self._measured(r, condition) for r in self.rescorers], axis=1)
        self._divergence[condition] = measured[0]
        right = self.table.outcome.correct[condition].astype(float)
        rows = []
        for (subset, group), mask in self.masks.items():
            row = {**self._named(subset, group), **vars(condition), "seed": self._seed}
            values = list(measured[:, self.table.repeated(mask)])
            estimates = self._clusters[subset, group].estimates(values, least=-1.0)
            for name, estimate in zip(MEASURES, estimates, strict=True):
                row |= {name: estimate.mean, f"{name}_ci95": _interval(estimate, name)}
            rows.append(row | self._accuracy(right, mask & self.decided))
        return rows

    def _measured(self, rescorer: Rescorer, condition: Condition) -> np.ndarray:
        """Return each measure of each question, (measures, Q); under ``shuffled`` the mean over
        donors."""
        donors = range(rescorer.donors if condition.control == "shuffled" else 1)
        by_donor = []
        for donor in donors:
            predicted = predictions(rescorer.rescore(**vars(condition), donor=donor))
            by_donor.append([measure(predicted, self.people) for measure in MEASURES.values()])
        return np.mean(by_donor, axis=0)

    def _accuracy(self, right: np.ndarray, decided: np.ndarray) -> Row:
        """Return the accuracy where most people say the same."""
        row: Row = {"n_majority": len(np.unique(self.table.owner[decided]))}
        if not decided.any():
            return row | {"acc": None, "acc_ci95": None}
        estimate = self._clusters_of(decided).estimate(right[self.table.repeated(decided)])
        return row | estimate.named("acc")

    @property
    def _seed(self) -> int | str:
        return self.table.seeds[0] if self.seeds == 1 else EVERY_SEED

    @property
    def _most(self) -> int:
        return min(rescorer.images for rescorer in self.rescorers)

    def _averaged(self, size: int, most: int, rule: tuple[str, str]) -> np.ndarray:
        """Average each question's divergence over subsets of the first images, (seeds * Q,)."""

        def diverging(_: Rescorer, values: list[np.ndarray]) -> np.ndarray:
            return divergence(predictions(values), self.people)

        return over_subsets(self.rescorers, size, most, rule, diverging)

    def _curves(self, ks: Sequence[int]) -> list[Row]:
        """Return the divergence with 1 to K images, over subsets of the K that were imagined."""
        most, rule = self._most, (self.table.main.mix, self.table.main.weights)
        rows = []
        for size in sizes(most, ks) if most > 1 else ():
            values = self._averaged(size, most, rule)
            for (subset, group), mask in self.masks.items():
                row = {**self._named(subset, group), "k": size, "of": most, "seed": self._seed}
                row |= {"subsets": len(subsets(most, size)), "mix": rule[0], "weights": rule[1]}
                drawn = self._clusters[subset, group]
                mean = drawn.estimate(values[self.table.repeated(mask)], least=-1.0)
                row |= {DIVERGENCE: mean.mean, f"{DIVERGENCE}_ci95": _interval(mean, DIVERGENCE)}
                rows.append(row)
        return rows

    def _comparisons(self, main: Condition, names: Sequence[str]) -> list[Row]:
        """Compare a condition's divergence with that of others, paired by question; one image is
        any of its images by itself, on average."""
        values, every = dict(self._divergence), contrasts(main)
        against, k = {name: every[name] for name in names}, main.k
        if isinstance(k, int) and 1 < k <= self._most and against["k=1"] in values:
            values[against["k=1"]] = self._averaged(1, k, (main.mix, main.weights))
        rows = []
        for (subset, group), mask in self.masks.items():
            whole = self.masks.get(("all", group))
            if subset != "all" and whole is not None and mask.sum() == whole.sum():
                continue  # the same comparisons again would only weaken the others
            inside, drawn = self.table.repeated(mask), self._clusters[subset, group]
            for label, other in against.items():
                if main not in values or other not in values or other == main:
                    continue
                gain = drawn.estimate((values[main] - values[other])[inside], least=-1.0)
                row: Row = {**self._named(subset, group), "metric": DIVERGENCE}
                row |= {"mix": main.mix, "weights": main.weights}
                row |= {"a": f"k={main.k}", "b": label, "delta": gain.mean}
                row |= {"ci95": [gain.low, gain.high], "p": gain.p, "stderr": gain.stderr}
                rows.append(row | {"clusters": drawn.size})
        return rows


def _interval(estimate: Estimate, measure: str) -> list[float]:
    """Return the ends of an interval, inside what the measure can be."""
    least, most = (0.0, float(np.log(2))) if measure == DIVERGENCE else (-1.0, 1.0)
    return [max(least, estimate.low), min(most, estimate.high)]


def predictions(values: Sequence[Any]) -> np.ndarray:
    """Return distributions over candidates, (Q, C), from their log-likelihoods."""
    return softmax(np.stack(values), -1)
