"""Two runs side by side, item by item: which is right where the other is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vlmig.errors import VLMIGError
from vlmig.evaluation.metrics.bootstrap import Clusters, mcnemar
from vlmig.evaluation.metrics.comparisons import judge
from vlmig.evaluation.run_folder import Row, Run, main_condition, read_run
from vlmig.imagination.store import FeatureStore
from vlmig.report.finding import comparison
from vlmig.report.items import Numbers, entry_of, item_of, rights, shares, text_of
from vlmig.report.stored_page import write_stored_page
from vlmig.report.tables import headline

NAMED = 5
"""Items listed by id when only one run has them."""


class Key(NamedTuple):
    """Identifies a wording across runs."""

    item: str
    text: str
    repeat: int
    """1 for the first wording of the item with this text, 2 for the second, ..."""


class Outcome(NamedTuple):
    """What a run measured of one wording under one seed."""

    right: bool | None
    """None where nothing is right or wrong."""
    objects: tuple[str, ...]
    """What the wording is about, one thing or two."""
    covered: bool


@dataclass
class Paired:
    """One task in both runs, wording by wording.

    The lists have one element for each wording that both runs scored, and for each pair of seeds.
    """

    task: str
    a: list[bool] = field(default_factory=list)
    """Whether the first run is right."""
    b: list[bool] = field(default_factory=list)
    clusters: list[tuple[str, ...]] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    shared: set[Key] = field(default_factory=set)
    """Wordings of both runs, scored or not."""
    items: list[str] = field(default_factory=list)
    """Ids of the items with shared wordings."""
    differing: set[str] = field(default_factory=set)
    """Ids of items with a wording that just one run gets right."""
    only: tuple[list[str], list[str]] = ([], [])
    """Ids of items with wordings that only the first run has, or only the second."""


def compare_runs(a: Path, b: Path, out: Path, store: FeatureStore) -> Path:
    """Write one page that compares two results folders.

    Raises:
        VLMIGError: a folder holds no results, they have no task in common, or the page cannot be
            written.
    """
    runs = first, second = read_run(a), read_run(b)
    seeds = _seeds(first, second)
    pairs: list[Paired] = []
    for task in first.tasks:
        if task in second.tasks:
            pairs.append(_pair(runs, task, seeds))
    if not pairs:
        raise VLMIGError(
            f"no task in common: {a} has {', '.join(first.tasks) or 'none'} and {b} has "
            f"{', '.join(second.tasks) or 'none'}; compare runs of the same tasks"
        )
    sizes = {pair.task: len(pair.items) for pair in pairs}
    counts = shares(runs, sizes, seeds=1)
    numbers: Numbers = {}
    items: list[Row] = []
    for pair in pairs:
        items += _items(runs, pair, seeds[0], counts[pair.task], numbers)
    paired = _rows(runs, pairs)
    data = {
        "kind": "comparison",
        "finding": comparison(paired),
        "k": max(first.most, second.most),
        "floor": None,
        "seeds": [],
        "heads": [headline(first), headline(second)],
        "ks": [first.k, second.k],
        "notes": [*_notes(runs, pairs, seeds), *_unshared(runs, pairs)],
        "paired": paired,
        "items": items,
        "total": sum(sizes.values()),
    }
    return write_stored_page(out, f"vlmig: {a.name} against {b.name}", data, store, numbers)


def _seeds(a: Run, b: Run) -> list[tuple[int, int]]:
    """Pair equal seeds of the runs, or the first of each if they share none."""
    shared = [(seed, seed) for seed in a.seeds if seed in b.seeds]
    return shared or [(a.seeds[0], b.seeds[0])]


def _pair(runs: tuple[Run, Run], task: str, seeds: Sequence[tuple[int, int]]) -> Paired:
    """Match the wordings of both runs by item and text."""
    first, second = _outcomes(runs[0], task), _outcomes(runs[1], task)
    paired = Paired(task)
    for seed_a, seed_b in seeds:
        outcomes = second.get(seed_b, {})
        for key, a in first.get(seed_a, {}).items():
            if key in outcomes:
                _add(paired, key, a, outcomes[key])
    paired.items = list(dict.fromkeys(paired.items))
    seed_a, seed_b = seeds[0]
    a_keys, b_keys = first.get(seed_a, {}).keys(), second.get(seed_b, {}).keys()
    paired.only = _ids(a_keys - b_keys), _ids(b_keys - a_keys)
    return paired


def _add(paired: Paired, key: Key, a: Outcome, b: Outcome) -> None:
    """Add one wording; what is right or wrong in both runs counts in the tests."""
    paired.shared.add(key)
    paired.items.append(key.item)
    if a.right is None or b.right is None:
        return
    paired.a.append(a.right)
    paired.b.append(b.right)
    paired.clusters.append(a.objects)
    paired.covered.append(a.covered)
    if a.right != b.right:
        paired.differing.add(key.item)


def _ids(keys: set[Key]) -> list[str]:
    return sorted({key.item for key in keys})


def _outcomes(run: Run, task: str) -> dict[int, dict[Key, Outcome]]:
    """Read a task's samples: seed -> wording -> outcome."""
    outcomes: dict[int, dict[Key, Outcome]] = {}
    for line in run.lines(task):
        of_seed = outcomes.setdefault(line["seed"], {})
        doc, covered = line["doc"], bool(line.get("covered"))
        objects = tuple(doc.get("things") or [doc["cluster"]])
        for key, right in zip(_keys(line), rights(run, line), strict=True):
            of_seed[key] = Outcome(right, objects, covered)
    return outcomes


