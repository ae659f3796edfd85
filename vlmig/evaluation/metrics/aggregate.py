"""One task's numbers, as results.json has them: conditions, baselines, comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple

import numpy as np

from vlmig.errors import VLMIGError
from vlmig.evaluation.auto_k import rule_of
from vlmig.evaluation.evaluator import Evaluator, Measured
from vlmig.evaluation.metrics.bootstrap import majority
from vlmig.evaluation.metrics.by_group import disparities
from vlmig.evaluation.metrics.columns import coded
from vlmig.evaluation.metrics.comparisons import Condition
from vlmig.evaluation.metrics.distributions import Distributions
from vlmig.evaluation.metrics.losses import add_losses
from vlmig.evaluation.metrics.outcome import Outcome, Table, candidate_lists
from vlmig.evaluation.metrics.pairs import pair_rows
from vlmig.evaluation.metrics.rescoring import BASELINES, Rescorer
from vlmig.evaluation.metrics.squad import exact_match, f1
from vlmig.evaluation.records import Record
from vlmig.evaluation.run_folder import Row
from vlmig.evaluation.tasks.items import Item
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import Stopping


def assemble(evaluator: Evaluator, measured: Measured) -> tuple[Outcome, dict[int, Iterator[Row]]]:
    """Compute everything about a task from its records.

    Returns:
        The numbers; and by seed each item's answers in the main condition, where there are
        candidates.
    """
    config, task = evaluator.model.config, measured.task
    main = task.mix or config.mix, task.weights or config.weights
    outcome = Outcome(task, len(measured.items), main)
    if task.kind == "text":
        add_losses(evaluator, outcome, measured)
    elif task.kind == "generate":
        _matches(evaluator, outcome, measured)
    elif task.paired:
        return outcome, _pairs(evaluator, outcome, measured)
    elif task.scoring == "sequence":
        _sequences(evaluator, outcome, measured)
    else:
        return outcome, _choices(evaluator, outcome, measured)
    return outcome, {}


def _rules(evaluator: Evaluator, outcome: Outcome) -> list[tuple[str, str]]:
    """List mixing rules and weights: the task's main one, the checkpoint's, and those asked for."""
    config, settings = evaluator.model.config, evaluator.settings
    rules = [outcome.main, (config.mix, config.weights)]
    for mix in settings.mixes or [config.mix]:
        for weights in settings.weights or [config.weights]:
            rules.append((mix, weights))
    return list(dict.fromkeys(rules))


def _planned(
    evaluator: Evaluator, outcome: Outcome, rescorers: Sequence[Rescorer]
) -> list[Condition]:
    """List the conditions of a task of choices."""
    settings, rules = evaluator.settings, _rules(evaluator, outcome)
    conditions = [Condition(k, *rule) for k in settings.every_k for rule in rules]
    for control in settings.controls:
        if control == "none" or not all(rescorer.has(control) for rescorer in rescorers):
            continue
        if control in ("caption", "few-shot"):
            conditions.append(Condition(0, *outcome.main, control))
            continue
        for k in settings.every_k[1:]:
            conditions += [Condition(k, *rule, control) for rule in rules]
    main_k = settings.main_k
    if main_k and isinstance(main_k, int):
        aligned = all(rescorer.aligned for rescorer in rescorers)
        for mix in BASELINES if aligned else ("vote",):
            conditions.append(Condition(main_k, mix, "uniform"))
    if any(item.distribution for item in rescorers[0].items):  # the images' own distribution
        conditions += [Condition(k, "vote", "uniform") for k in settings.every_k[1:]]
    return list(dict.fromkeys(conditions))


def _choices(
    evaluator: Evaluator, outcome: Outcome, measured: Measured
) -> dict[int, Iterator[Row]]:
    """Rescore a task of choices under every condition."""
    task, items, config = measured.task, measured.items, evaluator.model.config
    encoder = evaluator.model.imagination.encoder
    rescorers = []
    for seed in measured.seeds:
        rescorers.append(Rescorer(task, items, measured.records(seed), config, encoder.scale))
    outcome.unread = encoder.unread({choice for item in items for choice in item.choices})
    outcome.baselines = _baselines(items, rescorers[0].labels)
    table = Table(evaluator, outcome, measured, *rescorers[0].entries())
    answers: dict[int, Iterator[Row]] = {}
    planned = _planned(evaluator, outcome, rescorers)
    for condition in planned:
        if condition.control == "shuffled":
            table.add_shuffled(condition, rescorers)
            continue
        values = [rescorer.rescore(*astuple(condition)) for rescorer in rescorers]
        table.add_choices(condition, rescorers, values)
        if condition == table.main:
            answers = _answers_by_seed(measured, rescorers, values)
    rule = rule_of(evaluator.model, evaluator.settings, task)
    if rule is not None:
        answers = _add_auto(evaluator, measured, rule, rescorers, table, answers)
    table.add_curve(rescorers, evaluator.settings.every_k)
    table.compare()
    outcome.groups = disparities(table, list(items))
    if any(item.distribution for item in items):
        distributions = Distributions(table, items, rescorers)
        outcome.distributions = distributions.block(planned, evaluator.settings.every_k)
    return answers


def _pairs(evaluator: Evaluator, outcome: Outcome, measured: Measured) -> dict[int, Iterator[Row]]:
    """Compare the answers of the sides of minimal pairs, with and without images."""
    main_k = evaluator.settings.main_k
    if not isinstance(main_k, int):
        raise VLMIGError(
            f"k={main_k} with the minimal pairs of {measured.task.name}; expected a number of "
            "images, the same for both sides"
        )
    rescorers, values = [], []
    for seed in measured.seeds:
        rescorer = Rescorer(
            measured.task, measured.items, measured.records(seed), evaluator.model.config
        )
        rescorers.append(rescorer)
        values.append(rescorer.rescore(main_k, *outcome.main))
    outcome.baselines = {"majority": None, "chance": None}
    outcome.pairs = pair_rows(outcome, rescorers, main_k)
    return _answers_by_seed(measured, rescorers, values)


def _add_auto(
    evaluator: Evaluator,
    measured: Measured,
    rule: Stopping,
    rescorers: Sequence[Rescorer],
    table: Table,
    answers: dict[int, Iterator[Row]],
) -> dict[int, Iterator[Row]]:
    """Add the k='auto' condition, and record how many images each item used."""
    mixture = Mixture.of(evaluator.model.config, measured.task.mix, measured.task.weights)
    counts = [rescorer.used(rule, mixture) for rescorer in rescorers]
    condition = Condition(str(evaluator.settings.auto), table.main.mix, table.main.weights)
    values, counted = [], []
    for rescorer, used in zip(rescorers, counts, strict=True):
        values.append(rescorer.rescore_each(used, condition.mix, condition.weights))
        counted.append(rescorer.counted(used.astype(float)))
    table.add_choices(condition, rescorers, values)
    table.count(condition, counted, rule.most)
    answers = answers or _answers_by_seed(measured, rescorers, values)
    with_counts = {}
    for seed, rescorer, used in zip(answers, rescorers, counts, strict=True):
        with_counts[seed] = _with_counts(answers[seed], rescorer, used)
    return with_counts


def _with_counts(rows: Iterator[Row], rescorer: Rescorer, counts: np.ndarray) -> Iterator[Row]:
    start = 0
    for row, item in zip(rows, rescorer.items, strict=True):
        end = start + len(item.questions)
        yield {**row, "used": counts[start:end].tolist()}
        start = end


def _answers_by_seed(
    measured: Measured, rescorers: Sequence[Rescorer], values: list[list[np.ndarray]]
) -> dict[int, Iterator[Row]]:
    return dict(zip(measured.seeds, map(_answers, rescorers, values), strict=True))


def _answers(rescorer: Rescorer, values: list[np.ndarray]) -> Iterator[Row]:
    """Yield for each item what mixture and text alone answer to its questions, and whether it is
    right.

    Lists have an element per question. ``loglikelihood`` has every digit, so that ``acc`` and
    ``acc_norm`` can be computed again.
    """
    right, per_character = rescorer.right(values), rescorer.right(values, per_character=True)
    scores, i = rescorer.scores("none"), 0
    lists = ("loglikelihood", "mixture", "answer", "text_answer", "correct", "correct_norm")
    for item in rescorer.items:
        row: Row = {name: [] for name in lists}
        for _ in item.questions:
            mixture = np.exp(values[i] - np.logaddexp.reduce(values[i]))
            row["loglikelihood"].append(values[i].tolist())
            row["mixture"].append([float(f"{p:.9g}") for p in mixture])
            row["answer"].append(rescorer.named(i, values[i]))
            row["text_answer"].append(rescorer.named(i, next(scores).text))
            row["correct"].append(right[i])
            row["correct_norm"].append(per_character[i])
            i += 1
        # As in results.json: the mean over wordings, or the best one where any counts.
        counted = max if rescorer.task.counted == "any" else np.mean
        if item.decided:
            row["acc"] = float(counted(row["correct"]))
            row["acc_norm"] = float(counted(row["correct_norm"]))
        else:
            del row["correct"], row["correct_norm"]
        yield row


def _sequences(evaluator: Evaluator, outcome: Outcome, measured: Measured) -> None:
    """As published: the candidate whose whole sequence has the smallest mean loss per token."""
    items = measured.items
    owner = np.repeat(np.arange(len(items)), [len(item.questions) for item in items])
    labels, _ = coded(item.choices[q.answer] for item in items for q in item.questions)
    outcome.baselines = _baselines(items, labels)
    table = Table(evaluator, outcome, measured, owner, labels)
    for k in evaluator.settings.every_k:
        right = []
        for seed in measured.seeds:
            hits: list[float] = []
            for item, record in zip(items, measured.records(seed), strict=True):
                hits += _least_loss(item, record, k)
            right.append(np.array(hits))
        table.add(Condition(k, *outcome.main), right, {}, None)
    table.compare()


def _least_loss(item: Item, record: Record, k: int) -> Iterator[float]:
    """Yield for each question whether its right candidate has the smallest mean loss."""
    means, start = np.array(record["loss"][str(k)]) / np.array(record["tokens"]), 0
    for question in item.questions:
        end = start + len(question.continuations)
        yield float(int(np.argmin(means[start:end])) == question.answer)
        start = end


def _baselines(items: Sequence[Item], labels: np.ndarray) -> dict[str, float | None]:
    """Return the accuracies of the most frequent answer, if there is one, and of guessing, where an
    answer is right."""
    wordings = [len(item.questions) for item in items]
    decided = np.repeat([item.decided for item in items], wordings)
    chances = np.repeat([1 / len(item.choices) for item in items], wordings)
    if not decided.any():
        return {"majority": None, "chance": None}
    lists, most = candidate_lists(items), None
    if lists is not None:
        most = majority(labels[decided], np.repeat(lists, wordings)[decided])
    return {"majority": most, "chance": float(chances[decided].mean())}


def _matches(evaluator: Evaluator, outcome: Outcome, measured: Measured) -> None:
    """Exact match and F1 of generated answers (SQuAD's normalization)."""

    labels, _ = coded(item.label for item in measured.items)
    table = Table(evaluator, outcome, measured, np.arange(outcome.size), labels)
    for k in evaluator.settings.every_k:
        right = [_best_match(exact_match, measured, seed, k) for seed in measured.seeds]
        overlap = [_best_match(f1, measured, seed, k) for seed in measured.seeds]
        table.add(Condition(k, *outcome.main), right, {"f1": overlap}, None)
    table.compare()


def _best_match(
    metric: Callable[[str, str], float], measured: Measured, seed: int, k: int
) -> np.ndarray:
    """Compare each item's generated answer with the right one that is most like it."""
    values = []
    for item, record in zip(measured.items, measured.records(seed), strict=True):
        answer = record["outputs"][str(k)][0]
        values.append(max(metric(answer, right) for right in item.choices))
    return np.array(values)
