"""What a run leaves: results.json and samples_*.jsonl in lm-eval's shape, and .eval_results/*.yaml for the Hub."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from vlmig.evaluation.evaluator import Evaluator, Measured
from vlmig.evaluation.metrics.aggregate import assemble
from vlmig.evaluation.metrics.bootstrap import holm, verdict
from vlmig.evaluation.metrics.columns import coded
from vlmig.evaluation.metrics.comparisons import Condition, compare
from vlmig.evaluation.metrics.outcome import Outcome
from vlmig.evaluation.run_folder import Row, found_row
from vlmig.evaluation.tasks.download import SOURCES
from vlmig.evaluation.tasks.items import Item, Task
from vlmig.io.atomic import write_json, write_text
from vlmig.models.checkpoint import POCKET
from vlmig.models.quantization import weight_bytes

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


def measure_tasks(evaluator: Evaluator, tasks: Sequence[Task]) -> dict[str, Any]:
    """Measure tasks one after another and write the results after each; return the last, empty in torchrun's other processes."""
    outcomes: list[Outcome] = []
    results: dict[str, Any] = {}
    for task in tasks:
        measured = evaluator.measure(task)
        if measured:
            outcome, said = assemble(evaluator, measured)
            write_text(
                evaluator.out / f"samples_{task.name}.jsonl", _lines(evaluator, measured, said)
            )
            outcomes.append(outcome)
            results = write_results(evaluator, outcomes)
    return results


def write_results(evaluator: Evaluator, outcomes: list[Outcome]) -> dict[str, Any]:
    """Write everything but samples for the tasks done so far, so that a stopped run leaves what it finished."""
    model, settings, out = evaluator.model, evaluator.settings, evaluator.out
    results = {
        "results": {o.task.name: _main_metrics(evaluator, o) for o in outcomes},
        "group_subtasks": {},
        "versions": {o.task.name: o.task.version for o in outcomes},
        "n-samples": {
            o.task.name: {"original": evaluator.available[o.task.name], "effective": o.size}
            for o in outcomes
        },
        "n-shot": {o.task.name: 0 for o in outcomes},
        "higher_is_better": {o.task.name: _directions(o) for o in outcomes},
        "configs": {o.task.name: _config(evaluator, o) for o in outcomes},
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
            "default": {"mix": model.config.mix, "weights": model.config.weights},
            "fusion": model.config.fusion,
            "conditions": [c for o in outcomes for c in o.conditions],
            "baselines": {o.task.name: o.baselines for o in outcomes},
            "comparisons": _judged(evaluator, outcomes),
            "reliability": [r for o in outcomes for r in o.reliability],
            "settings": {**asdict(settings), "protocol": model.config.protocol},
            "protocol": model.config.protocol,
            "packages": {name: _version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "device": str(model.model.device),
            "dtype": str(model.model.dtype),
            "language_model_bytes": weight_bytes(model.model.language_model),
            "seeds": list(settings.seeds),
            "identity": model.imagination.identity,
            "strength": model.config.strength,
            "doubt": model.config.doubt,
            "alignment_floor": model.config.alignment_floor,
        },
    }
    write_json(out / "results.json", results)
    if (
        settings.limit is None and settings.subset == "all"
    ):  # a part of a benchmark is not its result
        _write_for_hub(results, outcomes, out / ".eval_results")
    return results


def _config(evaluator: Evaluator, outcome: Outcome) -> dict[str, Any]:
    task = outcome.task
    kinds = {
        "choice": "multiple_choice",
        "generate": "generate_until",
        "text": "loglikelihood_rolling",
    }
    mix, weights = outcome.main
    fields = {
        "task": task.name,
        "output_type": kinds[task.kind],
        "test_split": task.split,
        "num_fewshot": 0,
    }
    fields |= {
        "scoring": task.scoring,
        "counted": task.counted,
        "policy": evaluator.settings.policy or task.policy,
    }
    return {**fields, "mix": mix, "weights": weights, "metadata": {"version": task.version}}


def _directions(outcome: Outcome) -> dict[str, bool]:
    names = {
        "choice": ("acc", "acc_norm", "balanced_acc"),
        "generate": ("exact_match", "f1"),
        "text": ("perplexity",),
    }
    return {name: name != "perplexity" for name in names[outcome.task.kind]}


