"""What a task's conditions came to: rows with intervals, and comparisons between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from vlmig.evaluation.evaluator import Evaluator, Measured
from vlmig.evaluation.metrics.bootstrap import Clusters, balanced_accuracy, majority, reliability
from vlmig.evaluation.metrics.columns import coded
from vlmig.evaluation.metrics.comparisons import Condition, compare, mark_unread
from vlmig.evaluation.metrics.rescoring import BY_CLIP, Rescorer, confidence
from vlmig.evaluation.metrics.subsets import over_subsets, sizes, subsets
from vlmig.evaluation.run_folder import EVERY_SEED, Row
from vlmig.evaluation.tasks.items import Item, Task


@dataclass
class Outcome:
    """One task's numbers, in the blocks of results.json."""

    task: Task
    size: int
    """How many items were measured."""
    main: tuple[str, str]
    """Mixing rule and weights of the headline."""
    conditions: list[Row] = field(default_factory=list)
    comparisons: list[Row] = field(default_factory=list)
    baselines: dict[str, float | None] = field(default_factory=dict)
    curves: list[Row] = field(default_factory=list)
    """Accuracy by the number of images, over subsets of those that were imagined."""
    reliability: list[Row] = field(default_factory=list)
    correct: dict[Condition, np.ndarray] = field(default_factory=dict)
    """Whether each entry is right, or how often, (seeds * entries,), for pooling over tasks."""
    single: np.ndarray | None = None
    """Share of the main condition's images by which each entry is right, each by itself."""
    clusters: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    """Of each entry, the index in ``names`` of its object, (N, 1), or of its two, (N, 2)."""
    names: list[str] = field(default_factory=list)
    covered: np.ndarray | None = None
    distributions: dict[str, list[Row]] = field(default_factory=dict)
    """Of a task of distributions, the block of that name: baselines, conditions, curves and
    comparisons."""
    groups: dict[str, list[Row]] = field(default_factory=dict)
    """Accuracy by groups of items, see ``by_group``."""
    pairs: list[Row] = field(default_factory=list)
    """Of minimal pairs, how far apart the answers of their sides are, see ``pairs``."""
    losses: list[Row] = field(default_factory=list)
    """Of plain texts, comparisons of the loss per token."""
    unread: list[str] = field(default_factory=list)
    """Words of the candidates that the image encoder's text side never read in training."""


