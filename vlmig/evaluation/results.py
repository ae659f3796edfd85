"""Write results.json and samples_*.jsonl in lm-eval's format, every_eval_ever/record.json, and
.eval_results/*.yaml for the Hub."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from vlmig.evaluation.evaluator import Evaluator, Measured
from vlmig.evaluation.every_eval_ever import record
from vlmig.evaluation.metrics.aggregate import assemble
from vlmig.evaluation.metrics.columns import coded
from vlmig.evaluation.metrics.comparisons import Condition, compare, judge, mark_unread
from vlmig.evaluation.metrics.outcome import Outcome
from vlmig.evaluation.run_folder import Row, find_row
from vlmig.evaluation.tasks.download import SOURCES
from vlmig.evaluation.tasks.items import Item, Task
from vlmig.evaluation.why import explained
from vlmig.io.atomic import write_json, write_text
from vlmig.models.checkpoint import POCKET
from vlmig.models.quantization import weight_bytes
from vlmig.runtime import installed

PACKAGES = (
    "torch",
    "transformers",
    "diffusers",
    "open_clip_torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "vlmig",
)

OUTPUT_TYPES = {
    "choice": "multiple_choice",
    "generate": "generate_until",
    "text": "loglikelihood_rolling",
}
HIGHER_IS_BETTER = {
    "choice": {"acc": True, "acc_norm": True, "balanced_acc": True},
    "generate": {"exact_match": True, "f1": True},
    "text": {"perplexity": False},
}


def measure_tasks(evaluator: Evaluator, tasks: Sequence[Task]) -> dict[str, Any]:
    """Measure tasks one after another and write the results after each.

    Returns:
        The last results; empty in all but torchrun's first process.

    Raises:
        VLMIGError: a task has nothing to measure.
    """
    for task in tasks:
        evaluator.items(task)  # reports that before hours of imagining
    outcomes: list[Outcome] = []
    results: dict[str, Any] = {}
    for task in tasks:
        measured = evaluator.measure(task)
        if measured:
            outcome, answers = assemble(evaluator, measured)
            samples = _lines(evaluator, measured, answers, outcome.main)
            write_text(evaluator.out / f"samples_{task.name}.jsonl", samples)
            outcomes.append(outcome)
            results = write_results(evaluator, outcomes)
    return results


def write_results(evaluator: Evaluator, outcomes: list[Outcome]) -> dict[str, Any]:
    """Write everything but samples, for the tasks done so far: an interrupted run keeps what it
    finished."""
    model, settings, out = evaluator.model, evaluator.settings, evaluator.out
    names = [outcome.task.name for outcome in outcomes]

    def by_task(value: Callable[[Outcome], Any]) -> dict[str, Any]:
        return dict(zip(names, map(value, outcomes), strict=True))

    results = {
        "results": by_task(partial(_main_metrics, evaluator)),
        "group_subtasks": {},
        "versions": by_task(lambda o: o.task.version),
        "n-samples": by_task(
            lambda o: {"original": evaluator.available[o.task.name], "effective": o.size}
        ),
        "n-shot": dict.fromkeys(names, 0),
        "higher_is_better": by_task(lambda o: HIGHER_IS_BETTER[o.task.kind]),
        "configs": by_task(partial(_config, evaluator)),
        "config": {
            "model": "vlmig",
            "model_args": {
                "pretrained": "pocket" if model.folder == POCKET else model.folder.name,
                "k": settings.main_k,
            },
            "limit": settings.limit,
            "subset": settings.subset,
        },
        "git_hash": _git_revision(),
        "date": time.time(),
        "vlmig": {
            "conditions": list(chain(*(o.conditions for o in outcomes))),
            "baselines": by_task(lambda o: o.baselines),
            "curves": list(chain(*(o.curves for o in outcomes))),
            "comparisons": _judged(evaluator, outcomes),
            "distributions": _distributions(outcomes),
            "groups": _joined([{"rows": [], "spreads": []}, *(o.groups for o in outcomes)]),
            "pairs": list(chain(*(o.pairs for o in outcomes))),
            "losses": _losses(outcomes),
            "reliability": list(chain(*(o.reliability for o in outcomes))),
            **_setup(evaluator),
        },
    }
    write_json(out / "results.json", results)
    write_json(out / "every_eval_ever" / "record.json", record(results, [o.task for o in outcomes]))
    if settings.limit is None and settings.subset == "all":  # a part is not a benchmark's result
        _write_for_hub(results, outcomes, out / ".eval_results")
    return results


def _setup(evaluator: Evaluator) -> dict[str, Any]:
    """Describe the model, its mixture, and what it was measured with."""
    model, settings = evaluator.model, evaluator.settings
    config = model.config
    return {
        "default": {"mix": config.mix, "weights": config.weights},
        "fusion": config.fusion,
        "settings": {**asdict(settings), "protocol": config.protocol},
        "protocol": config.protocol,
        "packages": {name: installed(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": str(model.model.device),
        "dtype": str(model.model.dtype),
        "language_model_bytes": weight_bytes(model.model.language_model),
        "seeds": list(settings.seeds),
        "identity": model.imagination.identity,
        "clip_scale": model.imagination.encoder.scale,
        "strength": config.strength,
        "doubt": config.doubt,
        "alignment_floor": config.alignment_floor,
        "learned": config.learned,
    }


def _config(evaluator: Evaluator, outcome: Outcome) -> dict[str, Any]:
    task, (mix, weights) = outcome.task, outcome.main
    return {
        "task": task.name,
        "output_type": OUTPUT_TYPES[task.kind],
        "test_split": task.split,
        "num_fewshot": 0,
        "scoring": task.scoring,
        "counted": task.counted,
        "policy": evaluator.settings.policy or task.policy,
        "mix": mix,
        "weights": weights,
        "metadata": {"version": task.version},
    }


def _main_metrics(evaluator: Evaluator, outcome: Outcome) -> dict[str, Any]:
    """Return the main condition's numbers under lm-eval's names."""
    subset = "covered" if evaluator.settings.subset == "covered" else "all"
    main = Condition(evaluator.settings.main_k, *outcome.main)
    row = find_row(outcome.conditions, subset=subset, **vars(main))
    metrics: dict[str, Any] = {"alias": outcome.task.name}

    def add(name: str, value: Any, stderr: Any = "N/A") -> None:
        metrics[f"{name},none"] = value
        metrics[f"{name}_stderr,none"] = stderr

    if row is None:
        return metrics
    if row["acc"] is None:
        add("perplexity", row["perplexity"])
        return metrics
    name = "exact_match" if outcome.task.kind == "generate" else "acc"
    add(name, row["acc"], row["stderr"])
    for other in ("acc_norm", "f1"):
        if other in row:
            add(other, row[other], row[f"{other}_stderr"])
    if name == "acc":
        add("balanced_acc", row["balanced_acc"])
    for gain in outcome.comparisons:
        if gain["b"] == "shuffled" and gain["subset"] == subset:
            add("visual_gain", gain["delta"])
    return metrics


def _judged(evaluator: Evaluator, outcomes: list[Outcome]) -> list[Row]:
    """Collect all comparisons, pooled ones too, and judge them as one table."""
    rows = list(chain(*(outcome.comparisons for outcome in outcomes)))
    rows += _pooled(evaluator, outcomes)
    judge(rows)
    return rows


def _distributions(outcomes: list[Outcome]) -> dict[str, list[Row]]:
    """Join the tasks of distributions, and judge their comparisons as a table of its own."""
    joined = _joined(outcome.distributions for outcome in outcomes)
    judge(joined.get("comparisons", []))
    return joined


def _joined(blocks: Iterable[dict[str, list[Row]]]) -> dict[str, list[Row]]:
    """Join the tasks' rows under each name."""
    joined: dict[str, list[Row]] = {}
    for block in blocks:
        for name, rows in block.items():
            joined.setdefault(name, []).extend(rows)
    return joined