def _main_metrics(evaluator: Evaluator, outcome: Outcome) -> dict[str, Any]:
    """Return the main setting's numbers under lm-eval's names."""
    subset = "covered" if evaluator.settings.subset == "covered" else "all"
    main = Condition(evaluator.settings.main_k, *outcome.main)
    row = found_row(outcome.conditions, subset=subset, **vars(main))
    if row is None:
        return {"alias": outcome.task.name}
    if row["acc"] is None:
        return {
            "alias": outcome.task.name,
            "perplexity,none": row["perplexity"],
            "perplexity_stderr,none": "N/A",
        }
    name = "exact_match" if outcome.task.kind == "generate" else "acc"
    metrics = {
        "alias": outcome.task.name,
        f"{name},none": row["acc"],
        f"{name}_stderr,none": row["stderr"],
    }
    for other in ("acc_norm", "f1"):
        if other in row:
            metrics |= {f"{other},none": row[other], f"{other}_stderr,none": row[f"{other}_stderr"]}
    if name == "acc":
        metrics |= {"balanced_acc,none": row["balanced_acc"], "balanced_acc_stderr,none": "N/A"}
    for gain in outcome.comparisons:
        if gain["b"] == "shuffled" and gain["subset"] == subset:
            metrics |= {"visual_gain,none": gain["delta"], "visual_gain_stderr,none": "N/A"}
    return metrics


def _judged(evaluator: Evaluator, outcomes: list[Outcome]) -> list[Row]:
    """Collect all comparisons, pooled ones too, and judge them as one table."""
    rows = [c for o in outcomes for c in o.comparisons] + _pooled(evaluator, outcomes)
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": p, "verdict": verdict(row["delta"], p)}
    return rows


def _pooled(evaluator: Evaluator, outcomes: list[Outcome]) -> list[Row]:
    """Compare once more over all colour tasks together, where several were run."""
    together = [
        o for o in outcomes if "color" in o.task.name and o.correct and o.main == outcomes[0].main
    ]
    if len(together) < 2:
        return []
    shared = [c for c in together[0].correct if all(c in o.correct for o in together)]
    correct = {c: np.concatenate([o.correct[c] for o in together]) for c in shared}
    clusters, _ = coded(o.names[i] for o in together for i in o.clusters)
    masks = {"all": np.ones(len(clusters), dtype=bool)}
    if evaluator.covered is not None:
        masks["covered"] = np.concatenate([o.covered for o in together if o.covered is not None])
    if evaluator.settings.subset == "covered":
        del masks["all"]
    names = " + ".join(o.task.name for o in together)
    main = Condition(evaluator.settings.main_k, *together[0].main)
    return compare(
        names, correct, main, clusters, {name: mask for name, mask in masks.items() if mask.any()}
    )


def _lines(
    evaluator: Evaluator, measured: Measured, said: Mapping[int, Iterator[Row]]
) -> Iterator[str]:
    """Yield a line per item and seed: lm-eval's fields, then every distribution the results are computed from."""
    for seed in measured.seeds:
        answers = said.get(seed) or repeat({}, len(measured.items))
        for i, (item, record, own) in enumerate(
            zip(measured.items, measured.records(seed), answers, strict=True)
        ):
            covered = None if evaluator.covered is None else evaluator.covered(item.cluster)
            row: Row = {"seed": seed, "covered": covered, **record, **own}
            row |= {"correct": own.get("acc"), **_as_lm_eval(i, item, own)}
            yield json.dumps(row) + "\n"


def _as_lm_eval(number: int, item: Item, said: Row) -> Row:
    """Return the fields that lm-eval's tools read: the first wording's requests, and what came of them."""
    first = item.questions[0]
    pairs = [(first.context(c), own) for c, own in enumerate(first.continuations)] or [
        (first.contexts[0], "")
    ]
    arguments = {
        f"gen_args_{c}": {"arg_0": context, "arg_1": own} for c, (context, own) in enumerate(pairs)
    }
    found = [round(float(np.log(max(p, 1e-9))), 6) for p in said.get("mixture", [[]])[0]]
    doc = item.described()
    right: Row = {name: said[name][0] for name in ("acc", "acc_norm") if name in said}
    row: Row = {"doc_id": number, "doc": doc, "target": item.label, "arguments": arguments}
    row |= {
        "resps": [[[value, False]] for value in found],
        "filtered_resps": [[value, False] for value in found],
    }
    row |= {"filter": "none", "metrics": list(right)} | right
    hashes = {"doc_hash": doc, "prompt_hash": first.contexts[0], "target_hash": item.label}
    return row | {name: _digest(content) for name, content in hashes.items()}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_for_hub(results: dict[str, Any], outcomes: list[Outcome], folder: Path) -> None:
    """Write the main number of each whole benchmark that is on the Hub, as the Hub reads it (.eval_results/*.yaml)."""
    for outcome in outcomes:
        task, metrics = outcome.task, results["results"][outcome.task.name]
        hub = next((SOURCES[file].hub for file in task.files if file in SOURCES), None)
        name = next((n for n in ("acc", "exact_match") if f"{n},none" in metrics), None)
        if hub is None or name is None:
            continue
        mix, weights = outcome.main
        notes = (
            f"{name}, k={results['config']['model_args']['k']}, {mix}/{weights}, split {task.split}"
        )
        entry = EvalResultEntry(
            dataset_id=hub, task_id=task.name, value=metrics[f"{name},none"], notes=notes
        )
        write_text(
            folder / f"{task.name}.yaml",
            yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False),
        )


def _git_revision() -> str | None:
    folder = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
