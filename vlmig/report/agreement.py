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
        part = {name: base[name] for name in ("task", "subset", "group")}
        cells = {
            name: _found(block["conditions"], part | wanted)
            for name, wanted in _cells(results, part["task"])
        }
        cells["single"] = _found(block["curves"], part | {"k": 1})
        config = results["configs"][part["task"]]
        main = part | {"mix": config["mix"], "weights": config["weights"]}
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


def _found(rows: list[Row], wanted: Row) -> Row | None:
    """Find a row by some of its fields, and keep what is shown of it."""
    for row in rows:
        if wanted.items() <= row.items():
            return {name: row[name] for name in SHOWN if row.get(name) is not None}
    return None


def agreement_charts(results: Row) -> list[Row]:
    """Return each task's curve of divergence over k, in the form of the other charts."""
    block = results["vlmig"].get("distributions") or {}
    charts = []
    for base in block.get("baselines", ()):
        if base["group"] != "all":
            continue
        part = {name: base[name] for name in ("task", "subset", "group")}
        rule = dict(_cells(results, base["task"]))
        text = [row for row in block["conditions"] if (part | rule["text"]).items() <= row.items()]
        own = [row for row in block["curves"] if part.items() <= row.items()]
        other = {name: value for name, value in rule["shuffled"].items() if name != "k"}
        shuffled = [row for row in block["conditions"] if (part | other).items() <= row.items()]
        curves = {"none": _points([*text, *own]), "shuffled": _points(shuffled), "blank": []}
        chart = {"task": base["task"], "subset": base["subset"], "metric": "divergence"}
        drawn = {"curves": curves, "dots": _dots(curves), "reliability": []}
        charts.append({**chart, **drawn, "chance": None})
    return charts


def _dots(curves: dict[str, list[Row]]) -> list[Row]:
    """Return what a task's plot sets side by side: text alone, others' images, one image, all."""
    own = curves["none"]
    most = max((point["k"] for point in own), default=0)
    chosen = [(point, "none") for point in own if point["k"] == 0]
    chosen += [(point, "shuffled") for point in curves["shuffled"][-1:]]
    chosen += [(point, "none") for point in own if point["k"] in (1, most) and point["k"]]
    return [{**point, "control": control} for point, control in chosen]


def _points(rows: list[Row]) -> list[Row]:
    return [{"k": row["k"], "jsd": row["jsd"], "ci95": row["jsd_ci95"]} for row in rows]


def agreement_table(results: Row) -> str:
    """Lay out divergences beside text only, one image and controls, for the terminal; nothing
    without tasks of distributions."""
    found = agreement_rows(results)
    if not found:
        return ""
    k = results["config"]["model_args"]["k"]
    columns = {"text": "text-only", "single": "k=1", "main": f"k={k}", "shuffled": "shuffled"}
    columns |= {"vote": "votes"}
    head = ["task", "subset", "group", "n", "guess", *columns.values(), "less text-only"]
    rows = [[*head, "tau text-only", f"k={k}", "right, of majorities"]]
    for row in found:
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