class Table:
    """Turn right and wrong entries into rows with intervals.

    Args:
        owner: the item of each entry. An entry is a question, or an item where the best wording
            counts.
        labels: the number of each entry's right answer.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        outcome: Outcome,
        measured: Measured,
        owner: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        self.outcome, self.seeds, self.owner, self.labels = outcome, measured.seeds, owner, labels
        self.main = Condition(evaluator.settings.main_k, *outcome.main)
        lists = candidate_lists(measured.items)
        self.kinds = None if lists is None else lists[owner]
        items = measured.items
        flat, outcome.names = coded(name for item in items for name in item.objects)
        self.clusters = flat.reshape(len(items), -1)[owner]
        outcome.clusters = self.repeated(self.clusters)
        self.subsets = {"all": np.ones(len(owner), dtype=bool)}
        if evaluator.covered is not None:
            inside = np.array([item.inside(evaluator.covered) for item in items])[owner]
            self.subsets["covered"], outcome.covered = inside, np.tile(inside, len(self.seeds))
        if evaluator.settings.subset == "covered":
            del self.subsets["all"]
        decided = np.array([item.decided for item in items])[owner]
        masks = {name: mask & decided for name, mask in self.subsets.items()}
        self.masks = {name: mask for name, mask in masks.items() if mask.any()}
        self._clusters = {}
        for name, mask in self.masks.items():
            self._clusters[name, False] = Clusters(self.clusters[mask])
            self._clusters[name, True] = Clusters(self.repeated(self.clusters[mask]))
        self.other_order: np.ndarray | None = None
        if measured.task.both_orders and measured.task.counted == "each":
            self.other_order = other_order(owner)

    def repeated(self, values: np.ndarray) -> np.ndarray:
        """Repeat the values of a seed's entries for every seed."""
        return np.concatenate([values] * len(self.seeds))

    def consistent(self, right: np.ndarray) -> np.ndarray:
        """Tell which entries of a seed have the same answer as when their two things stand in the
        other order: both are right, or both wrong."""
        return (right == right[self.other_order]).astype(float)

    def add_choices(
        self, condition: Condition, rescorers: Sequence[Rescorer], values: list[list[np.ndarray]]
    ) -> None:
        """Add a condition of questions with candidates, by the log-likelihoods of each seed."""
        right, per_character, certain = [], [], []
        for rescorer, loglikelihoods in zip(rescorers, values, strict=True):
            right.append(rescorer.correct(loglikelihoods))
            per_character.append(rescorer.correct(loglikelihoods, per_character=True))
            certain.append(rescorer.counted(confidence(loglikelihoods)))
        metrics = {"acc_norm": per_character}
        if self.other_order is not None:
            metrics["consistent"] = list(map(self.consistent, right))
        self.add(condition, right, metrics, certain)

    def add_shuffled(self, condition: Condition, rescorers: Sequence[Rescorer]) -> None:
        """Add the control ``shuffled``: an entry counts with the share of donors beside whose
        images it is right.

        The rows also have the number of ``donors``, the share of those with the item's label, and
        the accuracies beside those with the same label and with another one.
        """
        hits, per_character, certain = [], [], []
        for rescorer in rescorers:
            right, normal, sure = [], [], []
            for donor in range(rescorer.donors):
                loglikelihoods = rescorer.rescore(**vars(condition), donor=donor)
                right.append(rescorer.correct(loglikelihoods))
                normal.append(rescorer.correct(loglikelihoods, per_character=True))
                sure.append(rescorer.counted(confidence(loglikelihoods)))
            hits.append(np.stack(right))
            per_character.append(np.mean(normal, axis=0))
            certain.append(np.mean(sure, axis=0))
        metrics = {"acc_norm": per_character}
        if self.other_order is not None:
            metrics["consistent"] = []
            for by_donor in hits:
                consistent = list(map(self.consistent, by_donor))
                metrics["consistent"].append(np.mean(consistent, axis=0))
        self.add(condition, [by_donor.mean(0) for by_donor in hits], metrics, certain)
        for row, mask, seeds in self._rows(condition):
            row["donors"] = rescorers[0].donors
            same, right = [], []
            for i in seeds:
                if (labels := rescorers[i].same_label()) is not None:
                    same.append(labels[:, mask])
                    right.append(hits[i][:, mask])
            if len(same) < len(seeds):
                continue
            alike, values = np.concatenate(same, 1), np.concatenate(right, 1)
            row["same_label_share"] = float(alike.mean())
            for name, chosen in (("same_label", alike), ("other_label", ~alike)):
                row[f"acc_{name}"] = float(values[chosen].mean()) if chosen.any() else None

    def _rows(self, condition: Condition) -> Iterator[tuple[Row, np.ndarray, list[int]]]:
        """Yield a condition's rows, each with the mask of its subset and its seeds' positions."""
        for row in self.outcome.conditions:
            if all(row[name] == value for name, value in vars(condition).items()):
                seeds = [i for i, s in enumerate(self.seeds) if row["seed"] in (s, EVERY_SEED)]
                yield row, self.masks[row["subset"]], seeds

    def count(self, condition: Condition, counts: list[np.ndarray], most: int) -> None:
        """Add to a condition's rows the mean number of images that its answers needed, and its
        share of ``most``."""
        for row, mask, seeds in self._rows(condition):
            mean = float(np.mean([counts[i][mask] for i in seeds]))
            row |= {"pictures": mean, "most": most, "share": mean / most}

    def add(
        self,
        condition: Condition,
        right: list[np.ndarray],
        metrics: dict[str, list[np.ndarray]],
        certain: list[np.ndarray] | None,
    ) -> None:
        """Add a condition's rows: one for each subset and seed, and one for all seeds where there
        are several.

        Args:
            right: of each seed, which entries are right.
            metrics: further ones of the entries, of each seed.
            certain: of each seed, the confidence of the entries.
        """
        values = np.concatenate(right)
        whole = values.astype(bool)
        # A byte for each where entries are right or wrong; under ``shuffled`` they may be in part.
        self.outcome.correct[condition] = whole if (whole == values).all() else values
        slices: list[tuple[int | str, slice]] = []
        for i, s in enumerate(self.seeds):
            slices.append((s, slice(i, i + 1)))
        if len(self.seeds) > 1:
            slices.append((EVERY_SEED, slice(None)))
        for subset in self.masks:
            for seed, chosen in slices:
                more = {name: metric[chosen] for name, metric in metrics.items()}
                confidences = None if certain is None else certain[chosen]
                self._add_row(condition, subset, seed, right[chosen], more, confidences)

    def _add_row(
        self,
        condition: Condition,
        subset: str,
        seed: int | str,
        right: list[np.ndarray],
        metrics: dict[str, list[np.ndarray]],
        certain: list[np.ndarray] | None,
    ) -> None:
        mask = self.masks[subset]

        def joined(arrays: list[np.ndarray]) -> np.ndarray:
            return np.concatenate([array[mask] for array in arrays])

        values, labels = joined(right), np.tile(self.labels[mask], len(right))
        clusters = self._clusters[subset, len(right) > 1]
        estimate, *more = clusters.estimates([values, *map(joined, metrics.values())])
        row = {"task": self.outcome.task.name, "subset": subset, **vars(condition), "seed": seed}
        row |= {
            "acc": estimate.mean,
            "stderr": estimate.stderr,
            "ci95": [estimate.low, estimate.high],
        }
        row |= {
            "n": len(np.unique(self.owner[mask])),
            "balanced_acc": balanced_accuracy(values, labels),
        }
        row["majority"] = None
        if self.kinds is not None:
            row["majority"] = majority(labels, np.tile(self.kinds[mask], len(right)))
        for name, other in zip(metrics, more, strict=True):
            row |= {name: other.mean, f"{name}_stderr": other.stderr}
            row[f"{name}_ci95"] = [other.low, other.high]
        text_only = Condition(0, *self.outcome.main)
        if isinstance(seed, int) and text_only in self.outcome.correct:
            start = self.seeds.index(seed) * len(mask)
            before = self.outcome.correct[text_only][start : start + len(mask)][mask]
            row["kept"] = float(values[before].mean()) if before.any() else None
        if certain is not None:
            row["ece"], bins = reliability(joined(certain), values)
            if condition in (self.main, text_only):
                named = {name: row[name] for name in ("task", "subset", "k", "seed")}
                self.outcome.reliability.append({**named, "bins": bins})
        if condition.mix in BY_CLIP and self.outcome.unread:
            row["unread"] = self.outcome.unread
        self.outcome.conditions.append(row)

    def add_curve(self, rescorers: Sequence[Rescorer], ks: Sequence[int]) -> None:
        """Add the accuracies with 1 to K images, over subsets of the K that were imagined; where
        questions have different numbers of images there are none.

        Args:
            ks: numbers of images that were asked for.
        """
        most, k = min(rescorer.images for rescorer in rescorers), self.main.k
        if most < 2:
            return
        rule = (self.main.mix, self.main.weights)
        shares = {size: over_subsets(rescorers, size, most, rule) for size in sizes(most, ks)}
        if isinstance(k, int) and 1 < k <= most:
            self.outcome.single = shares[1] if k == most else over_subsets(rescorers, 1, k, rule)
        seed = self.seeds[0] if len(self.seeds) == 1 else EVERY_SEED
        for subset, one in self.masks.items():
            mask, clusters = np.tile(one, len(self.seeds)), self._clusters[subset, True]
            accuracies = clusters.estimates([share[mask] for share in shares.values()])
            gains = [(shares[most] - share)[mask] for share in shares.values()]
            missing = clusters.estimates(gains, least=-1.0)
            for size, acc, gain in zip(shares, accuracies, missing, strict=True):
                row: Row = {"task": self.outcome.task.name, "subset": subset, "k": size}
                row |= {"of": most, "subsets": len(subsets(most, size)), "seed": seed}
                row |= {"mix": rule[0], "weights": rule[1], "n": len(np.unique(self.owner[one]))}
                row |= {"acc": acc.mean, "stderr": acc.stderr, "ci95": [acc.low, acc.high]}
                self.outcome.curves.append(row | gain.named("missing"))

    def compare(self) -> None:
        """Compare the main condition with all others of the table."""
        masks = {name: np.tile(mask, len(self.seeds)) for name, mask in self.masks.items()}
        self.outcome.comparisons = compare(
            self.outcome.task.name,
            self.outcome.correct,
            self.main,
            self.outcome.clusters,
            masks,
            self.outcome.single,
        )
        mark_unread(self.outcome.comparisons, self.outcome.unread)


def other_order(owner: np.ndarray) -> np.ndarray:
    """Return for each question the one about its two things in the other order: of an item's
    questions, the second half are the first half's in the other order.

    Args:
        owner: the item of each question, (Q,).
    """
    first, count = np.searchsorted(owner, owner), np.bincount(owner)[owner]
    return first + (np.arange(len(owner)) - first + count // 2) % count


def candidate_lists(items: Sequence[Item]) -> np.ndarray | None:
    """Number the candidates of each item, (items,): equal numbers, equal candidates.

    None where most items have candidates of their own, as of free text: then no answer is the most
    frequent.
    """
    lists, names = coded("\n".join(sorted(item.choices)) for item in items)
    return None if len(names) > max(1, len(items) / 2) else lists
