"""Accuracy by groups of items: the report's table, and a line for the terminal."""

from __future__ import annotations

from vlmig.evaluation.run_folder import Row
from vlmig.report.numbers import fixed, interval, percent


def group_rows(results: Row) -> Row | None:
    """Return what the page draws of groups; None where no task has any."""
    found = results["vlmig"].get("groups") or {}
    if not found.get("rows"):
        return None
    return {"rows": found["rows"], "spreads": spread_lines(results)}


def spread_lines(results: Row) -> list[str]:
    """Say of each grouping which group is served worst."""
    found = results["vlmig"].get("groups") or {}
    accuracies = {}
    for row in found.get("rows", ()):
        accuracies[row["task"], row["by"], row["group"]] = row
    lines = []
    for spread in found.get("spreads", ()):
        named = []
        for end in ("worst", "best"):
            row = accuracies[spread["task"], spread["by"], spread[end]]
            share = f"{percent(row['acc'])}% {interval(row['acc_ci95'])}"
            named.append(f"{end} {spread[end]} {share}, n = {row['n']}")
        apart = f"{percent(spread['spread'])} points apart {interval(spread['ci95'])}"
        chance = f"groups at random as far: p = {fixed(spread['p'], 3)}"
        lines.append(f"{spread['task']} by {spread['by']}: {'; '.join(named)}; {apart}, {chance}")
    return lines