def _losses(outcomes: list[Outcome]) -> list[Row]:
    """Judge the comparisons of losses per token as a table of its own."""
    rows = list(chain(*(outcome.losses for outcome in outcomes)))
    judge(rows)
    return rows


def _pooled(evaluator: Evaluator, outcomes: list[Outcome]) -> list[Row]:
    """Compare over all color tasks together, where several were run."""
    pooled = []
    for outcome in outcomes:
        about_one = outcome.clusters.ndim == 2 and outcome.clusters.shape[1] == 1
        same = outcome.correct and outcome.main == outcomes[0].main
        if "color" in outcome.task.name and same and about_one and not outcome.distributions:
            pooled.append(outcome)
    if len(pooled) < 2:
        return []
    correct = {}
    for condition in pooled[0].correct:
        values = [o.correct[condition] for o in pooled if condition in o.correct]
        if len(values) == len(pooled):
            correct[condition] = np.concatenate(values)
    clusters, _ = coded(outcome.names[i] for outcome in pooled for i in outcome.clusters[:, 0])
    masks = {}
    if evaluator.settings.subset != "covered":
        masks["all"] = np.ones(len(clusters), dtype=bool)
    if evaluator.covered is not None:
        covered = np.concatenate([o.covered for o in pooled if o.covered is not None])
        if covered.any():
            masks["covered"] = covered
    names = " + ".join(outcome.task.name for outcome in pooled)
    main = Condition(evaluator.settings.main_k, *pooled[0].main)
    known = [o.single for o in pooled if o.single is not None]
    single = np.concatenate(known) if len(known) == len(pooled) else None
    compared = compare(names, correct, main, clusters, masks, single)
    mark_unread(compared, sorted(set(chain(*(outcome.unread for outcome in pooled)))))
    return compared


