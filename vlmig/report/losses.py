"""Losses per token of plain texts beside each kind of image, for the terminal."""

from __future__ import annotations

from vlmig.evaluation.run_folder import Row, main_condition
from vlmig.report.text_table import text_table

COLUMNS = {"own": "own image", "shuffled": "another's", "blank": "blank"}
"""Single images that a text is read beside."""


def loss_table(results: Row) -> str:
    """Lay out losses per token by text alone and beside images, and the paired differences; nothing
    without tasks of plain text."""
    compared = results["vlmig"].get("losses") or []
    tasks = list(dict.fromkeys(row["task"] for row in compared))
    if not tasks:
        return ""
    k = results["config"]["model_args"]["k"]
    rows = [["task", "texts", "tokens", "text-only", f"k={k}", *COLUMNS.values()]]
    for task in tasks:
        conditions = [main_condition(results, task, "all", n, "none") for n in (0, k)]
        conditions += [main_condition(results, task, "all", 1, name) for name in COLUMNS]
        text = conditions[0] or {}
        rows.append([task, str(text.get("n")), str(text.get("tokens")), *map(_loss, conditions)])
    differences = [["task", "", "", "difference", "95 % interval", "verdict", "clusters"]]
    for row in compared:
        low, high = row["ci95"]
        cells = [row["task"], f"{row['a']} less", COLUMNS.get(row["b"], row["b"])]
        cells += [f"{row['delta']:+.4f}", f"[{low:+.4f}, {high:+.4f}]", row["verdict"]]
        differences.append([*cells, str(row["clusters"])])
    title = "Loss per token, in nats (less is better)"
    return (
        f"{title}\n{text_table(rows, '<' + '>' * (len(rows[0]) - 1))}\n"
        f"{text_table(differences, '<<<>>>>')}"
    )


def _loss(condition: Row | None) -> str:
    if condition is None or "loss" not in condition:
        return "-"
    ends = condition["loss_ci95"]
    interval = f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""
    return f"{condition['loss']:.4f}{interval}"
