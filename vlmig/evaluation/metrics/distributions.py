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
        self.parts: dict[tuple[str, str], np.ndarray] = {}
        """By subset and group, which questions belong to it, (Q,)."""
        for subset, inside in table.subsets.items():
            for group in ("all", *GROUPS):
                part = inside & (groups == group) if group in GROUPS else inside
                if part.any():
                    self.parts[subset, group] = part
        self._clusters = {name: self._clusters_of(part) for name, part in self.parts.items()}
        self._divergence: dict[Condition, np.ndarray] = {}

    def block(self, conditions: Sequence[Condition], asked: Sequence[int]) -> dict[str, list[Row]]:
        """Compute all about a task: baselines, conditions, the curve over k, and comparisons.

        Args:
            asked: numbers of images that were asked for.
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
        return {**named, "curves": self._curves(asked), "comparisons": comparisons}

    def _clusters_of(self, part: np.ndarray) -> Clusters:
        return Clusters(self.table.repeated(self.table.clusters[part]))

    def _named(self, subset: str, group: str) -> Row:
        """Begin a row about a part of the items; ``n`` counts them."""
        count = len(np.unique(self.table.owner[self.parts[subset, group]]))
        return {"task": self.task, "subset": subset, "group": group, "n": count}

    def _baselines(self) -> list[Row]:
        """Return the divergence of guessing, and of always giving the mean of all people."""
        rows = []
        for (subset, group), part in self.parts.items():
            people = self.people[part]
            uniform, mean = np.full_like(people, 1 / people.shape[1]), people.mean(0)
            guessed = {"uniform": divergence(uniform, people), "mean": divergence(mean, people)}
            shown = {name: float(values.mean()) for name, values in guessed.items()}
            rows.append({**self._named(subset, group), **shown})
        return rows

    def _rows(self, condition: Condition) -> list[Row]:
        """Measure a condition: a row for each part of the items."""
        found = np.concatenate([self._measured(r, condition) for r in self.rescorers], axis=1)
        self._divergence[condition] = found[0]
        right = self.table.outcome.correct[condition].astype(float)
        rows = []
        for (subset, group), part in self.parts.items():
            row = {**self._named(subset, group), **vars(condition), "seed": self._seed}
            values = list(found[:, self.table.repeated(part)])
            estimates = self._clusters[subset, group].estimates(values, least=-1.0)
            for name, estimate in zip(MEASURES, estimates, strict=True):
                row |= {name: estimate.mean, f"{name}_ci95": _interval(estimate, name)}
            rows.append(row | self._accuracy(right, part & self.decided))
        return rows

    def _measured(self, rescorer: Rescorer, condition: Condition) -> np.ndarray:
        """Return each measure of each question, (measures, Q); under ``shuffled`` the mean over
        donors."""
        donors = range(rescorer.donors if condition.control == "shuffled" else 1)
        found = []
        for donor in donors:
            predicted = predictions(rescorer.rescore(**vars(condition), donor=donor))
            found.append([measure(predicted, self.people) for measure in MEASURES.values()])
        return np.mean(found, axis=0)

    def _accuracy(self, right: np.ndarray, decided: np.ndarray) -> Row:
        """Return the accuracy where most people say the same."""
        row: Row = {"n_majority": len(np.unique(self.table.owner[decided]))}
        if not decided.any():
            return row | {"acc": None, "acc_ci95": None}
        found = self._clusters_of(decided).estimate(right[self.table.repeated(decided)])
        return row | {"acc": found.mean, "acc_ci95": [found.low, found.high]}

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

    def _curves(self, asked: Sequence[int]) -> list[Row]:
        """Return the divergence with 1 to K images, over subsets of the K that were imagined."""
        most, rule = self._most, (self.table.main.mix, self.table.main.weights)
        rows = []
        for size in sizes(most, asked) if most > 1 else ():
            values = self._averaged(size, most, rule)
            for (subset, group), part in self.parts.items():
                row = {**self._named(subset, group), "k": size, "of": most, "seed": self._seed}
                row |= {"subsets": len(subsets(most, size)), "mix": rule[0], "weights": rule[1]}
                drawn = self._clusters[subset, group]
                found = drawn.estimate(values[self.table.repeated(part)], least=-1.0)
                rows.append(
                    row
                    | {DIVERGENCE: found.mean, f"{DIVERGENCE}_ci95": _interval(found, DIVERGENCE)}
                )
        return rows

    def _comparisons(self, main: Condition, names: Sequence[str]) -> list[Row]:
        """Compare a condition's divergence with that of others, paired by question; one image is
        any of its images by itself, on average."""
        found, every = dict(self._divergence), contrasts(main)
        against, k = {name: every[name] for name in names}, main.k
        if isinstance(k, int) and 1 < k <= self._most and against["k=1"] in found:
            found[against["k=1"]] = self._averaged(1, k, (main.mix, main.weights))
        rows = []
        for (subset, group), part in self.parts.items():
            whole = self.parts.get(("all", group))
            if subset != "all" and whole is not None and part.sum() == whole.sum():
                continue  # the same comparisons again would only weaken the others
            inside, drawn = self.table.repeated(part), self._clusters[subset, group]
            for label, other in against.items():
                if main not in found or other not in found or other == main:
                    continue
                gain = drawn.estimate((found[main] - found[other])[inside], least=-1.0)
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