def _lines(
    evaluator: Evaluator,
    measured: Measured,
    answers: Mapping[int, Iterator[Row]],
    main: tuple[str, str],
) -> Iterator[str]:
    """Yield a line per item and seed: lm-eval's fields, every distribution the results are computed
    from, and ``why`` where asked for."""
    for seed in measured.seeds:
        whys = (
            explained(evaluator, measured, seed, main) if evaluator.settings.why else repeat(None)
        )
        records = measured.records(seed)
        rows = answers.get(seed) or repeat({}, len(measured.items))
        for i, item in enumerate(measured.items):
            answer = next(rows)
            covered = None if evaluator.covered is None else item.inside(evaluator.covered)
            row: Row = {"seed": seed, "covered": covered, **next(records), **answer}
            row |= {"correct": answer.get("correct"), **_as_lm_eval(i, item, answer)}
            if (why := next(whys)) is not None:
                row["why"] = why
            yield json.dumps(row) + "\n"


def _as_lm_eval(number: int, item: Item, answer: Row) -> Row:
    """Return the fields that lm-eval's tools read: the first question's requests and responses, and
    the metrics of the item, all its wordings together."""
    first = item.questions[0]
    arguments = {}
    for c, continuation in enumerate(first.continuations or ("",)):
        arguments[f"gen_args_{c}"] = {"arg_0": first.context(c), "arg_1": continuation}
    responses = []
    for loglikelihood in answer.get("loglikelihood", [[]])[0]:
        responses.append([loglikelihood, False])
    metrics: Row = {name: answer[name] for name in ("acc", "acc_norm") if name in answer}
    doc = item.described()
    return {
        "doc_id": number,
        "doc": doc,
        "target": item.label,
        "arguments": arguments,
        "resps": [[response] for response in responses],
        "filtered_resps": responses,
        "filter": "none",
        "metrics": list(metrics),
        **metrics,
        "doc_hash": _digest(doc),
        "prompt_hash": _digest(first.contexts[0]),
        "target_hash": _digest(item.label),
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_for_hub(results: dict[str, Any], outcomes: list[Outcome], folder: Path) -> None:
    """Write the main number of each whole benchmark that is on the Hub, as the Hub reads it
    (.eval_results/*.yaml)."""
    for outcome in outcomes:
        task, metrics = outcome.task, results["results"][outcome.task.name]
        hub = next((SOURCES[file].hub for file in task.files if file in SOURCES), None)
        name = next((n for n in ("acc", "exact_match") if f"{n},none" in metrics), None)
        if hub is None or name is None or outcome.distributions:
            continue  # of a distribution, accuracy is about a part of the items
        mix, weights = outcome.main
        k, value = results["config"]["model_args"]["k"], metrics[f"{name},none"]
        notes = f"{name}, k={k}, {mix}/{weights}, split {task.split}"
        entry = EvalResultEntry(dataset_id=hub, task_id=task.name, value=value, notes=notes)
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
        write_text(folder / f"{task.name}.yaml", text)


def _git_revision() -> str | None:
    command, folder = ["git", "rev-parse", "--short", "HEAD"], Path(__file__).parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
