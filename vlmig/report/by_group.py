"""Accuracy by groups of items, and minimal pairs: the report's tables, and lines for the
terminal."""

from __future__ import annotations

from vlmig.evaluation.run_folder import Row
from vlmig.report.numbers import fixed, interval, percent


def group_rows(results: Row) -> Row | None:
    """Return what the page draws of groups; None where no task has any."""
    groups = results["vlmig"].get("groups") or {}
    if not groups.get("rows"):
        return None
    return {"rows": groups["rows"], "spreads": spread_lines(results)}


def pair_lines(results: Row) -> list[str]:
    """Say of each audit how far apart the sides of its pairs are, with images and without."""
    lines = []
    for row in results["vlmig"].get("pairs", ()):
        if row["group"] != "all":
            continue
        clauses = [f"{row['task']} ({row['n']} pairs): total variation of the sides"]
        clauses.append(f"text only {_share(row, 'text')}, k={row['k']} {_share(row, 'images')}")
        low, high = row["change_ci95"]
        clauses.append(f"change {row['change']:+.3f} [{low:+.3f}, {high:+.3f}]")
        if "within" in row:
            clauses.append(f"between halves of one side's images {_share(row, 'within')}")
        lines.append("; ".join(clauses))
    return lines


def _share(row: Row, name: str) -> str:
    low, high = row[f"{name}_ci95"]
    return f"{row[name]:.3f} [{low:.3f}, {high:.3f}]"


def spread_lines(results: Row) -> list[str]:
    """Say of each grouping which group is served worst."""
    groups = results["vlmig"].get("groups") or {}
    accuracies = {}
    for row in groups.get("rows", ()):
        accuracies[row["task"], row["by"], row["group"]] = row
    lines = []
    for spread in groups.get("spreads", ()):
        named = []
        for end in ("worst", "best"):
            row = accuracies[spread["task"], spread["by"], spread[end]]
            share = f"{percent(row['acc'])}% {interval(row['acc_ci95'])}"
            named.append(f"{end} {spread[end]} {share}, n = {row['n']}")
        apart = f"{percent(spread['spread'])} points apart {interval(spread['ci95'])}"
        chance = f"groups at random as far: p = {fixed(spread['p'], 3)}"
        lines.append(f"{spread['task']} by {spread['by']}: {'; '.join(named)}; {apart}, {chance}")
    return lines