def _keys(line: Row) -> Iterator[Key]:
    """Name an item's wordings in the same way for every run."""
    repeats: Counter[str] = Counter()
    for question in line["doc"]["questions"]:
        text = text_of(question)
        repeats[text] += 1
        yield Key(line["doc"]["id"], text, repeats[text])


def _rows(runs: tuple[Run, Run], pairs: Sequence[Paired]) -> list[Row]:
    """Test the difference in each task and subset; Holm corrects for the number of tests."""
    rows, unscored = [], []
    for pair in pairs:
        covered = np.array(pair.covered, dtype=bool)
        if not pair.a:
            unscored.append(_perplexities(runs, pair.task))
            continue
        rows.append(_row(pair, "all", np.ones(len(covered), dtype=bool)))
        if covered.any() and not covered.all():
            rows.append(_row(pair, "covered", covered))
    judge(rows)
    return rows + unscored


def _row(pair: Paired, subset: str, mask: np.ndarray) -> Row:
    a, b = np.array(pair.a, dtype=float)[mask], np.array(pair.b, dtype=float)[mask]
    names = np.array(pair.clusters)[mask]
    clusters = Clusters(names)
    gain = clusters.estimate(a - b, least=-1.0)
    row = {
        "task": pair.task,
        "subset": subset,
        "n": len(a),
        "delta": gain.mean,
        "ci95": [gain.low, gain.high],
        "p": gain.p,
        "mcnemar_p": mcnemar(a, b, names),
        "stderr": gain.stderr,
        "clusters": clusters.size,
        "both": int((a * b).sum()),
        "only_a": int((a > b).sum()),
        "only_b": int((b > a).sum()),
        "none": int(((1 - a) * (1 - b)).sum()),
    }
    for name, values in (("a", a), ("b", b)):
        accuracy = clusters.estimate(values)
        row[name] = {"acc": accuracy.mean, "ci95": [accuracy.low, accuracy.high]}
    return row


def _perplexities(runs: tuple[Run, Run], task: str) -> Row:
    """Put perplexities side by side, where nothing is right or wrong."""
    row: Row = {"task": task, "subset": "all"}
    for name, run in zip("ab", runs, strict=True):
        condition = main_condition(run.results, task) or {}
        row.setdefault("n", condition.get("n"))
        row[name] = {"perplexity": condition.get("perplexity")}
    return row


def _notes(
    runs: tuple[Run, Run], pairs: Sequence[Paired], seeds: Sequence[tuple[int, int]]
) -> list[str]:
    """Say how wordings and seeds were matched."""
    notes = [
        "Wordings are matched by item and text. Differences are A's accuracy minus B's; "
        "whole objects are resampled."
    ]
    first_a, first_b = seeds[0]
    if first_a != first_b:
        notes.append(
            f"The runs share no seed: seed {first_a} of A stands against seed {first_b} of B."
        )
    elif set(runs[0].seeds) != set(runs[1].seeds):
        shared = ", ".join(str(seed) for seed, _ in seeds)
        notes.append(f"Compared on the seeds of both: {shared}.")
    counted = [run.results["configs"][pair.task].get("counted") for run in runs for pair in pairs]
    if "any" in counted:
        notes.append("Every wording counts here, also where a task counts an item's best one.")
    return notes


def _unshared(runs: tuple[Run, Run], pairs: Sequence[Paired]) -> list[str]:
    """Name the tasks and items that only one of the runs has."""
    notes = []
    for name, run, other in (("A", *runs), ("B", *runs[::-1])):
        tasks = [task for task in run.tasks if task not in other.tasks]
        if tasks:
            notes.append(f"Only {name} has {_counted(len(tasks), 'task')}: {', '.join(tasks)}.")
    for pair in pairs:
        for name, ids in zip("AB", pair.only, strict=True):
            if ids:
                listed = ", ".join(ids[:NAMED]) + (", …" if len(ids) > NAMED else "")
                items = _counted(len(ids), "item")
                notes.append(f"{pair.task}: only {name} has (wordings of) {items}: {listed}.")
    return notes


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _items(
    runs: tuple[Run, Run], pair: Paired, seeds: tuple[int, int], share: int, numbers: Numbers
) -> list[Row]:
    """Read a task's items from both runs, those with differences first."""
    ids = sorted(pair.items, key=lambda name: name not in pair.differing)[:share]
    wanted = set(ids)
    items: dict[str, Row] = {}
    for run, seed in zip(runs, seeds, strict=True):
        for line in run.lines(pair.task):
            name = line["doc"]["id"]
            if line["seed"] != seed or name not in wanted:
                continue
            item, entry = item_of(pair.task, line), entry_of(run, line, numbers)
            shared = [key in pair.shared for key in _keys(line)]
            for row in (item, entry):
                row["wordings"] = list(compress(row["wordings"], shared))
            items.setdefault(name, item)["runs"].append(entry)
    return [items[name] for name in ids]
