"""One task's numbers: conditions, baselines, comparisons, as they stand in results.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np

from vlmig.evaluation.adaptive import rule_of, setting_of
from vlmig.evaluation.items import Item, Task
from vlmig.evaluation.metrics import exact_match, f1
from vlmig.evaluation.readout import BASELINES, Readout, Record, confidence
from vlmig.evaluation.run import Evaluator
from vlmig.evaluation.statistics import Clusters, balanced_accuracy, majority, mcnemar, reliability

EVERY_SEED = "all"
"""In place of a seed: all of them together, an item's seeds in one cluster."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Condition:
    """What was done to get an answer."""

    k: int | str
    mix: str
    weights: str
    control: str = "none"


@dataclass
class Outcome:
    """One task's numbers, in the blocks of results.json."""

    task: Task
    items: list[Item]
    main: tuple[str, str]
    """Mixing rule and weights of the headline."""
    records: dict[int, list[Record]]
    """By seed, in the items' order."""
    conditions: list[Row] = field(default_factory=list)
    comparisons: list[Row] = field(default_factory=list)
    baselines: dict[str, float] = field(default_factory=dict)
    reliability: list[Row] = field(default_factory=list)
    correct: dict[Condition, np.ndarray] = field(default_factory=dict)
    """Right or not, (seeds * entries,), for pooling over tasks."""
    clusters: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=str))
    covered: np.ndarray | None = None
    answers: dict[int, list[Row]] = field(default_factory=dict)
    """By seed: what the main setting says of each item."""


def assemble(evaluator: Evaluator, task: Task, measured: Sequence[tuple[int, Item, Record]]) -> Outcome:
    """Compute everything about a task from its records."""
    config, settings = evaluator.model.config, evaluator.settings
    records: dict[int, list[Record]] = {seed: [] for seed in settings.seeds}
    for seed, _, record in measured:
        records[seed].append(record)
    items = [item for seed, item, _ in measured if seed == settings.seeds[0]]
    outcome = Outcome(task, items, (config.mix, task.weights or config.weights), records)
    if task.kind == "text":
        _perplexities(evaluator, outcome)
    elif task.kind == "generate":
        _matches(evaluator, outcome)
    elif task.scoring == "sequence":
        _sequences(evaluator, outcome)
    else:
        _choices(evaluator, outcome)
    return outcome


def _rules(evaluator: Evaluator, outcome: Outcome) -> list[tuple[str, str]]:
    """List mixing rules and weights: the task's main one, the checkpoint's own, and what was asked for."""
    config, settings = evaluator.model.config, evaluator.settings
    asked = [(m, w) for m in settings.mixes or [config.mix] for w in settings.weights or [config.weights]]
    return list(dict.fromkeys([outcome.main, (config.mix, config.weights), *asked]))


def _planned(evaluator: Evaluator, outcome: Outcome, readouts: Sequence[Readout]) -> Iterator[Condition]:
    """List the conditions of a task of choices."""
    every, ks, main_k = _rules(evaluator, outcome), evaluator.settings.every_k, evaluator.settings.main_k
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
        if mix == "vote" or all(record.get("clip") for r in readouts for record in r.records):
            yield Condition(main_k, mix, "uniform")


def _choices(evaluator: Evaluator, outcome: Outcome) -> None:
    config = evaluator.model.config
    readouts = [Readout(outcome.task, outcome.items, own, config) for own in outcome.records.values()]
    outcome.baselines = _baselines(readouts[0].labels, [len(outcome.items[i].choices) for i in readouts[0].owner])
    table = _Table(evaluator, outcome, *readouts[0].entries())
    for condition in _planned(evaluator, outcome, readouts):
        found = [r.read(*astuple(condition)) for r in readouts]
        table.add_choices(condition, readouts, found)
        if condition == table.main:
            outcome.answers = _answered(outcome, readouts, found)
    _until_safe(evaluator, outcome, readouts, table)
    table.compare()


