"""The page's tables and charts as data: rows of results.json, put side by side."""

from __future__ import annotations

import time
from typing import Any

from vlmig.evaluation.metrics.rescoring import BASELINES
from vlmig.evaluation.run_folder import EVERY_SEED, Row, Run, main_condition


def headline(run: Run) -> Row:
    """Say what was measured, when and with what."""
    results, block = run.results, run.results["vlmig"]
    default = block.get("default", {})
    facts = {"model": results["config"]["model_args"]["pretrained"], "pictures": str(run.k)}
    facts |= {"mixture": " / ".join(default.values()), "seeds": ", ".join(map(str, run.seeds))}
    if results["config"].get("limit"):
        facts["limit"] = f"first {results['config']['limit']} items of each task"
    facts["measured"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(results["date"]))
    facts["revision"] = results.get("git_hash") or "unknown"
    details = {"results": str(run.folder), "protocol": block.get("protocol"), "python": block.get("python")}
    details |= {"device": f"{block.get('device')}, {block.get('dtype')}", "seeds": ", ".join(map(str, run.seeds))}
    details |= {name: block.get(name) for name in ("strength", "doubt", "alignment_floor")}
    groups = {"generator and encoder": block.get("identity"), "settings": block.get("settings")}
    groups |= {"packages": block.get("packages"), "run": details}
    return {"facts": facts, "details": {name: _texts(own) for name, own in groups.items() if own}}


def _texts(values: Row) -> Row:
    """Write values down as a reader would."""
    shown = {name: ", ".join(map(str, v)) if isinstance(v, list | tuple) else v for name, v in values.items()}
    return {name: str(value) for name, value in shown.items() if value not in (None, "")}


def main_rows(run: Run) -> list[Row]:
    """Put each task's and subset's accuracies side by side."""
    return [_main_row(run, task, subset) for task in run.results["results"] for subset in subsets(run, task)]


def subsets(run: Run, task: str) -> list[str]:
    """List the subsets a task was measured on."""
    return list(dict.fromkeys(c["subset"] for c in run.results["vlmig"]["conditions"] if c["task"] == task))


def _main_row(run: Run, task: str, subset: str) -> Row:
    results, k = run.results, run.k
    places: dict[str, tuple[int | str, str]] = {
        "text": (0, "none"),
        "few-shot": (0, "few-shot"),
        "caption": (0, "caption"),
    }
    places |= {"blank": (k, "blank"), "shuffled": (k, "shuffled"), "main": (k, "none")}
    found = {name: main_condition(results, task, subset, *place) for name, place in places.items()}
    found |= {name: _baseline(run, task, subset, name) for name in BASELINES}
    main, config = found["main"] or {}, results["configs"][task]
    row = {"task": task, "subset": subset, "split": config["test_split"], "metric": _metric(config)}
    row |= {"n": main.get("n"), "chance": results["vlmig"]["baselines"].get(task, {}).get("chance")}
    # "Always the commonest answer" and accuracy by answer mean nothing where answers are written freely.
    shared = _metric(config) == "accuracy"
    row |= {name: main.get(name) if shared else None for name in ("majority", "balanced_acc")}
    gains = (
        c for c in results["vlmig"]["comparisons"] if (c["task"], c["subset"], c["b"]) == (task, subset, "shuffled")
    )
    return row | {"cells": {name: cell(own) for name, own in found.items() if own}, "gain": next(gains, None)}


def _metric(config: Row) -> str:
    return {"generate_until": "exact match", "loglikelihood_rolling": "perplexity"}.get(
        config["output_type"], "accuracy"
    )


def _baseline(run: Run, task: str, subset: str, name: str) -> Row | None:
    """Find another way to use the same pictures."""
    wanted = {"task": task, "subset": subset, "mix": name, "k": run.k, "control": "none"}
    rows = [c for c in run.results["vlmig"]["conditions"] if all(c[key] == value for key, value in wanted.items())]
    return next((c for c in rows if c["seed"] == EVERY_SEED), rows[0] if rows else None)


def cell(condition: Row) -> Row:
    """Keep what a cell shows of a condition."""
    names = ("acc", "ci95", "f1", "perplexity", "ece")
    return {name: condition[name] for name in names if condition.get(name) is not None}


