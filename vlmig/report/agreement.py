"""Beside what people say: the divergence of predicted distributions, for the page and the
terminal."""

from __future__ import annotations

from vlmig.evaluation.run_folder import Row
from vlmig.report.numbers import fixed, interval, percent
from vlmig.report.text_table import text_table

SHOWN = ("jsd", "jsd_ci95", "kendall", "kendall_ci95", "spearman", "acc", "acc_ci95", "n_majority")


def agreement_rows(results: Row) -> list[Row]:
    """Return a row for each task of distributions, subset, and how far people agree.

    Its ``cells`` are the conditions by name, ``single`` is one image on average, and ``against``
    has the comparisons.
    """
    block = results["vlmig"].get("distributions") or {}
    rows = []
    for base in block.get("baselines", ()):
        scope = {name: base[name] for name in ("task", "subset", "group")}
        cells = {}
        for name, fields in _cells(results, scope["task"]):
            cells[name] = _cell(block["conditions"], scope | fields)
        cells["single"] = _cell(block["curves"], scope | {"k": 1})
        config = results["configs"][scope["task"]]
        main = scope | {"mix": config["mix"], "weights": config["weights"]}
        against = {row["b"]: row for row in block["comparisons"] if main.items() <= row.items()}
        rows.append({**base, "cells": {n: c for n, c in cells.items() if c}, "against": against})
    return rows


def _cells(results: Row, task: str) -> list[tuple[str, Row]]:
    """Name the conditions that are shown, by their fields."""
    k, config = results["config"]["model_args"]["k"], results["configs"][task]
    rule = {"mix": config["mix"], "weights": config["weights"]}
    plain = {"text": (0, "none"), "caption": (0, "caption"), "blank": (k, "blank")}
    plain |= {"shuffled": (k, "shuffled"), "main": (k, "none")}
    cells = [(name, rule | {"k": n, "control": c}) for name, (n, c) in plain.items()]
    return [*cells, ("vote", {"k": k, "mix": "vote", "control": "none"})]


def _matching(rows: list[Row], wanted: Row) -> list[Row]:
    return [row for row in rows if wanted.items() <= row.items()]


def _cell(rows: list[Row], wanted: Row) -> Row | None:
    """Find a row by some of its fields, and keep what is shown of it."""
    matches = _matching(rows, wanted)
    if not matches:
        return None
    return {name: matches[0][name] for name in SHOWN if matches[0].get(name) is not None}


def agreement_charts(results: Row) -> list[Row]:
    """Return each task's curve of divergence over k, in the form of the other charts."""
    block = results["vlmig"].get("distributions") or {}
    charts = []
    for base in block.get("baselines", ()):
        if base["group"] != "all":
            continue
        scope = {name: base[name] for name in ("task", "subset", "group")}
        rule = dict(_cells(results, base["task"]))
        text = _matching(block["conditions"], scope | rule["text"])
        curve = _matching(block["curves"], scope)
        every_k = {name: value for name, value in rule["shuffled"].items() if name != "k"}
        shuffled = _matching(block["conditions"], scope | every_k)
        curves = {"none": _points([*text, *curve]), "shuffled": _points(shuffled), "blank": []}
        chart = {"task": base["task"], "subset": base["subset"], "metric": "divergence"}
        drawn = {"curves": curves, "dots": _dots(curves), "reliability": []}
        charts.append({**chart, **drawn, "chance": None})
    return charts


def _dots(curves: dict[str, list[Row]]) -> list[Row]:
    """Return what a task's plot sets side by side: text alone, others' images, one image, all."""
    points = curves["none"]
    most = max((point["k"] for point in points), default=0)
    chosen = [(point, "none") for point in points if point["k"] == 0]
    chosen += [(point, "shuffled") for point in curves["shuffled"][-1:]]
    chosen += [(point, "none") for point in points if point["k"] in (1, most) and point["k"]]
    return [{**point, "control": control} for point, control in chosen]


def _points(rows: list[Row]) -> list[Row]:
    return [{"k": row["k"], "jsd": row["jsd"], "ci95": row["jsd_ci95"]} for row in rows]


def agreement_table(results: Row) -> str:
    """Lay out divergences beside text only, one image and controls, for the terminal; nothing
    without tasks of distributions."""
    agreements = agreement_rows(results)
    if not agreements:
        return ""
    k = results["config"]["model_args"]["k"]
    columns = {"text": "text-only", "single": "k=1", "main": f"k={k}", "shuffled": "shuffled"}
    columns |= {"vote": "votes"}
    head = ["task", "subset", "group", "n", "guess", *columns.values(), "less text-only"]
    rows = [[*head, "tau text-only", f"k={k}", "right, of majorities"]]
    for row in agreements:
        cells, gain = row["cells"], row["against"].get("text-only")
        line = [row[name] for name in ("task", "subset", "group")]
        line += [str(row["n"]), fixed(row["uniform"], 3)]
        line += [_divergence(cells.get(column)) for column in columns]
        line.append(_less(gain) if gain else "-")
        for column in ("text", "main"):
            line.append(fixed(cells[column]["kendall"], 2) if column in cells else "-")
        rows.append([*line, _accuracy(cells.get("main"))])
    title = "Jensen-Shannon divergence from what people say, in nats (less is better)"
    return f"{title}\n{text_table(rows, '<<<' + '>' * (len(rows[0]) - 3))}"


def _divergence(cell: Row | None) -> str:
    if not cell:
        return "-"
    low, high = (fixed(end, 2) for end in cell["jsd_ci95"])
    return f"{fixed(cell['jsd'], 3)} [{low}, {high}]"


def _less(gain: Row) -> str:
    sign = "+" if gain["delta"] > 0 else ""
    return f"{sign}{fixed(gain['delta'], 3)} {gain['verdict']}"


def _accuracy(cell: Row | None) -> str:
    if not cell or "acc" not in cell:
        return "-"
    return f"{percent(cell['acc'])}% {interval(cell['acc_ci95'])} of {cell['n_majority']}"
