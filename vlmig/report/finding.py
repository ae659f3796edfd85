"""What a run found, or two runs compared, in one sentence; from paired differences whose p-values
are corrected for their number (Holm)."""

from __future__ import annotations

from collections.abc import Sequence

from vlmig.evaluation.run_folder import Row, main_condition
from vlmig.report.agreement import agreement_rows
from vlmig.report.numbers import fixed, listed, percent

NUMBERED, NAMED = 3, 6
"""Of tasks without a difference, how many at most are listed with their numbers, or named."""
Effects = dict[str, list[str]]
"""Kind of effect -> the tasks that show it, with their numbers."""


def finding(results: Row) -> str:
    """Say on which tasks images change the answers, and whether any images would."""
    effects: Effects = {name: [] for name in ("help", "alike", "harm", "none", "untested")}
    people = {row["task"]: row for row in agreement_rows(results) if row["group"] == "all"}
    for task in results["results"]:
        subset = _subset(results, task)
        row = people.get(task)
        against = row["against"] if row else _against(results, task, subset)
        gain = against.get("text-only")
        if gain is None:
            effects["untested"] += _perplexity(results, task) + _apart(results, task)
            continue
        values = _nats(row) if row else _values(results, task, subset)
        kind = _kind(gain, against.get("shuffled"))
        if kind == "none" and not row and "detectable" in gain:
            values += f"; {percent(gain['detectable'], 0)} points would have been found"
        effects[kind].append(f"{task} ({values})")
    subsets = {_subset(results, task) for task in results["results"]}
    where = "" if "all" in subsets else "of the covered items, "
    return _sentence(effects, where)


def comparison(rows: Sequence[Row]) -> str:
    """Say which of two runs, A and B, is better at what; ``rows`` are tests of A against B."""
    effects: Effects = {name: [] for name in ("better", "worse", "tied", "untested")}
    for row in rows:
        if row["subset"] != "all":
            continue
        if "verdict" not in row:
            values = [fixed(row[name].get("perplexity") or float("nan"), 2) for name in "ab"]
            effects["untested"].append(f"the perplexity of {row['task']} is {' and '.join(values)}")
            continue
        better, other = "ba" if row["verdict"] == "worse" else "ab"
        values = [percent(row[name]["acc"], 0) for name in (better, other)]
        text = f"{values[0]} against {values[1]} %"
        if row["verdict"] == "tied":
            text += f"; {percent(row['detectable'], 0)} points would have been found"
        effects[row["verdict"]].append(f"{row['task']} ({text})")
    clauses = []
    for name, verdict in (("A", "better"), ("B", "worse")):
        if effects[verdict]:
            clauses.append(f"{name} is better at {listed(effects[verdict])}")
    if effects["tied"]:
        clauses.append(f"no difference was found on {_shortened(effects['tied'])}")
    return sentence([*clauses, *effects["untested"]])


def _subset(results: Row, task: str) -> str:
    """Return the subset of the headline: all items where they were measured."""
    rows = results["vlmig"]["conditions"]
    return next((row["subset"] for row in rows if row["task"] == task), "all")


def _against(results: Row, task: str, subset: str) -> dict[str, Row]:
    """Return the main condition's comparisons, by what it is compared with."""
    rows = results["vlmig"]["comparisons"]
    return {row["b"]: row for row in rows if (row["task"], row["subset"]) == (task, subset)}


def _kind(gain: Row, visual: Row | None) -> str:
    """Tell what images do: ``help``, ``harm`` or ``none``; ``alike`` where others' images help too.

    Args:
        gain: the comparison with text alone.
        visual: the comparison with other objects' images; None if it was not measured.
    """
    if gain["verdict"] == "better":
        return "help" if visual is None or visual["verdict"] == "better" else "alike"
    return "harm" if gain["verdict"] == "worse" else "none"


def _values(results: Row, task: str, subset: str) -> str:
    """Write the accuracies by text alone, with images and with others', in percent."""
    values = {}
    for name, k, control in (
        ("text", 0, "none"),
        ("main", None, "none"),
        ("shuffled", None, "shuffled"),
    ):
        row = main_condition(results, task, subset, k, control)
        if row is not None and row["acc"] is not None:
            values[name] = percent(row["acc"], 0)
    return _written(values, " %")


def _nats(row: Row) -> str:
    """Write the divergences from what people say."""
    values = {}
    for name in ("text", "main", "shuffled"):
        if name in row["cells"]:
            values[name] = fixed(row["cells"][name]["jsd"], 2)
    return _written(values, " nats from people's")


def _written(values: dict[str, str], unit: str) -> str:
    shuffled = f", shuffled {values['shuffled']}" if "shuffled" in values else ""
    return f"{values.get('text', '?')} -> {values.get('main', '?')}{unit}{shuffled}"


def _perplexity(results: Row, task: str) -> list[str]:
    """Write the perplexities of a task of texts, which no test compares."""
    alone, main = (main_condition(results, task, "all", k) for k in (0, None))
    if not (alone and main and alone.get("perplexity") and main.get("perplexity")):
        return []
    values = [fixed(row["perplexity"], 2) for row in (alone, main)]
    return [f"the perplexity of {task} is {' -> '.join(values)}"]


def _apart(results: Row, task: str) -> list[str]:
    """Write how far apart the two sides of an audit's pairs are answered."""
    texts = []
    for row in results["vlmig"].get("pairs", ()):
        if (row["task"], row["group"]) == (task, "all"):
            alone, images = (fixed(row[name], 2) for name in ("text", "images"))
            texts.append(f"the sides of {task} are {alone} -> {images} apart (total variation)")
    return texts


def _sentence(effects: Effects, where: str) -> str:
    clauses = []
    if effects["help"]:
        clauses.append(f"images help {listed(effects['help'])}")
    if effects["alike"]:
        clauses.append(f"other objects' images help as much with {listed(effects['alike'])}")
    if effects["harm"]:
        clauses.append(f"images harm {listed(effects['harm'])}")
    if none := effects["none"]:
        clauses.append(f"no effect of images was found on {_shortened(none)}")
    clauses += effects["untested"]
    if not clauses:
        return "Nothing here tells what images do: measure with --k 0,6."
    return sentence([where + clauses[0], *clauses[1:]])


def _shortened(tasks: Sequence[str]) -> str:
    """List a few tasks with their numbers, some without, and count many."""
    if len(tasks) <= NUMBERED:
        return listed(tasks)
    if len(tasks) <= NAMED:
        return listed([text.partition(" (")[0] for text in tasks])
    return f"{len(tasks)} tasks"


def sentence(clauses: Sequence[str]) -> str:
    """Join what was found, as a sentence."""
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."
