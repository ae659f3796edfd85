"""Running tasks: every item is measured once, by whichever process, and is found again by whoever asks later."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from vlmig.errors import VLMIGError
from vlmig.evaluation.items import Item, Task
from vlmig.evaluation.journal import Journal, fingerprint
from vlmig.evaluation.measuring import Plan, Record
from vlmig.evaluation.settings import Settings
from vlmig.predictor import VLMIG

CHUNK = 16
"""Items imagined together."""


class Evaluator:
    """Measure tasks on one model.

    Under torchrun each process measures its part of the items; the first one waits for the others' and has all.

    Args:
        model: the predictor.
        settings: what to measure.
        data: folder of benchmark files.
        out: where the journal is kept.
        covered: tells whether an item's object belongs to the ``covered`` subset; None has no such subset.

    Raises:
        VLMIGError: the model's adapter is untrained.
    """

    def __init__(
        self, model: VLMIG, settings: Settings, data: Path, out: Path, covered: Callable[[str], bool] | None = None
    ) -> None:
        if not model.config.trained:
            raise VLMIGError(
                "the model's adapter is untrained and would be measured as noise; train it, or load a trained checkpoint"
            )
        if settings.subset == "covered" and covered is None:
            raise VLMIGError("subset covered: only the pocket model's world has one; leave --subset out")
        self.model, self.settings, self.data, self.out, self.covered = model, settings, data, out, covered
        self.available: dict[str, int] = {}
        """Items of each task before ``limit``."""
        self.journal = Journal(out / "journal")
        self.rank, self.processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self._model = fingerprint(model)

    def items(self, task: Task) -> list[Item]:
        """Read the items to measure."""
        items = task.load(self.data)
        if self.settings.subset == "covered" and self.covered is not None and task.kind != "text":
            items = [item for item in items if self.covered(item.cluster)]
        if not items:
            raise VLMIGError(f"task {task.name} has no covered items; leave --subset out")
        self.available[task.name] = len(items)
        return items[: self.settings.limit]

    def measure(self, task: Task) -> Iterator[tuple[int, Item, Record]]:
        """Measure every item under every seed, or take it from the journal, and yield (seed, item, record) in order."""
        items = self.items(task)
        plan = Plan(self.model, self.settings, task, items, self.data, self._model)
        keys = {(seed, i): plan.key(seed, item) for seed in self.settings.seeds for i, item in enumerate(items)}
        own = list(keys)[self.rank :: self.processes]
        mine = [place for place in own if keys[place] not in self.journal.known]
        with tqdm(total=len(own), initial=len(own) - len(mine), desc=task.name, unit=" items") as bar:
            for start in range(0, len(mine), CHUNK):
                part = mine[start : start + CHUNK]
                for seed in dict.fromkeys(seed for seed, _ in part):
                    chosen = [i for s, i in part if s == seed]
                    for i, record in zip(chosen, plan.records([items[i] for i in chosen], seed), strict=True):
                        self.journal.put(keys[seed, i], record)
                        bar.update()
        if self.rank == 0:
            self.journal.wait(keys.values())
            for (seed, i), key in keys.items():
                yield seed, items[i], self.journal.known[key]