def _until_safe(evaluator: Evaluator, outcome: Outcome, readouts: Sequence[Readout], table: _Table) -> None:
    """Add the condition of as many pictures as each answer needs, and how many these were."""
    rule = rule_of(evaluator.model, evaluator.settings, outcome.task)
    if rule is None:
        return
    setting = setting_of(evaluator.model, outcome.task)
    counts = [readout.used(rule, setting) for readout in readouts]
    found = [r.read_until(own, *outcome.main) for r, own in zip(readouts, counts, strict=True)]
    condition = Condition(str(evaluator.settings.auto), *outcome.main)
    table.add_choices(condition, readouts, found)
    table.count(condition, [r.counted(own.astype(float)) for r, own in zip(readouts, counts, strict=True)], rule.most)
    if condition == table.main:
        outcome.answers = _answered(outcome, readouts, found)
    for own, readout, (seed, records) in zip(counts, readouts, outcome.records.items(), strict=True):
        said = outcome.answers.setdefault(seed, [{} for _ in records])
        for i, row in enumerate(said):
            row["used"] = own[readout.owner == i].tolist()


def _answered(outcome: Outcome, readouts: Sequence[Readout], found: list[list[np.ndarray]]) -> dict[int, list[Row]]:
    return {seed: _answers(r, own) for seed, r, own in zip(outcome.records, readouts, found, strict=True)}


def _answers(readout: Readout, found: list[np.ndarray]) -> list[Row]:
    """Say per item what each wording's mixture and the text alone answer, and whether it is right, for samples and report."""
    names = ("mixture", "answer", "text_answer", "acc", "acc_norm")
    rows: list[Row] = [{name: [] for name in names} for _ in readout.items]
    right, normal = readout.right(found), readout.right(found, normalised=True)
    for i, (own, score) in enumerate(zip(found, readout.scores("none"), strict=True)):
        shown = [round(float(p), 5) for p in np.exp(own - np.logaddexp.reduce(own))]
        said = (shown, readout.named(i, own), readout.named(i, score.text), right[i], normal[i])
        for name, value in zip(names, said, strict=True):
            rows[readout.owner[i]][name].append(value)
    return rows


def _sequences(evaluator: Evaluator, outcome: Outcome) -> None:
    """As published: the candidate whose whole sequence has the smallest mean loss per token."""
    questions = [(i, item, q) for i, item in enumerate(outcome.items) for q in item.questions]
    labels = np.array([item.choices[q.answer] for _, item, q in questions])
    outcome.baselines = _baselines(labels, [len(item.choices) for _, item, _ in questions])
    table = _Table(evaluator, outcome, np.array([i for i, _, _ in questions]), labels)
    for k in evaluator.settings.every_k:
        right = []
        for records in outcome.records.values():
            losses = (np.array(r["loss"][str(k)]) / np.array(r["tokens"]) for r in records)
            flat = iter(np.concatenate(list(losses)))
            own = [np.array([next(flat) for _ in q.continuations]) for _, _, q in questions]
            best = zip(own, questions, strict=True)
            right.append(np.array([float(int(means.argmin()) == q.answer) for means, (_, _, q) in best]))
        table.add(Condition(k, *outcome.main), right, {}, None)
    table.compare()


def _baselines(labels: np.ndarray, sizes: Sequence[int]) -> dict[str, float]:
    return {"majority": majority(labels), "chance": float(np.mean([1 / n for n in sizes]))}


class _Table:
    """Turns right and wrong into rows with intervals.

    Args:
        owner: the item of each entry, which is one wording of it or all of it.
        labels: the right answer of each entry.
    """

    def __init__(self, evaluator: Evaluator, outcome: Outcome, owner: np.ndarray, labels: np.ndarray) -> None:
        self.outcome, self.seeds, self.owner, self.labels = outcome, list(outcome.records), owner, labels
        self.main = Condition(evaluator.settings.main_k, *outcome.main)
        one = np.array([outcome.items[i].cluster for i in owner])
        outcome.clusters = np.tile(one, len(self.seeds))
        masks = {"all": np.ones(len(one), dtype=bool)}
        if evaluator.covered is not None:
            masks["covered"] = np.array([evaluator.covered(name) for name in one])
            outcome.covered = np.tile(masks["covered"], len(self.seeds))
        if evaluator.settings.subset == "covered":
            del masks["all"]
        self.masks = {name: mask for name, mask in masks.items() if mask.any()}
        self._clusters = {
            (name, many): Clusters(np.tile(one[mask], len(self.seeds) if many else 1))
            for name, mask in self.masks.items()
            for many in (False, True)
        }

    def add_choices(self, condition: Condition, readouts: Sequence[Readout], found: list[list[np.ndarray]]) -> None:
        """Add a condition of questions with candidates, by the log-likelihoods of each seed."""
        pairs = list(zip(readouts, found, strict=True))
        right = [readout.correct(own) for readout, own in pairs]
        normal = [readout.correct(own, normalised=True) for readout, own in pairs]
        self.add(condition, right, {"acc_norm": normal}, [r.counted(confidence(own)) for r, own in pairs])

    def count(self, condition: Condition, counts: list[np.ndarray], most: int) -> None:
        """Note in a condition's rows how many pictures its answers needed, on average, and the share that is of all."""
        for row in self.outcome.conditions:
            if all(row[name] == value for name, value in vars(condition).items()):
                seeds = [s for s, seed in enumerate(self.seeds) if row["seed"] in (seed, EVERY_SEED)]
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
        self.outcome.correct[condition] = np.concatenate(right)
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
        estimate = clusters.estimate(values)
        row = {"task": self.outcome.task.name, "subset": subset, **vars(condition), "seed": seed}
        row |= {"acc": estimate.mean, "stderr": estimate.stderr, "ci95": [estimate.low, estimate.high]}
        row |= {"n": len(np.unique(self.owner[mask])), "balanced_acc": balanced_accuracy(values, labels)}
        row |= {"majority": majority(labels)}
        for name, own in others.items():
            other = clusters.estimate(np.concatenate([part[mask] for part in own]))
            row |= {name: other.mean, f"{name}_stderr": other.stderr}
        alone = Condition(0, *self.outcome.main)
        if seed != EVERY_SEED and alone in self.outcome.correct:
            start = self.seeds.index(seed) * len(mask)
            before = self.outcome.correct[alone][start : start + len(mask)][mask] > 0
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


