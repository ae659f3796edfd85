"""Describe a run's main numbers in the schema of Every Eval Ever (arXiv 2606.14516, version 0.3.0),
a shared format of evaluation records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmig.evaluation.run_folder import Row, main_condition
from vlmig.evaluation.tasks.download import SOURCES
from vlmig.evaluation.tasks.items import Task
from vlmig.models.checkpoint import EMBEDDED

SCHEMA = "0.3.0"
METRICS = {
    "acc": ("accuracy", "Accuracy"),
    "acc_norm": ("accuracy_by_characters", "Accuracy of likelihoods divided by characters"),
    "balanced_acc": ("balanced_accuracy", "Balanced accuracy"),
    "exact_match": ("exact_match", "Exact match"),
    "f1": ("f1", "F1"),
    "perplexity": ("perplexity", "Perplexity"),
}
"""Name of a number in results.json: the shared id, and how it is shown."""
TEXTS = ("mix", "weights", "policy", "scoring", "counted")
"""Fields of a task's configuration that decide its numbers."""


def record(results: Row, tasks: Sequence[Task]) -> Row:
    """Return one record of the tasks' main condition.

    Args:
        results: the content of results.json.
        tasks: those in it, for where their data come from.
    """
    time, block = str(results["date"]), results["vlmig"]
    name = results["config"]["model_args"]["pretrained"]
    developer = "vlmig" if name in EMBEDDED else "local"
    numbers: list[Row] = []
    for task in tasks:
        numbers += _numbers(results, task)
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"vlmig/{developer}/{name}/{time}",
        "evaluation_timestamp": time,
        "retrieved_timestamp": time,
        "source_metadata": {
            "source_name": "vlmig eval",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": {
            "name": "vlmig",
            "version": block["packages"].get("vlmig") or "unknown",
            "additional_details": _texts({"git_hash": results["git_hash"]}),
        },
        "model_info": _model(name, developer, block),
        "evaluation_results": numbers,
    }


def _model(name: str, developer: str, block: Row) -> Row:
    availability = "open_weights" if developer == "vlmig" else "unknown"
    names = ("fusion", "device", "dtype", "protocol", "identity")
    return {
        "name": name,
        "id": f"{developer}/{name}",
        "developer": developer,
        "inference_engine": {
            "name": "transformers",
            "version": block["packages"].get("transformers") or "unknown",
        },
        "additional_details": {
            "deployment_type": "self_deployed",
            "model_availability": availability,
            **_texts({name: block[name] for name in names}),
        },
    }


def _numbers(results: Row, task: Task) -> list[Row]:
    """Describe each of a task's main numbers."""
    scores, config = results["results"][task.name], results["configs"][task.name]
    k, subset = results["config"]["model_args"]["k"], results["config"]["subset"]
    chosen = {"k": k, "subset": subset, **{name: config[name] for name in TEXTS}}
    condition = main_condition(results, task.name, subset) or {}
    rows = []
    for name, (metric, label) in METRICS.items():
        score = scores.get(f"{name},none")
        if score is None:
            continue
        details: Row = {"score": score}
        uncertainty = _uncertainty(scores.get(f"{name}_stderr,none"), condition, name)
        if uncertainty:
            details["uncertainty"] = uncertainty
        rows.append(
            {
                "evaluation_result_id": f"{task.name}/{metric}",
                "evaluation_name": task.name,
                "source_data": _source(results, task),
                "metric_config": _metric(metric, label),
                "score_details": details,
                "generation_config": {"additional_details": _texts(chosen)},
            }
        )
    return rows


def _metric(metric: str, label: str) -> Row:
    loss = metric == "perplexity"
    return {
        "metric_id": metric,
        "metric_name": label,
        "metric_kind": metric,
        "metric_unit": "perplexity" if loss else "proportion",
        "lower_is_better": loss,
        "score_type": "continuous",
        "min_score": 1.0 if loss else 0.0,
        "max_score": "Infinity" if loss else 1.0,
    }


def _uncertainty(stderr: Any, condition: Row, name: str) -> Row:
    """Say how sure a number is; the interval is that of the condition's accuracy."""
    if not isinstance(stderr, float):
        return {}
    method = "bootstrap over objects"
    uncertainty: Row = {"standard_error": {"value": stderr, "method": method}}
    uncertainty["num_samples"] = condition["n"]
    if name in ("acc", "exact_match"):
        lower, upper = condition["ci95"]
        ends = {"lower": lower, "upper": upper, "confidence_level": 0.95, "method": method}
        uncertainty["confidence_interval"] = ends
    return uncertainty


def _source(results: Row, task: Task) -> Row:
    """Say where a task's data come from: the Hub, an address, or elsewhere."""
    known = [SOURCES[file] for file in task.files if file in SOURCES]
    hub = next((source.hub for source in known if source.hub), None)
    count = results["n-samples"][task.name]["effective"]
    if hub:
        dataset = {"source_type": "hf_dataset", "hf_repo": hub, "hf_split": task.split}
        return {"dataset_name": task.name, **dataset, "samples_number": count}
    more = _texts({"split": task.split, "samples_number": count})
    if known:
        urls = list(dict.fromkeys(source.url for source in known))
        from_urls: Row = {"source_type": "url", "url": urls}
        return {"dataset_name": task.name, **from_urls, "additional_details": more}
    return {"dataset_name": task.name, "source_type": "other", "additional_details": more}


def _texts(values: Row) -> dict[str, str]:
    """Write values as the schema wants them: as text, unknown ones left out."""
    return {name: str(value) for name, value in values.items() if value is not None}
