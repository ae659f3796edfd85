"""The page of a training run: what it learned, and whether it sees."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vlmig.data.index import BAD, COUNTS, Index
from vlmig.data.sources.build import build_source
from vlmig.errors import VLMIGError, one_line
from vlmig.evaluation.run_folder import Row
from vlmig.report.data_check import samples
from vlmig.report.numbers import fixed, percent
from vlmig.report.page import data_page, write_page
from vlmig.training.loop import TIMES
from vlmig.training.material import index_folder
from vlmig.training.recipe import name_source
from vlmig.training.run import read_log

MARGIN = 0.02
"""How far the loss beside the own image is below the others' where a model sees, as a share."""
SAMPLES, LISTED = 8, 100
"""Pairs and bad records of a source on the page."""
CURVES = ("own", "shuffled", "blank", "text")


def write_training(
    out: Path,
    page: Path | None = None,
    *,
    data: Path | None = None,
    own: Mapping[str, Callable] | None = None,
) -> Path:
    """Write ``OUT/report.html`` of a training run, finished or not.

    Args:
        page: another file to write.
        data: folder that the sources' paths start from; pairs whose source is not there are left
            out.
        own: further sources by name.

    Raises:
        VLMIGError: the folder holds no such run; the page cannot be written.
    """
    try:
        recipe = json.loads((out / "training" / "recipe.json").read_text(encoding="utf-8"))
        stages = [_stage(out, stage, data, own or {}) for stage in recipe["stages"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise VLMIGError(
            f"{out} holds no training run that can be read ({error}); expected the --out of "
            "vlmig train"
        ) from error
    begun = [stage for stage in stages if stage["curves"]]
    pictures: list[str] = []
    for stage in stages:
        for source in stage["sources"]:
            for sample in source["samples"]:
                numbers = range(len(pictures), len(pictures) + len(sample["pictures"]))
                pictures += sample["pictures"]
                sample["pictures"] = list(numbers)
    values = {
        "kind": "training",
        "finding": begun[-1]["verdict"] if begun else "Nothing was trained yet.",
        "stages": stages,
        "recipe": json.dumps(recipe, indent=1),
        "pictures": pictures,
    }
    return write_page(page or out / "report.html", data_page(f"vlmig: {out.name}", values))


def _stage(out: Path, stage: Row, data: Path | None, sources: Mapping[str, Callable]) -> Row:
    try:
        log = read_log(out, stage["name"])
    except VLMIGError:  # not begun
        log = []
    curves = {}
    for name in CURVES:
        if points := _points(log, "validation", name):
            curves[name] = points
    probes = sorted({name for line in log for name in line.get("probe", {})})
    folder = out / "training"
    return {
        "name": stage["name"],
        "steps": stage.get("steps"),
        "batch": stage["batch"],
        "trains": stage["trains"],
        "verdict": verdict(log),
        "curves": curves,
        "loss": [[line["step"], line["loss"]] for line in log if "loss" in line],
        "probe": {name: _points(log, "probe", name) for name in probes},
        "speed": _speeds(folder / stage["name"] / TIMES, stage["batch"]),
        "sources": [_source(folder, dict(entry), data, sources) for entry in stage["data"]],
    }


def _points(log: list[Row], block: str, name: str) -> list[list[float]]:
    return [[line["step"], line[block][name]] for line in log if name in line.get(block, {})]


def verdict(log: list[Row]) -> str:
    """Say whether a model sees: held-out texts are likelier beside their own images than beside
    others', or a blank one, by ``MARGIN``."""
    measured = [line for line in log if "validation" in line]
    if not measured:
        return "Nothing held out was measured, so nothing tells whether it sees."
    last = measured[-1]
    own, shuffled, blank, text = (last["validation"][name] for name in CURVES)
    sees = own <= (1 - MARGIN) * min(shuffled, blank)
    numbers = [fixed(value, 3) for value in (own, shuffled, blank, text)]
    clauses = [
        f"{'It sees' if sees else 'It does not see yet'}: at step {last['step']} a held-out text "
        f"costs {numbers[0]} nats per token beside its own image, {numbers[1]} beside another's, "
        f"{numbers[2]} beside a blank one, {numbers[3]} alone"
    ]
    best = min(measured, key=lambda line: line["validation"]["own"])
    if own > (1 + MARGIN) * best["validation"]["own"]:
        lowest = fixed(best["validation"]["own"], 3)
        clauses.append(f"it was {lowest} at step {best['step']} and rises since: over-fitting")
    for name, share in last.get("probe", {}).items():
        clauses.append(f"{name}: {percent(share, 0)} %")
    return "; ".join(clauses) + "."


def _speeds(path: Path, batch: int) -> list[list[float]]:
    """Return samples per second between lines of the log; older runs have none."""
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    speeds = []
    for before, after in pairwise(lines):
        steps, seconds = after["step"] - before["step"], after["time"] - before["time"]
        if steps > 0 and seconds > 0:  # a resumed run goes back
            speeds.append([after["step"], batch * steps / seconds])
    return speeds


def _source(
    folder: Path, entry: dict[str, Any], data: Path | None, sources: Mapping[str, Callable]
) -> Row:
    """Describe a source: counts, bad records and some pairs."""
    for name in ("weight", "curate"):
        entry.pop(name, None)
    limit = entry.pop("limit", None)
    path = index_folder(folder, entry, limit)
    row: Row = {"name": name_source(entry), "counts": {}, "bad": [], "samples": [], "missing": None}
    if not (path / COUNTS).is_file():
        return row
    counts = json.loads((path / COUNTS).read_text(encoding="utf-8"))
    row["counts"] = {name: value for name, value in counts.items() if isinstance(value, int)}
    row["counts"]["bad"] = sum(counts.get("bad", {}).values())
    row["bad"] = list(_bad(path / BAD))
    try:
        source = build_source(entry, data, own=sources)
        pairs = Index(path, source)
        row["samples"] = samples(source, pairs, np.arange(len(pairs)), 0, SAMPLES)
    except VLMIGError as error:  # its data is elsewhere by now
        row["missing"] = one_line(error, whole=True)
    except AttributeError:
        row["missing"] = "its texts are cut by a tokenizer, which is not loaded here"
    return row


def _bad(path: Path) -> Iterator[Row]:
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            for _, line in zip(range(LISTED), lines, strict=False):
                yield json.loads(line)
