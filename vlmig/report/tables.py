"""The report's tables and charts as data, and the table of ``vlmig eval`` for the terminal."""

from __future__ import annotations

import time

from vlmig.evaluation.metrics.rescoring import BASELINES
from vlmig.evaluation.run_folder import Row, Run, find_row, main_condition
from vlmig.report.agreement import agreement_rows
from vlmig.report.numbers import fixed, interval, percent, signed
from vlmig.report.text_table import text_table

METRICS = {"generate_until": "exact match", "loglikelihood_rolling": "perplexity"}
"""Output type of a task -> its metric, where that is not accuracy."""
OTHERS = ("acc_same_label", "acc_other_label")
"""What the control ``shuffled`` gets beside donors of the item's label, and of another one."""
CONSISTENT = ("consistent", "consistent_ci95")
"""Of pairs of things, the share that is answered alike in both orders."""
MEASURED = ("acc", "ci95", "f1", "perplexity", "ece", "donors", "unread", "pictures")
CELL = (*MEASURED, *CONSISTENT, *OTHERS)
"""What a table cell shows of a condition."""


def headline(run: Run) -> Row:
    """Describe what was measured, when and with what."""
    results, block = run.results, run.results["vlmig"]
    config = results["config"]
    seeds = ", ".join(map(str, run.seeds))
    rules = dict.fromkeys(f"{c['mix']} / {c['weights']}" for c in results["configs"].values())
    facts = {
        "model": config["model_args"]["pretrained"],
        "images": str(run.k),
        "mixture": ", ".join(rules),
        "seeds": seeds,
    }
    if config.get("limit"):
        facts["limit"] = f"{config['limit']} items of each task"
    facts["measured"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(results["date"]))
    facts["revision"] = results.get("git_hash") or "unknown"
    details = {
        "results": str(run.folder),
        "protocol": block.get("protocol"),
        "python": block.get("python"),
        "device": f"{block.get('device')}, {block.get('dtype')}",
        "seeds": seeds,
        "strength": block.get("strength"),
        "doubt": block.get("doubt"),
        "alignment_floor": block.get("alignment_floor"),
    }
    groups = {
        "generator and encoder": block.get("identity"),
        "settings": block.get("settings"),
        "packages": block.get("packages"),
        "run": details,
    }
    texts = {name: _texts(values) for name, values in groups.items() if values}
    return {"facts": facts, "details": texts}


def _texts(values: Row) -> dict[str, str]:
    """Write values as text; what is unknown or empty is left out."""
    texts = {}
    for name, value in values.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        if text not in (None, ""):
            texts[name] = str(text)
    return texts


def main_rows(run: Run) -> list[Row]:
    """Return a row of accuracies for each task and subset."""
    rows = []
    for task in run.results["results"]:
        rows += [_main_row(run, task, subset) for subset in _subsets(run, task)]
    return rows


def _subsets(run: Run, task: str) -> list[str]:
    """List the subsets a task was measured on."""
    conditions = run.results["vlmig"]["conditions"]
    return list(dict.fromkeys(row["subset"] for row in conditions if row["task"] == task))


def _main_row(run: Run, task: str, subset: str) -> Row:
    results, k = run.results, run.k
    block, config = results["vlmig"], results["configs"][task]
    settings: dict[str, tuple[int | str, str]] = {
        "text": (0, "none"),
        "few-shot": (0, "few-shot"),
        "caption": (0, "caption"),
        "blank": (k, "blank"),
        "shuffled": (k, "shuffled"),
        "main": (k, "none"),
        **{auto: (auto, "none") for auto in stopping_ks(results)},
    }
    if main_condition(results, task, subset, 1, "own"):  # single images, not imagined
        settings |= {name: (1, name) for name in ("own", "blank", "shuffled")}
    conditions = {}
    for name, (count, control) in settings.items():
        conditions[name] = main_condition(results, task, subset, count, control)
    for name in BASELINES:
        wanted = {"task": task, "subset": subset, "k": k, "mix": name, "control": "none"}
        conditions[name] = find_row(block["conditions"], **wanted)
    main, metric = conditions["main"] or {}, _metric(config)
    # "Always the commonest answer" and accuracy by answer mean nothing for free text.
    by_answer = main if metric == "accuracy" else {}
    return {
        "task": task,
        "subset": subset,
        "split": config["test_split"],
        "metric": metric,
        "n": main.get("n"),
        "chance": block["baselines"].get(task, {}).get("chance"),
        "majority": by_answer.get("majority"),
        "balanced_acc": by_answer.get("balanced_acc"),
        "cells": {name: _cell(row) for name, row in conditions.items() if row},
        "gain": _visual_gain(results, task, subset),
        "majorities": any(row["task"] == task for row in agreement_rows(results)),
    }


def _metric(config: Row) -> str:
    return METRICS.get(config["output_type"], "accuracy")


def _visual_gain(results: Row, task: str, subset: str) -> Row | None:
    """Find the comparison of the images with other objects' images."""
    for row in results["vlmig"]["comparisons"]:
        if (row["task"], row["subset"], row["b"]) == (task, subset, "shuffled"):
            return row
    return None


def _cell(condition: Row) -> Row:
    """Keep what a table cell shows of a condition."""
    return {name: condition[name] for name in CELL if condition.get(name) is not None}


