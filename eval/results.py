"""Results folders read again: accuracies as results.json has them, and samples as the evaluation
read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vlmig.errors import VLMIGError
from vlmig.evaluation.metrics.bootstrap import Clusters
from vlmig.evaluation.metrics.rescoring import Rescorer
from vlmig.evaluation.run_folder import find_row, main_condition
from vlmig.evaluation.tasks.items import Item, Question, Task
from vlmig.models.config import VLMIGConfig

Row = dict[str, Any]


class Results:
    """A folder that ``vlmig eval`` wrote.

    Raises:
        VLMIGError: it holds no results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.content: Row = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            self.block: Row = self.content["vlmig"]
            self.k: int = self.content["config"]["model_args"]["k"]
            self.mains = {
                task: (config["mix"], config["weights"])
                for task, config in self.content["configs"].items()
            }
        except (OSError, ValueError, KeyError, TypeError):
            raise VLMIGError(
                f"{folder} has no results of this version; expected a folder that "
                "vlmig eval --out wrote"
            ) from None

    @property
    def tasks(self) -> list[str]:
        """The tasks measured, in their order."""
        return list(self.content["results"])

    def row(
        self, task: str, subset: str, k: int | None = None, control: str = "none"
    ) -> Row | None:
        """Find the main setting's numbers, or those of another k or control beside it; None where
        there is no accuracy."""
        found = (
            main_condition(self.content, task, subset, k, control) if task in self.mains else None
        )
        return found if found and found["acc"] is not None else None

    def average(self, task: str, subset: str, k: int) -> Row | None:
        """Find the main setting's accuracy with k images of those measured, averaged over subsets;
        where there are no subsets, with the first k."""
        rows = self.block.get("curves", ())
        found = next(
            (c for c in rows if (c["task"], c["subset"], c["k"]) == (task, subset, k)), None
        )
        return found or self.row(task, subset, k)

    def baseline(self, task: str, subset: str, mix: str) -> Row | None:
        """Find what another use of the same images gets: vote, clip, zlavi or best-image; of all
        seeds where there are several."""
        return find_row(self.block["conditions"], task=task, subset=subset, k=self.k, mix=mix)

    def floor(self, task: str, subset: str) -> tuple[float | None, float | None]:
        """Return the accuracy of the most frequent answer, and chance; None where answers are
        generated."""
        row, known = self.row(task, subset, 0), self.block["baselines"][task]
        return (row["majority"], known["chance"]) if row and known else (None, None)

    def has_distributions(self, task: str) -> bool:
        """Tell whether a task's samples hold a distribution over candidates for every image."""
        config = self.content["configs"][task]
        return config["output_type"] == "multiple_choice" and config["scoring"] != "sequence"

    def comparison(self, task: str, subset: str, other: str) -> Row | None:
        """Find the main setting's difference to another one."""
        rows = self.block["comparisons"]
        return next(
            (c for c in rows if (c["task"], c["subset"], c["b"]) == (task, subset, other)), None
        )


class Samples:
    """A task's samples as the evaluation read them, so that rules can be tried which results.json
    does not have.

    An entry is a wording of an item under a seed, or the item where the best wording counts.

    Raises:
        VLMIGError: no such samples, or of another version.
    """

    def __init__(self, run: Results, task: str, subset: str) -> None:
        config, path = run.content["configs"][task], run.folder / f"samples_{task}.jsonl"
        own = {name: run.block[name] for name in ("strength", "doubt", "alignment_floor")}
        measured = Task(task, lambda _: [], scoring=config["scoring"], counted=config["counted"])
        own["learned"] = run.block.get("learned")
        setting = VLMIGConfig(**{**own, **run.block["default"]})
        try:
            rows = [
                json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line
            ]
            items = [
                Item(
                    **{**r["doc"], "questions": tuple(Question(**q) for q in r["doc"]["questions"])}
                )
                for r in rows
            ]
            self.rescorer = Rescorer(measured, items, rows, setting, run.block.get("clip_scale"))
        except (OSError, ValueError, KeyError, TypeError):
            raise VLMIGError(
                f"{path} is not there or of another version; run vlmig eval again"
            ) from None
        self.k, self.main, self.records = run.k, run.mains[task], rows
        self.scores = list(self.rescorer.scores("none"))
        self.owner = self.rescorer.entries()[0]
        self.inside = np.array([subset == "all" or bool(rows[i]["covered"]) for i in self.owner])
        self._ids = np.array([items[i].id for i in self.owner])[self.inside]
        self.clusters = np.array([items[i].objects for i in self.owner])[self.inside]
        self._drawn = Clusters(self.clusters)

    def read(self, k: int, mix: str, weights: str) -> list[np.ndarray]:
        """Return each question's log-likelihoods by a rule."""
        return self.rescorer.rescore(k, mix, weights)

    def right(self, found: list[np.ndarray]) -> np.ndarray:
        """Say which entries of the subset are right."""
        return self.rescorer.correct(found)[self.inside]

    def estimate(self, values: np.ndarray, least: float = 0.0) -> Row:
        """Estimate a mean over the entries, or with ``least`` -1 a difference, in the shape of a
        condition."""
        found = self._drawn.estimate(values, least)
        return {
            "acc": found.mean,
            "ci95": [found.low, found.high],
            "n": len(np.unique(self._ids)),
            "p": found.p,
        }
