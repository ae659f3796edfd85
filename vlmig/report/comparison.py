"""Two runs side by side, item by item: which is right where the other is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlmig.errors import VLMIGError
from vlmig.evaluation.metrics.bootstrap import Clusters, holm, mcnemar, verdict
from vlmig.evaluation.run_folder import Row, Run, main_condition, read_run
from vlmig.imagination.store import FeatureStore
from vlmig.report.items import Numbers, entry_of, item_of, rights, shares, text_of
from vlmig.report.page import write_stored_page
from vlmig.report.tables import headline

NAMED = 5
"""Of the items that only one run has, so many are named."""
Place = tuple[str, str, int]
"""An item's id, a wording's text, and which it is where a text occurs more than once."""


@dataclass
class Paired:
    """One task in both runs, wording by wording."""

    task: str
    places: list[Place]
    """Of each entry: what both runs have, for each pair of seeds."""
    a: np.ndarray
    b: np.ndarray
    """Right or wrong, (entries,)."""
    clusters: np.ndarray
    covered: np.ndarray
    only: tuple[list[str], list[str]]
    """Ids of items with wordings that only one of the runs has."""
    differing: set[str] = field(default_factory=set)
    """Ids of items with a wording that just one run gets right."""


def compare_runs(a: Path, b: Path, out: Path, store: FeatureStore) -> Path:
    """Write one page that compares two results folders.

    Raises:
        VLMIGError: a folder holds no results, or they have no task in common.
    """
    runs = read_run(a), read_run(b)
    shared = [task for task in runs[0].tasks if task in runs[1].tasks]
    if not shared:
        found = " and ".join(f"{run.folder} has {', '.join(run.tasks) or 'none'}" for run in runs)
        raise VLMIGError(f"no task in common: {found}; compare runs of the same tasks")
    seeds = _seeds(*runs)
    pairs = [_paired(runs, task, seeds) for task in shared]
    sizes = {pair.task: len({place[0] for place in pair.places}) for pair in pairs}
    numbers, counts = Numbers(), shares(runs, sizes, seeds=1)
    items = [item for pair in pairs for item in _items(runs, pair, seeds[0], counts[pair.task], numbers)]
    data = {"kind": "comparison", "k": max(run.most for run in runs), "floor": None, "seeds": []}
    data |= {
        "heads": [headline(run) for run in runs],
        "ks": [run.k for run in runs],
        "notes": _notes(runs, pairs, seeds),
    }
    data |= {"paired": _rows(runs, pairs), "items": items, "total": sum(sizes.values())}
    return write_stored_page(out, f"vlmig: {a.name} against {b.name}", data, store, numbers)


def _seeds(a: Run, b: Run) -> list[tuple[int, int]]:
    """Pair the runs' seeds: the same ones; the first of each where none is the same."""
    return [(seed, seed) for seed in a.seeds if seed in b.seeds] or [(a.seeds[0], b.seeds[0])]


def _paired(runs: tuple[Run, Run], task: str, seeds: Sequence[tuple[int, int]]) -> Paired:
    """Match the wordings of both runs by item and text."""
    left, right = (_marks(run, task) for run in runs)
    places = [[(seed, place) for place in left.get(seed, {}) if place in right.get(other, {})] for seed, other in seeds]
    both = [(left[s][p], right[dict(seeds)[s]][p], p) for own in places for s, p in own]
    scored = [(a, b, place) for a, b, place in both if a[0] is not None and b[0] is not None]
    first = left.get(seeds[0][0], {}), right.get(seeds[0][1], {})
    only = tuple(sorted({p[0] for p in first[i] if p not in first[1 - i]}) for i in (0, 1))
    return Paired(
        task,
        [place for _, _, place in both],
        np.array([a[0] for a, _, _ in scored], dtype=float),
        np.array([b[0] for _, b, _ in scored], dtype=float),
        np.array([a[1] for a, _, _ in scored], dtype=str),
        np.array([bool(a[2]) for a, _, _ in scored], dtype=bool),
        (only[0], only[1]),
        {place[0] for a, b, place in scored if a[0] != b[0]},
    )


def _marks(run: Run, task: str) -> dict[int, dict[Place, tuple[bool | None, str, Any]]]:
    """Say by seed and wording whether it is right, what it is about and whether that is covered."""
    marks: dict[int, dict[Place, tuple[bool | None, str, Any]]] = {}
    for line in run.lines(task):
        own = marks.setdefault(line["seed"], {})
        for place, right in zip(_named(line), rights(run, line), strict=True):
            own[place] = right, line["doc"]["cluster"], line.get("covered")
    return marks


