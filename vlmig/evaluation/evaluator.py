"""Run tasks. Each item is scored once, by one process, and then read from the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vlmig.errors import VLMIGError
from vlmig.evaluation.journal import Journal, fingerprint
from vlmig.evaluation.measure import Plan
from vlmig.evaluation.records import Record
from vlmig.evaluation.settings import CROSS_FITTED, Settings
from vlmig.evaluation.tasks.items import Item, Task, drawn
from vlmig.imagination.pipeline import WINDOW
from vlmig.models.generic import NO_GENERIC
from vlmig.models.mixture import Mixture
from vlmig.predict.predictor import VLMIG
from vlmig.runtime import rank_and_processes

CHUNK = 16
"""Items imagined together."""
KEY = "S32"
"""The type of keys in an array, one byte per character."""


@dataclass(frozen=True)
class Measured:
    """A task's measurements, read from the journal on demand; empty in all but torchrun's first
    process."""

    task: Task
    items: Sequence[Item]
    seeds: Sequence[int]
    keys: np.ndarray
    """Journal keys, (seeds, items)."""
    journal: Journal

    def __len__(self) -> int:
        return len(self.items) * len(self.seeds)

    def __iter__(self) -> Iterator[tuple[int, Item, Record]]:
        """Yield (seed, item, record)."""
        for seed in self.seeds:
            for item, record in zip(self.items, self.records(seed), strict=True):
                yield seed, item, record

    def records(self, seed: int) -> Iterator[Record]:
        """Yield the records of a seed, in the items' order."""
        return self.journal.records(key.decode() for key in self.keys[list(self.seeds).index(seed)])


class Evaluator:
    """Measure tasks on one model.

    Under torchrun each process measures a share of the items; the first one waits for the others
    and has all.

    Args:
        model: the predictor.
        settings: what to measure.
        data: folder of benchmark files.
        out: folder of the journal.
        covered: tells whether an item's object belongs to the ``covered`` subset; None has no such
            subset.

    Raises:
        VLMIGError: the model's adapter is untrained, or has not what a rule needs.
    """

    def __init__(
        self,
        model: VLMIG,
        settings: Settings,
        data: Path,
        out: Path,
        covered: Callable[[str], bool] | None = None,
    ) -> None:
        if not model.config.trained:
            raise VLMIGError(
                "the model's adapter is untrained and would be measured as noise; train it, or "
                "load a trained checkpoint"
            )
        if settings.subset == "covered" and covered is None:
            raise VLMIGError(
                "subset covered: only the pocket model's world has one; leave --subset out"
            )
        for weights in set(settings.weights) - {CROSS_FITTED}:
            Mixture.of(model.config, None, weights)  # learned ones may not have been fitted
        if settings.contrasts(model.config) and not len(model.model.generic_features):
            raise VLMIGError(NO_GENERIC)
        self.model, self.settings, self.covered = model, settings, covered
        self.data, self.out = data, out
        self.available: dict[str, int] = {}
        """Items of each task before ``limit``."""
        self.journal = Journal(out / "journal")
        self.rank, self.processes = rank_and_processes()
        self._model = fingerprint(model)

    def items(self, task: Task) -> Sequence[Item]:
        """Read the items to measure.

        Raises:
            VLMIGError: there are none.
        """
        items = task.load(self.data)
        if self.settings.subset == "covered" and self.covered is not None and task.kind != "text":
            items = [item for item in items if item.inside(self.covered)]
            if not items:
                raise VLMIGError(
                    f"task {task.name} has no covered items; expected things that the pocket "
                    "generator draws: leave out the task, or --subset"
                )
        if not items:
            raise VLMIGError(f"task {task.name} has no items; expected a file with some")
        self.available[task.name] = len(items)
        if self.settings.limit is None:
            return items
        if not task.paired:
            return drawn(items, self.settings.limit)
        chosen = {item.cluster for item in drawn(items[::2], self.settings.limit)}
        return [item for item in items if item.cluster in chosen]

    def measure(self, task: Task) -> Measured:
        """Measure every item under every seed, except those in the journal."""
        items, seeds = self.items(task), list(self.settings.seeds)
        plan = Plan(self.model, self.settings, task, items, self.data, self._model)
        keys = np.empty((len(seeds), len(items)), KEY)
        for s, seed in enumerate(seeds):
            keys[s] = [plan.key(seed, item) for item in items]
        share = range(self.rank, keys.size, self.processes)
        todo = np.array([i for i in share if keys.flat[i].decode() not in self.journal], dtype=int)
        done = len(share) - len(todo)
        if self.model.imagination.engine is not None and plan.k:
            for start in range(0, len(todo), WINDOW):
                for s, chosen in _by_seed(todo[start : start + WINDOW], len(items)):
                    plan.make([items[i] for i in chosen], seeds[s])
        with tqdm(total=len(share), initial=done, desc=task.name, unit=" items") as bar:
            for start in range(0, len(todo), CHUNK):
                for s, chosen in _by_seed(todo[start : start + CHUNK], len(items)):
                    records = plan.records([items[i] for i in chosen], seeds[s])
                    for i, record in zip(chosen, records, strict=True):
                        self.journal.put(keys[s, i].decode(), record)
                        bar.update()
        if self.rank > 0:
            return Measured(task, [], seeds, keys, self.journal)
        self.journal.wait(key.decode() for key in keys.flat)
        return Measured(task, items, seeds, keys, self.journal)


def _by_seed(positions: np.ndarray, items: int) -> Iterator[tuple[int, list[int]]]:
    """Split flat positions in (seeds, items) into each seed and its items."""
    seed_index, item_index = np.divmod(positions, items)
    for s in np.unique(seed_index):
        yield int(s), item_index[seed_index == s].tolist()
