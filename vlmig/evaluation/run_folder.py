"""Read a run folder: ``results.json``, its samples, and the conditions in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError, one_line

Row = dict[str, Any]
"""An object of a JSON file."""

EVERY_SEED = "all"
"""Instead of a seed: all seeds together, those of an item in one cluster."""


def main_condition(
    results: dict[str, Any],
    task: str,
    subset: str = "all",
    k: int | str | None = None,
    control: str = "none",
) -> Row | None:
    """Find a task's main condition, or the one with another k or control; of all seeds where there
    are several."""
    config = results["configs"][task]
    wanted = {
        "task": task,
        "subset": subset,
        "k": results["config"]["model_args"]["k"] if k is None else k,
        "mix": config["mix"],
        "weights": config["weights"],
        "control": control,
    }
    return find_row(results["vlmig"]["conditions"], **wanted)


def find_row(conditions: Sequence[Row], **wanted: Any) -> Row | None:
    """Find a condition by some of its fields: of all seeds together where there are several."""
    first = None
    for condition in conditions:
        if any(condition[name] != value for name, value in wanted.items()):
            continue
        if condition["seed"] == EVERY_SEED:
            return condition
        first = first or condition
    return first


@dataclass(frozen=True)
class Run:
    """The results of one ``vlmig eval``."""

    folder: Path
    results: Row

    @property
    def k(self) -> int | str:
        """The number of images of the main condition."""
        return self.results["config"]["model_args"]["k"]

    @property
    def most(self) -> int:
        """The most images that an item has in the main condition."""
        if isinstance(self.k, int):
            return self.k
        return max((row.get("most", 0) for row in self.results["vlmig"]["conditions"]), default=0)

    @property
    def tasks(self) -> list[str]:
        """The tasks with a file of samples."""
        return [task for task in self.results["results"] if self._samples(task).is_file()]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the imagination."""
        return list(self.results["vlmig"]["seeds"])

    def items(self, task: str) -> int:
        """Count a task's items."""
        return int(self.results["n-samples"][task]["effective"])

    def images(self, task: str) -> int:
        """Count the images of a task's first item."""
        line: Row = next(self.lines(task), {"pictures": []})
        return sum(len(keys[: self.most]) for keys in line["pictures"])

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
        raise VLMIGError(
            f"{folder} has no results.json; expected a folder that vlmig eval --out wrote"
        )
    results = _object(path.read_text(encoding="utf-8", errors="replace"), str(path))
    for name in ("results", "configs", "config", "n-samples", "vlmig"):
        if not isinstance(results.get(name), dict):
            raise VLMIGError(
                f"{path} has no block {name!r}; expected what vlmig eval wrote, run it again"
            )
    if not results["results"]:
        raise VLMIGError(f"{path} has no tasks; expected what vlmig eval wrote, run it again")
    return Run(folder, results)


@contextmanager
def reading(*folders: Path) -> Iterator[None]:
    """Say of results that are not what ``vlmig eval`` wrote that they are, whatever is missing.

    Raises:
        VLMIGError: a field is missing, or of another type.
    """
    try:
        yield
    except VLMIGError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        named = " or ".join(map(str, folders))
        raise VLMIGError(
            f"the results in {named} have another form ({type(error).__name__}: "
            f"{one_line(error)}); expected what vlmig eval wrote, run it again"
        ) from error


def _object(text: str, where: str) -> Row:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VLMIGError(
            f"{where} is not JSON ({one_line(error)}); expected what vlmig eval wrote, run it "
            "again: it goes on from its journal"
        ) from None
    if not isinstance(value, dict):
        raise VLMIGError(
            f"{where} is a JSON {type(value).__name__}, expected an object; run vlmig eval again"
        )
    return value
