"""One task's numbers: conditions, baselines, comparisons, as they stand in results.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from vlmig.evaluation.auto_k import rule_of
from vlmig.evaluation.evaluator import Evaluator, Measured
from vlmig.evaluation.metrics.bootstrap import Clusters, balanced_accuracy, majority, reliability
from vlmig.evaluation.metrics.columns import coded
from vlmig.evaluation.metrics.comparisons import Condition, compare
from vlmig.evaluation.metrics.rescoring import BASELINES, Readout, Record, confidence
from vlmig.evaluation.metrics.squad import exact_match, f1
from vlmig.evaluation.run_folder import EVERY_SEED, Row
from vlmig.evaluation.tasks.items import Item, Task
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import Stopping


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
    baselines: dict[str, float] = field(default_factory=dict)
    reliability: list[Row] = field(default_factory=list)
    correct: dict[Condition, np.ndarray] = field(default_factory=dict)
    """Right or not, (seeds * entries,), for pooling over tasks."""
    clusters: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    """Of each entry, its cluster's place among ``names``."""
    names: list[str] = field(default_factory=list)
    covered: np.ndarray | None = None


def assemble(evaluator: Evaluator, measured: Measured) -> tuple[Outcome, dict[int, Iterator[Row]]]:
    """Compute everything about a task from its records.

    Returns:
        The numbers; and by seed what the main setting says of each item, where there are candidates to choose from.
    """
    config, task = evaluator.model.config, measured.task
    outcome = Outcome(task, len(measured.items), (config.mix, task.weights or config.weights))
    if task.kind == "text":
        _perplexities(evaluator, outcome, measured)
    elif task.kind == "generate":
        _matches(evaluator, outcome, measured)
    elif task.scoring == "sequence":
        _sequences(evaluator, outcome, measured)
    else:
        return outcome, _choices(evaluator, outcome, measured)
    return outcome, {}


def _rules(evaluator: Evaluator, outcome: Outcome) -> list[tuple[str, str]]:
    """List mixing rules and weights: the task's main one, the checkpoint's own, and what was asked for."""
    config, settings = evaluator.model.config, evaluator.settings
    asked = [
        (m, w) for m in settings.mixes or [config.mix] for w in settings.weights or [config.weights]
    ]
    return list(dict.fromkeys([outcome.main, (config.mix, config.weights), *asked]))


def _planned(
    evaluator: Evaluator, outcome: Outcome, readouts: Sequence[Readout]
) -> Iterator[Condition]:
    """List the conditions of a task of choices."""
    every, ks, main_k = (
        _rules(evaluator, outcome),
        evaluator.settings.every_k,
        evaluator.settings.main_k,
    )
    for k in ks:
        for rule in every:
            yield Condition(k, *rule)
    for control in evaluator.settings.controls:
        if control == "none" or not all(readout.has(control) for readout in readouts):
            continue
        if control in ("caption", "few-shot"):
            yield Condition(0, *outcome.main, control)
            continue
        for k in ks[1:]:
            for rule in every:
                yield Condition(k, *rule, control)
    for mix in BASELINES if main_k and isinstance(main_k, int) else ():
        if mix == "vote" or all(readout.complete("clip") for readout in readouts):
            yield Condition(main_k, mix, "uniform")


def _choices(
    evaluator: Evaluator, outcome: Outcome, measured: Measured
) -> dict[int, Iterator[Row]]:
    task, items, config = measured.task, measured.items, evaluator.model.config
    readouts = [Readout(task, items, measured.records(seed), config) for seed in measured.seeds]
    outcome.baselines = _baselines(
        readouts[0].labels, [len(item.choices) for item in items for _ in item.questions]
    )
    table = _Table(evaluator, outcome, measured, *readouts[0].entries())
    said: dict[int, Iterator[Row]] = {}
    for condition in _planned(evaluator, outcome, readouts):
        found = [r.read(*astuple(condition)) for r in readouts]
        table.add_choices(condition, readouts, found)
        if condition == table.main:
            said = _said(measured, readouts, found)
    if (rule := rule_of(evaluator.model, evaluator.settings, task)) is not None:
        said = _until_safe(evaluator, measured, rule, readouts, table, said)
    table.compare()
    return said


