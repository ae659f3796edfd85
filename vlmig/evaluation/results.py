"""results.json: lm-eval's key shape for the main setting, and every condition in the block ``vlmig``."""

from __future__ import annotations

import platform
import subprocess
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from vlmig.checkpoint import write_json
from vlmig.evaluation.run import Evaluator, Outcome

PACKAGES = ("torch", "transformers", "diffusers", "open_clip_torch", "numpy", "vlmig")


def write_results(evaluator: Evaluator, outcomes: list[Outcome], out: Path) -> dict[str, Any]:
    """Assemble and write ``results.json``; called after each task, so that a stopped run leaves what it finished."""
    model, settings = evaluator.model, evaluator.settings
    rule, weights = evaluator.rules[0]
    results = {
        "results": {o.task.name: _main_metrics(evaluator, o) for o in outcomes},
        "versions": {o.task.name: o.task.version for o in outcomes},
        "n-samples": {o.task.name: {"original": len(o.items), "effective": len(o.items)} for o in outcomes},
        "n-shot": {o.task.name: 0 for o in outcomes},
        "configs": {o.task.name: {"task": o.task.name, "output_type": o.task.kind} for o in outcomes},
        "config": {
            "model": "vlmig",
            "model_args": {"pretrained": str(model.folder.name), "k": evaluator.main_k},
            "limit": settings.limit,
        },
        "git_hash": _git_revision(),
        "date": time.time(),
        "vlmig": {
            "default": {"mix": rule, "weights": weights},
            "protocol": model.config.protocol,
            "conditions": [c for o in outcomes for c in o.conditions],
            "baselines": {o.task.name: o.baselines for o in outcomes},
            "comparisons": [c for o in outcomes for c in o.comparisons] + _pooled(evaluator, outcomes),
            "packages": {name: _version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "device": str(model.model.device),
            "dtype": str(model.model.dtype),
            "seeds": list(settings.seeds),
            "identity": model.imagination.identity,
            "imagination": {"policy": settings.policy, **asdict(model.imagination.tally)},
            "strength": model.config.strength,
            "doubt": model.config.doubt,
            "alignment_floor": model.config.alignment_floor,
        },
    }
    write_json(out / "results.json", results)
    return results


def main_condition(
    evaluator: Evaluator, outcome: Outcome, subset: str = "all", k: int | None = None
) -> dict[str, Any] | None:
    """Find the condition of the main setting, or of another k beside it."""
    rule, weights = evaluator.rules[0]
    wanted = {
        "subset": subset,
        "k": evaluator.main_k if k is None else k,
        "mix": rule,
        "weights": weights,
        "control": "none",
    }
    for condition in outcome.conditions:
        if all(condition[name] == value for name, value in wanted.items()):
            return condition
    return None


def _main_metrics(evaluator: Evaluator, outcome: Outcome) -> dict[str, Any]:
    condition = main_condition(evaluator, outcome)
    if condition is None:
        return {"alias": outcome.task.name}
    if condition["acc"] is None:
        return {"alias": outcome.task.name, "perplexity,none": condition["perplexity"], "perplexity_stderr,none": "N/A"}
    return {
        "alias": outcome.task.name,
        "acc,none": condition["acc"],
        "acc_stderr,none": condition["stderr"],
        "balanced_acc,none": condition["balanced_acc"],
        "balanced_acc_stderr,none": "N/A",
    }


def _pooled(evaluator: Evaluator, outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Compare once more over all colour tasks together, where several were run."""
    together = [o for o in outcomes if "color" in o.task.name and o.correct]
    if len(together) < 2:
        return []
    correct = {key: np.concatenate([o.correct[key] for o in together]) for key in together[0].correct}
    clusters = [item.cluster for o in together for item in o.items for _ in item.contexts]
    masks = [evaluator.subsets(o.items) for o in together]
    sizes = [sum(len(i.contexts) for i in o.items) for o in together]
    empty = [np.zeros(n, dtype=bool) for n in sizes]
    pooled = {s: np.concatenate([m.get(s, e) for m, e in zip(masks, empty, strict=True)]) for s in ("all", "covered")}
    names = " + ".join(o.task.name for o in together)
    return evaluator.compare(names, correct, clusters, {s: m for s, m in pooled.items() if m.any()})


def _git_revision() -> str | None:
    folder = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
