"""Calibrate ``k="auto"`` on a measured run, whose items are not used afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vlmig.errors import VLMIGError
from vlmig.evaluation.run_folder import Run, read_run
from vlmig.io.atomic import write_text
from vlmig.models.config import VLMIGConfig
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import MOST, Stopping, fit
from vlmig.predict.scores import Scores


def calibrate(folder: Path, checkpoint: Path) -> Stopping:
    """Fit the rule to a run's measurements, and write it to a checkpoint's configuration.

    Raises:
        VLMIGError: no checkpoint, or a run without enough questions and images (``vlmig eval --k 0,10``).
    """
    if not (checkpoint / "config.json").is_file():
        raise VLMIGError(
            f"no checkpoint in {checkpoint}; expected a folder with config.json, which is written to"
        )
    config, run = VLMIGConfig.from_pretrained(checkpoint), read_run(folder)
    scores: list[Scores] = []
    for task in run.tasks:
        scores += scores_of(run, task)
    if not scores:
        raise VLMIGError(
            f"no questions with candidates in {folder}; expected a run of vlmig eval --k 0,{MOST}"
        )
    rule = fit(scores, Mixture.of(config))
    config.auto = rule.described()
    write_text(checkpoint / "config.json", config.to_json_string())
    return rule


def scores_of(run: Run, task: str) -> Iterator[Scores]:
    """Yield the scores of a task's questions whose candidates share their images."""
    columns = ("text_only", "blank", "per_image", "alignment")
    for line in run.lines(task):
        if "per_image" not in line or "pictures" not in line:
            return
        for question in zip(*(line[name] for name in columns), strict=True):
            text, blank, per_image, alignment = (np.array(x, dtype=float) for x in question)
            if alignment.ndim == 1:  # None, an unknown similarity, has become NaN
                yield Scores(text, per_image.reshape(-1, len(text)), blank, alignment)
