"""A results folder as it was written: results.json, and the samples line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError

Row = dict[str, Any]
LIMIT = 500
"""Items of a page; one counts for every seed and run it is shown of."""
PICTURES = 3000
"""Pictures of a page."""


@dataclass(frozen=True)
class Run:
    """What one ``vlmig eval`` left."""

    folder: Path
    results: Row

    @property
    def k(self) -> int | str:
        """The number of pictures of the headline."""
        return self.results["config"]["model_args"]["k"]

    @property
    def most(self) -> int:
        """The most pictures that an item of the headline has."""
        if isinstance(self.k, int):
            return self.k
        return max((row.get("most", 0) for row in self.results["vlmig"]["conditions"]), default=0)

    @property
    def tasks(self) -> list[str]:
        """The tasks whose samples are there."""
        return [task for task in self.results["results"] if self._samples(task).is_file()]

    @property
    def seeds(self) -> list[int]:
        """The seeds the pictures were imagined with."""
        return list(self.results["vlmig"]["seeds"])

    def items(self, task: str) -> int:
        """Count a task's items."""
        return int(self.results["n-samples"][task]["effective"])

    def pictures(self, task: str) -> int:
        """Count the pictures of a task's first item."""
        return sum(len(keys[: self.most]) for keys in next(self.lines(task), {"pictures": []})["pictures"])

    def lines(self, task: str) -> Iterator[Row]:
        """Yield a task's samples: a line for each item and seed.

        Raises:
            VLMIGError: a line is not JSON.
        """
        path = self._samples(task)
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield _object(line, f"{path}, line {number},")

    def _samples(self, task: str) -> Path:
        return self.folder / f"samples_{task}.jsonl"


def read_run(folder: Path) -> Run:
    """Open a results folder.

    Raises:
        VLMIGError: it holds no results.json, or one that ``vlmig eval`` did not write.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise VLMIGError(f"{folder} has no results.json; expected a folder that vlmig eval --out wrote")
    results = _object(path.read_text(encoding="utf-8", errors="replace"), str(path))
    for name in ("results", "configs", "config", "n-samples", "vlmig"):
        if not isinstance(results.get(name), dict):
            raise VLMIGError(f"{path} has no block {name!r}; expected what vlmig eval wrote, run it again")
    return Run(folder, results)


def _object(text: str, where: str) -> Row:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise VLMIGError(
            f"{where} is not JSON ({error.msg}, line {error.lineno}, column {error.colno}); expected what vlmig eval "
            "wrote, run it again: it goes on from its journal"
        ) from None
    if not isinstance(value, dict):
        raise VLMIGError(f"{where} is a JSON {type(value).__name__}, expected an object; run vlmig eval again")
    return value


def shares(runs: Sequence[Run], sizes: Mapping[str, int], seeds: int) -> dict[str, int]:
    """Say how many items of each task a page can carry, with their pictures under so many seeds of all runs."""
    pictures = seeds * sum(max((run.pictures(task) for task in sizes), default=0) for run in runs)
    limit = min(LIMIT // (seeds * len(runs)), PICTURES // max(1, pictures))
    return spread(sizes, max(limit, len(sizes)))


def spread(sizes: Mapping[str, int], limit: int) -> dict[str, int]:
    """Share a limit out evenly; what a small task leaves over goes to the others."""
    shares: dict[str, int] = {}
    for done, name in enumerate(sorted(sizes, key=lambda name: sizes[name])):
        shares[name] = min(sizes[name], max(0, limit - sum(shares.values())) // (len(sizes) - done))
    return {name: shares[name] for name in sizes}
