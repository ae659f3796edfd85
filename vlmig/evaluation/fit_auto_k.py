"""Calibrating ``k="auto"`` on a measured run, whose items are not asked about later."""

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
    """Fit the rule to what a run measured, and write it into a checkpoint's configuration.

    Raises:
        VLMIGError: no checkpoint, or a run without enough questions and pictures (``vlmig eval --k 0,10``).
    """
    if not (checkpoint / "config.json").is_file():
        raise VLMIGError(
            f"no checkpoint in {checkpoint}; expected a folder with config.json, which is written to"
        )
    config, run = VLMIGConfig.from_pretrained(checkpoint), read_run(folder)
    scores = [own for task in run.tasks for own in scores_of(run, task)]
    if not scores:
        raise VLMIGError(
            f"no questions with candidates in {folder}; expected a run of vlmig eval --k 0,{MOST}"
        )
    rule = fit(scores, Mixture.of(config))
    config.auto = rule.described()
    write_text(checkpoint / "config.json", config.to_json_string())
    return rule


def scores_of(run: Run, task: str) -> Iterator[Scores]:
    """Yield the scores of a task's questions whose candidates share their pictures."""
    for line in run.lines(task):
        if "per_image" not in line or "pictures" not in line:
            return
        for text, blank, images, cosines in zip(
            line["text_only"], line["blank"], line["per_image"], line["alignment"], strict=True
        ):
            alignment = np.array(cosines, dtype=float)  # what is not known is NaN
            if alignment.ndim == 1:
                own = np.array(images, dtype=float).reshape(-1, len(text))
                yield Scores(
                    np.array(text, dtype=float), own, np.array(blank, dtype=float), alignment
                )
