"""A table of the main numbers, for the terminal."""

from __future__ import annotations

from typing import Any

from vlmig.evaluation.results import main_condition


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