def _until_safe(
    evaluator: Evaluator,
    measured: Measured,
    rule: Stopping,
    readouts: Sequence[Readout],
    table: _Table,
    said: dict[int, Iterator[Row]],
) -> dict[int, Iterator[Row]]:
    """Add the condition of as many pictures as each answer needs, and to what is said of each item how many these were."""
    mixture = Mixture.of(evaluator.model.config, None, measured.task.weights)
    counts = [readout.used(rule, mixture) for readout in readouts]
    condition = Condition(str(evaluator.settings.auto), table.main.mix, table.main.weights)
    found = [
        r.read_until(own, condition.mix, condition.weights)
        for r, own in zip(readouts, counts, strict=True)
    ]
    table.add_choices(condition, readouts, found)
    table.count(
        condition,
        [r.counted(own.astype(float)) for r, own in zip(readouts, counts, strict=True)],
        rule.most,
    )
    said = said or _said(measured, readouts, found)
    return {
        seed: _counted(said[seed], r, own)
        for seed, r, own in zip(said, readouts, counts, strict=True)
    }


def _counted(rows: Iterator[Row], readout: Readout, counts: np.ndarray) -> Iterator[Row]:
    questions = zip(readout.owner.tolist(), counts.tolist(), strict=True)
    for row, (_, own) in zip(
        rows, groupby(questions, key=lambda question: question[0]), strict=True
    ):
        yield {**row, "used": [count for _, count in own]}


def _said(
    measured: Measured, readouts: Sequence[Readout], found: list[list[np.ndarray]]
) -> dict[int, Iterator[Row]]:
    return {
        seed: _answers(r, own) for seed, r, own in zip(measured.seeds, readouts, found, strict=True)
    }


def _answers(readout: Readout, found: list[np.ndarray]) -> Iterator[Row]:
    """Say per item what each wording's mixture and the text alone answer, and whether it is right, for samples and report."""
    names = ("mixture", "answer", "text_answer", "acc", "acc_norm")
    right, normal = readout.right(found), readout.right(found, normalised=True)
    questions = zip(range(len(found)), found, readout.scores("none"), right, normal, strict=True)
    for _, wordings in groupby(questions, key=lambda question: readout.owner[question[0]]):
        row: Row = {name: [] for name in names}
        for i, own, score, *rights in wordings:
            shown = [round(float(p), 5) for p in np.exp(own - np.logaddexp.reduce(own))]
            said = (shown, readout.named(i, own), readout.named(i, score.text), *rights)
            for name, value in zip(names, said, strict=True):
                row[name].append(value)
        yield row


def _sequences(evaluator: Evaluator, outcome: Outcome, measured: Measured) -> None:
    """As published: the candidate whose whole sequence has the smallest mean loss per token."""
    items = measured.items
    owner = np.repeat(np.arange(len(items)), [len(item.questions) for item in items])
    labels, _ = coded(item.choices[q.answer] for item in items for q in item.questions)
    outcome.baselines = _baselines(
        labels, [len(item.choices) for item in items for _ in item.questions]
    )
    table = _Table(evaluator, outcome, measured, owner, labels)
    for k in evaluator.settings.every_k:
        right = []
        for seed in measured.seeds:
            best = zip(items, measured.records(seed), strict=True)
            right.append(
                np.array([hit for item, record in best for hit in _least(item, record, k)])
            )
        table.add(Condition(k, *outcome.main), right, {}, None)
    table.compare()


def _least(item: Item, record: Record, k: int) -> Iterator[float]:
    """Say of each question whether its right candidate has the smallest mean loss."""
    means = iter(np.array(record["loss"][str(k)]) / np.array(record["tokens"]))
    for question in item.questions:
        yield float(
            int(np.argmin([next(means) for _ in question.continuations])) == question.answer
        )


def _baselines(labels: np.ndarray, sizes: Sequence[int]) -> dict[str, float]:
    return {"majority": majority(labels), "chance": float(np.mean([1 / n for n in sizes]))}