def compare(
    name: str, correct: dict[Condition, np.ndarray], main: Condition, clusters: np.ndarray, masks: dict[str, np.ndarray]
) -> list[Row]:
    """Compare the main setting with text alone, one picture, controls and baselines, paired by entry; verdicts come later.

    Args:
        clusters: of each entry; templates and seeds of one object belong together.
    """
    k, mix, weights = main.k, main.mix, main.weights
    against = {
        "text-only": Condition(0, mix, weights),
        "k=1": Condition(1, mix, weights),
        **{f"k={c.k}": c for c in correct if isinstance(c.k, str) and c.k != k},
        **{c: Condition(k, mix, weights, c) for c in ("shuffled", "blank")},
        **{c: Condition(0, mix, weights, c) for c in ("caption", "few-shot")},
        **{b: Condition(k, b, "uniform") for b in BASELINES},
    }
    rows = []
    whole = masks.get("all")
    for subset, mask in masks.items():
        if subset != "all" and whole is not None and mask.sum() == whole.sum():
            continue  # the same comparisons again, which would only weaken the others
        own = Clusters(clusters[mask])
        for label, other in against.items():
            if other not in correct or main not in correct or other == main:
                continue
            a, b = correct[main][mask], correct[other][mask]
            gain = own.estimate(a - b, least=-1.0)
            row: Row = {"task": name, "subset": subset, "a": f"k={k}", "b": label, "delta": gain.mean}
            row |= {"ci95": [gain.low, gain.high], "p": gain.p, "mcnemar_p": mcnemar(a, b, clusters[mask])}
            rows.append(row)
    return rows


def _perplexities(evaluator: Evaluator, outcome: Outcome) -> None:
    """Perplexity of texts with pictures of their subject mixed in, against text alone."""
    for seed, records in outcome.records.items():
        for k in evaluator.settings.every_k:
            loss = sum(record["loss"][str(k)][0] for record in records)
            tokens = sum(record["tokens"][0] for record in records)
            row: Row = {"task": outcome.task.name, "subset": "all", **vars(Condition(k, *outcome.main)), "seed": seed}
            row |= dict.fromkeys(("acc", "stderr", "ci95"))
            outcome.conditions.append({**row, "n": len(records), "perplexity": float(np.exp(loss / tokens))})


def _matches(evaluator: Evaluator, outcome: Outcome) -> None:
    """Exact match and F1 of generated answers (SQuAD's normalisation)."""

    def scored(metric: Callable[[str, str], float], k: int) -> list[np.ndarray]:
        return [
            np.array(
                [
                    max(metric(record["outputs"][str(k)][0], right) for right in item.choices)
                    for item, record in zip(outcome.items, records, strict=True)
                ]
            )
            for records in outcome.records.values()
        ]

    labels = np.array([item.label for item in outcome.items])
    table = _Table(evaluator, outcome, np.arange(len(outcome.items)), labels)
    for k in evaluator.settings.every_k:
        table.add(Condition(k, *outcome.main), scored(exact_match, k), {"f1": scored(f1, k)}, None)
    table.compare()