def charts(run: Run) -> list[Row]:
    """Return each task's curve over k and its reliability, for all items or the first subset."""
    rows = []
    for task in run.results["results"]:
        subsets = _subsets(run, task)
        if subsets:
            rows.append(_chart(run, task, subsets[0]))
    return rows


def _dots(run: Run, task: str, subset: str) -> list[Row]:
    """Return what a task's plot sets side by side: text alone, others' images, one image, all."""
    results, k = run.results, run.k
    settings: list[tuple[int | str, str]] = [(0, "none"), (k, "shuffled"), (1, "none")]
    settings += [(count, "none") for count in (*stopping_ks(results), k)]
    averaged = find_row(_curves(run, task, subset), k=1)
    dots = []
    for count, control in dict.fromkeys(settings):
        row = main_condition(results, task, subset, count, control)
        if count == 1 and averaged is not None:
            row = averaged  # any of the images by itself, rather than the first
        if row is not None:
            dots.append({"k": count, "control": control, **_cell(row)})
    return dots


def _curves(run: Run, task: str, subset: str) -> list[Row]:
    """Return the accuracies by the number of images, over subsets of those imagined."""
    rows = run.results["vlmig"].get("curves", ())
    return [row for row in rows if (row["task"], row["subset"]) == (task, subset)]


def _chart(run: Run, task: str, subset: str) -> Row:
    results, block = run.results, run.results["vlmig"]
    rows = [row for row in block["conditions"] if row["task"] == task]
    averaged = {row["k"]: row for row in _curves(run, task, subset)}
    ks = sorted({row["k"] for row in rows if isinstance(row["k"], int)} | averaged.keys())
    curves: dict[str, list[Row]] = {}
    for control in ("none", "shuffled", "blank"):
        curves[control] = []
        for k in ks:
            row = main_condition(results, task, subset, k, control)
            if control == "none":
                row = averaged.get(k, row)
            if row:
                curves[control].append({"k": row["k"], **_cell(row)})
    reliability = []
    for count in dict.fromkeys((0, run.k)):
        measured = find_row(block["reliability"], task=task, subset=subset, k=count) or {}
        if measured.get("bins"):
            ece = (main_condition(results, task, subset, count) or {}).get("ece")
            reliability.append({"k": count, "bins": measured["bins"], "ece": ece})
    return {
        "task": task,
        "subset": subset,
        "metric": _metric(results["configs"][task]),
        "dots": _dots(run, task, subset),
        "curves": curves,
        "reliability": reliability,
        "chance": block["baselines"].get(task, {}).get("chance"),
    }


def stopping_ks(results: Row) -> list[str]:
    """List the conditions k=auto, or k=auto:LEVEL, that stand beside the main one."""
    main = results["config"]["model_args"]["k"]
    ks = dict.fromkeys(row["k"] for row in results["vlmig"]["conditions"])
    return [k for k in ks if isinstance(k, str) and k != main]


def table(results: Row) -> str:
    """Lay out accuracies beside text only, controls and baselines, for the terminal."""
    k = results["config"]["model_args"]["k"]
    settings: list[tuple[int | str, str]] = [(0, "none"), (k, "none")]
    settings += [(auto, "none") for auto in stopping_ks(results)]
    head = ["task", "subset", "n", "chance", "majority", "text-only"]
    head += [f"k={count}" for count, _ in settings[1:]]
    settings += [(k, "shuffled"), (0, "few-shot")]
    rows = [[*head, "shuffled", "few-shot", "visual gain", "both orders"]]
    for task in results["results"]:
        whole = main_condition(results, task, "all", 0)
        for subset in ("all", "covered"):
            conditions = [main_condition(results, task, subset, *setting) for setting in settings]
            text = conditions[0]
            if text is None or (subset == "covered" and whole and whole["n"] == text["n"]):
                continue
            chance = results["vlmig"]["baselines"][task].get("chance")
            row = [task, subset, str(text["n"]), _share(chance), _share(text.get("majority"))]
            row += [_accuracy(condition) for condition in conditions]
            rows.append([*row, _gain(results, task, subset), _consistent(conditions[1])])
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return text_table(rows, "<<" + ">" * (len(rows[0]) - 2))


def _consistent(condition: Row | None) -> str:
    """Say how many pairs are answered alike in both orders."""
    if condition is None or "consistent" not in condition:
        return ""
    return f"{percent(condition['consistent'])}% alike {interval(condition['consistent_ci95'])}"


def _share(share: float | None) -> str:
    return "" if share is None else f"{percent(share)}%"


def _accuracy(condition: Row | None) -> str:
    if condition is None:
        return "-"
    if condition["acc"] is None:
        return f"ppl {fixed(condition['perplexity'], 3)}"
    images = f", {fixed(condition['pictures'], 1)}" if "pictures" in condition else ""
    return f"{percent(condition['acc'])}% {interval(condition['ci95'])}{images}"


def _gain(results: Row, task: str, subset: str) -> str:
    gain = _visual_gain(results, task, subset)
    if not gain:
        return "-"
    text = f"{signed(gain['delta'])} {gain['verdict']}"
    return f"{text}, finds {percent(gain['detectable'])}" if "detectable" in gain else text