def _named(line: Row) -> Iterator[Place]:
    """Name an item's wordings so that they are found in another run."""
    seen: dict[str, int] = {}
    for question in line["doc"]["questions"]:
        text = text_of(question)
        seen[text] = seen.get(text, 0) + 1
        yield line["doc"]["id"], text, seen[text]


def _rows(runs: tuple[Run, Run], pairs: Sequence[Paired]) -> list[Row]:
    """Test each task's and subset's difference; the verdicts take the number of tests into account."""
    rows = []
    for pair in pairs:
        masks = {"all": np.ones(len(pair.a), dtype=bool), "covered": pair.covered}
        for subset, mask in masks.items():
            if mask.any() and (subset == "all" or not mask.all()):
                rows.append(_row(pair, subset, mask))
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": p, "verdict": verdict(row["delta"], p)}
    return rows + [_perplexities(runs, pair.task) for pair in pairs if not len(pair.a)]


def _row(pair: Paired, subset: str, mask: np.ndarray) -> Row:
    a, b, clusters = pair.a[mask], pair.b[mask], Clusters(pair.clusters[mask])
    gain = clusters.estimate(a - b, least=-1.0)
    row: Row = {"task": pair.task, "subset": subset, "n": len(a), "delta": gain.mean, "ci95": [gain.low, gain.high]}
    row |= {"p": gain.p, "mcnemar_p": mcnemar(a, b, pair.clusters[mask]), "both": int((a * b).sum())}
    row |= {"only_a": int((a > b).sum()), "only_b": int((b > a).sum()), "none": int(((1 - a) * (1 - b)).sum())}
    for name, values in (("a", a), ("b", b)):
        own = clusters.estimate(values)
        row[name] = {"acc": own.mean, "ci95": [own.low, own.high]}
    return row


def _perplexities(runs: tuple[Run, Run], task: str) -> Row:
    """Put perplexities side by side, where nothing is right or wrong."""
    found = [main_condition(run.results, task) or {} for run in runs]
    cells = [{"perplexity": own.get("perplexity")} for own in found]
    return {"task": task, "subset": "all", "n": found[0].get("n"), "a": cells[0], "b": cells[1]}


def _notes(runs: tuple[Run, Run], pairs: Sequence[Paired], seeds: Sequence[tuple[int, int]]) -> list[str]:
    """Say what was matched how, and what only one of the runs has."""
    notes = [
        "Wordings are matched by item and text. Differences are A's accuracy minus B's; whole objects are resampled."
    ]
    if any(a != b for a, b in seeds):
        notes.append(f"The runs share no seed: seed {seeds[0][0]} of A stands against seed {seeds[0][1]} of B.")
    elif set(runs[0].seeds) != set(runs[1].seeds):
        notes.append(f"Compared on the seeds of both: {', '.join(str(seed) for seed, _ in seeds)}.")
    if any(run.results["configs"][pair.task].get("counted") == "any" for run in runs for pair in pairs):
        notes.append("Every wording counts here, also where a task counts an item's best one.")
    for name, own, other in (("A", *runs), ("B", *runs[::-1])):
        tasks = [task for task in own.tasks if task not in other.tasks]
        if tasks:
            notes.append(f"Only {name} has {_counted(len(tasks), 'task')}: {', '.join(tasks)}.")
    for pair in pairs:
        for name, ids in zip("AB", pair.only, strict=True):
            if ids:
                shown = ", ".join(ids[:NAMED]) + (", …" if len(ids) > NAMED else "")
                notes.append(f"{pair.task}: only {name} has (wordings of) {_counted(len(ids), 'item')}: {shown}.")
    return notes


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _items(runs: tuple[Run, Run], pair: Paired, seeds: tuple[int, int], share: int, numbers: Numbers) -> list[Row]:
    """Read a task's items from both runs, those with differences first."""
    ids = sorted(dict.fromkeys(place[0] for place in pair.places), key=lambda name: name not in pair.differing)[:share]
    places = set(pair.places)
    items: dict[str, Row] = {}
    for run, seed in zip(runs, seeds, strict=True):
        wanted = set(ids)
        for line in run.lines(pair.task):
            name = line["doc"]["id"]
            if line["seed"] == seed and name in wanted:
                item, entry = item_of(pair.task, line), entry_of(run, line, numbers)
                kept = [i for i, place in enumerate(_named(line)) if place in places]
                item["wordings"], entry["wordings"] = ([own["wordings"][i] for i in kept] for own in (item, entry))
                items.setdefault(name, item)["runs"].append(entry)
    return [items[name] for name in ids]