class _Table:
    """Turns right and wrong into rows with intervals.

    Args:
        owner: the item of each entry, which is one wording of it or all of it.
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
        clusters, outcome.names = coded(item.cluster for item in measured.items)
        one = clusters[owner]
        outcome.clusters = np.tile(one, len(self.seeds))
        masks = {"all": np.ones(len(one), dtype=bool)}
        if evaluator.covered is not None:
            masks["covered"] = np.array([evaluator.covered(name) for name in outcome.names])[one]
            outcome.covered = np.tile(masks["covered"], len(self.seeds))
        if evaluator.settings.subset == "covered":
            del masks["all"]
        self.masks = {name: mask for name, mask in masks.items() if mask.any()}
        self._clusters = {
            (name, many): Clusters(np.tile(one[mask], len(self.seeds) if many else 1))
            for name, mask in self.masks.items()
            for many in (False, True)
        }

    def add_choices(
        self, condition: Condition, readouts: Sequence[Readout], found: list[list[np.ndarray]]
    ) -> None:
        """Add a condition of questions with candidates, by the log-likelihoods of each seed."""
        pairs = list(zip(readouts, found, strict=True))
        right = [readout.correct(own) for readout, own in pairs]
        normal = [readout.correct(own, normalised=True) for readout, own in pairs]
        self.add(
            condition, right, {"acc_norm": normal}, [r.counted(confidence(own)) for r, own in pairs]
        )

    def count(self, condition: Condition, counts: list[np.ndarray], most: int) -> None:
        """Note in a condition's rows how many pictures its answers needed, on average, and the share that is of all."""
        for row in self.outcome.conditions:
            if all(row[name] == value for name, value in vars(condition).items()):
                seeds = [
                    s for s, seed in enumerate(self.seeds) if row["seed"] in (seed, EVERY_SEED)
                ]
                mean = float(np.mean([counts[s][self.masks[row["subset"]]] for s in seeds]))
                row |= {"pictures": mean, "most": most, "share": mean / most}

    def add(
        self,
        condition: Condition,
        right: list[np.ndarray],
        others: dict[str, list[np.ndarray]],
        sure: list[np.ndarray] | None,
    ) -> None:
        """Add a condition's rows: one for each subset and seed, and one for all seeds where there are several."""
        self.outcome.correct[condition] = np.concatenate(right).astype(bool)
        for subset, mask in self.masks.items():
            for s, seed in enumerate(self.seeds):
                values = {name: [own[s]] for name, own in others.items()}
                self._row(condition, subset, mask, seed, [right[s]], values, sure and [sure[s]])
            if len(self.seeds) > 1:
                self._row(condition, subset, mask, EVERY_SEED, right, others, sure)

    def _row(
        self,
        condition: Condition,
        subset: str,
        mask: np.ndarray,
        seed: Any,
        right: list[np.ndarray],
        others: dict[str, list[np.ndarray]],
        sure: list[np.ndarray] | None,
    ) -> None:
        clusters = self._clusters[subset, len(right) > 1]
        values = np.concatenate([own[mask] for own in right])
        labels = np.tile(self.labels[mask], len(right))
        both = [np.concatenate([part[mask] for part in own]) for own in others.values()]
        estimate, *more = clusters.estimates([values, *both])
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
        row |= {"majority": majority(labels)}
        for name, other in zip(others, more, strict=True):
            row |= {name: other.mean, f"{name}_stderr": other.stderr}
        alone = Condition(0, *self.outcome.main)
        if seed != EVERY_SEED and alone in self.outcome.correct:
            start = self.seeds.index(seed) * len(mask)
            before = self.outcome.correct[alone][start : start + len(mask)][mask]
            row["kept"] = float(values[before].mean()) if before.any() else None
        if sure is not None:
            row["ece"], bins = reliability(np.concatenate([own[mask] for own in sure]), values)
            if condition in (self.main, alone):
                self.outcome.reliability.append(
                    {**{name: row[name] for name in ("task", "subset", "k", "seed")}, "bins": bins}
                )
        self.outcome.conditions.append(row)

    def compare(self) -> None:
        """Compare the main setting with all others of the same table."""
        masks = {name: np.tile(mask, len(self.seeds)) for name, mask in self.masks.items()}
        self.outcome.comparisons = compare(
            self.outcome.task.name, self.outcome.correct, self.main, self.outcome.clusters, masks
        )


def _perplexities(evaluator: Evaluator, outcome: Outcome, measured: Measured) -> None:
    """Perplexity of texts with pictures of their subject mixed in, against text alone."""
    ks = evaluator.settings.every_k
    for seed in measured.seeds:
        losses, tokens = dict.fromkeys(ks, 0.0), 0
        for record in measured.records(seed):
            tokens += record["tokens"][0]
            for k in ks:
                losses[k] += record["loss"][str(k)][0]
        for k in ks:
            row: Row = {
                "task": outcome.task.name,
                "subset": "all",
                **vars(Condition(k, *outcome.main)),
                "seed": seed,
            }
            row |= dict.fromkeys(("acc", "stderr", "ci95"))
            outcome.conditions.append(
                {**row, "n": outcome.size, "perplexity": float(np.exp(losses[k] / tokens))}
            )


def _matches(evaluator: Evaluator, outcome: Outcome, measured: Measured) -> None:
    """Exact match and F1 of generated answers (SQuAD's normalisation)."""

    def scored(metric: Callable[[str, str], float], k: int) -> list[np.ndarray]:
        return [
            np.array(
                [
                    max(metric(record["outputs"][str(k)][0], right) for right in item.choices)
                    for item, record in zip(measured.items, measured.records(seed), strict=True)
                ]
            )
            for seed in measured.seeds
        ]

    labels, _ = coded(item.label for item in measured.items)
    table = _Table(evaluator, outcome, measured, np.arange(outcome.size), labels)
    for k in evaluator.settings.every_k:
        table.add(Condition(k, *outcome.main), scored(exact_match, k), {"f1": scored(f1, k)}, None)
    table.compare()
