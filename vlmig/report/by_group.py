"""Accuracy by groups of items: the report's table, and a line for the terminal."""

from __future__ import annotations

from vlmig.evaluation.run_folder import Row


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
            low, high = (100 * bound for bound in row["acc_ci95"])
            share = f"{100 * row['acc']:.1f}% [{low:.0f}, {high:.0f}]"
            named.append(f"{end} {spread[end]} {share}, n = {row['n']}")
        low, high = (100 * bound for bound in spread["ci95"])
        apart = f"{100 * spread['spread']:.1f} points apart [{low:.0f}, {high:.0f}]"
        chance = f"groups at random as far: p = {spread['p']:.3f}"
        lines.append(f"{spread['task']} by {spread['by']}: {'; '.join(named)}; {apart}, {chance}")
    return lines