def charts(run: Run) -> list[Row]:
    """Collect each task's curve over k and its reliability, for all items or the only subset there is."""
    return [_chart(run, task, subsets(run, task)[0]) for task in run.results["results"] if subsets(run, task)]


def _chart(run: Run, task: str, subset: str) -> Row:
    results, block = run.results, run.results["vlmig"]
    ks = sorted({c["k"] for c in block["conditions"] if c["task"] == task and isinstance(c["k"], int)})
    curves = {}
    for control in ("none", "shuffled", "blank"):
        rows = [main_condition(results, task, subset, k, control) for k in ks]
        curves[control] = [{"k": row["k"], **cell(row)} for row in rows if row]
    plots = {k: _reliability(block["reliability"], task, subset, k) for k in dict.fromkeys((0, run.k))}
    eces = {k: (main_condition(results, task, subset, k) or {}).get("ece") for k in plots}
    shown = [{"k": k, "bins": bins, "ece": eces[k]} for k, bins in plots.items() if bins]
    chart = {"task": task, "subset": subset, "metric": _metric(results["configs"][task])}
    return chart | {"curves": curves, "reliability": shown, "chance": block["baselines"].get(task, {}).get("chance")}


def _reliability(rows: list[Row], task: str, subset: str, k: int | str) -> Any:
    found = [row for row in rows if (row["task"], row["subset"], row["k"]) == (task, subset, k)]
    return next((row for row in found if row["seed"] == EVERY_SEED), found[0] if found else {}).get("bins")


def rounded(value: Any) -> Any:
    """Round all numbers inside to four digits behind the point; p-values below keep two that count."""
    if isinstance(value, float):
        return (round(value, 4) if abs(value) >= 0.001 else float(f"{value:.2g}")) if value == value else None
    if isinstance(value, dict):
        return {name: rounded(own) for name, own in value.items()}
    return [rounded(own) for own in value] if isinstance(value, list | tuple) else value


def table(results: dict[str, Any]) -> str:
    """Format the accuracies of the main setting beside text-only, controls and baselines, for the terminal."""
    k = results["config"]["model_args"]["k"]
    columns = {
        "text-only": (0, "none"),
        f"k={k}": (k, "none"),
        "shuffled": (k, "shuffled"),
        "few-shot": (0, "few-shot"),
    }
    width = max(map(len, results["results"])) + 2
    head = f"{'task':<{width}}{'subset':<9}{'n':>5} {'chance':>7}{'majority':>9}"
    lines = [head + "".join(f"{name:>24}" for name in columns) + f"{'visual gain':>22}"]
    for task in results["results"]:
        for subset in ("all", "covered"):
            rows = [main_condition(results, task, subset, *place) for place in columns.values()]
            whole = main_condition(results, task, "all", 0)
            if rows[0] is None or (subset == "covered" and whole is not None and whole["n"] == rows[0]["n"]):
                continue
            chance = results["vlmig"]["baselines"][task].get("chance")
            most = rows[0].get("majority")
            line = f"{task:<{width}}{subset:<9}{rows[0]['n']:>5} {_percent(chance):>7}{_percent(most):>9}"
            lines.append(line + "".join(f"{_cell(row):>24}" for row in rows) + f"{_gain(results, task, subset):>22}")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"


def _gain(results: dict[str, Any], task: str, subset: str) -> str:
    """Format the visual gain: with pictures minus another object's pictures."""
    for c in results["vlmig"]["comparisons"]:
        if (c["task"], c["subset"], c["b"]) == (task, subset, "shuffled"):
            return f"{100 * c['delta']:+.1f} {c['verdict']}"
    return "-"


def _cell(condition: dict[str, Any] | None) -> str:
    if condition is None:
        return "-"
    if condition["acc"] is None:
        return f"ppl {condition['perplexity']:.3f}"
    low, high = (100 * x for x in condition["ci95"])
    pictures = f", {condition['pictures']:.1f}" if "pictures" in condition else ""
    return f"{100 * condition['acc']:.1f}% [{low:.0f}, {high:.0f}]{pictures}"
