"""Read a run's questions again, with their scores and right answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vlmig.evaluation.run_folder import Run
from vlmig.predict.scores import Scores

COLUMNS = ("text_only", "blank", "per_image", "alignment")
"""Fields of a sample that hold the scores of its questions."""


def answered(run: Run, task: str) -> Iterator[tuple[Scores, int, str]]:
    """Yield the scores, the right candidate and the object of a task's questions whose candidates
    share their images."""
    for line in run.lines(task):
        if "per_image" not in line or "pictures" not in line:
            return
        doc, columns = line["doc"], [line[name] for name in COLUMNS]
        for question, *numbers in zip(doc["questions"], *columns, strict=True):
            text, blank, per_image, alignment = (np.array(x, dtype=float) for x in numbers)
            if alignment.ndim == 1:  # None, an unknown similarity, has become NaN
                images = per_image.reshape(-1, len(text))
                scores = Scores(text, images, blank, alignment)
                yield scores, question["answer"], doc["cluster"]
