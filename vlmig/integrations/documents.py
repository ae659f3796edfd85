"""This package's tasks as lm-eval reads them: a document for each question of each item
(``lm_eval_tasks/*.yaml``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from vlmig.errors import VLMIGError
from vlmig.evaluation.tasks.download import fetch
from vlmig.evaluation.tasks.items import Task
from vlmig.evaluation.tasks.yaml_task import declaration
from vlmig.imagination.store import default_store


def documents(task: str, data: str | None = None, **_: Any) -> dict[str, datasets.Dataset]:
    """Read a task's items as ``vlmig eval`` reads them.

    Args:
        task: a task of ``vlmig.evaluation.tasks`` whose wordings have one context each.
        data: folder of benchmark files (``--metadata data=FOLDER``); VLMIG_DATA when None, and a
            download without it.
        _: lm-eval's further metadata.

    Raises:
        VLMIGError: the files are missing or wrong.
    """
    made = declaration(task).made()
    given = data or os.environ.get("VLMIG_DATA")
    folder = Path(given) if given else fetch(made.files, default_store() / "data")
    return {"test": datasets.Dataset.from_list(list(_rows(made, folder)))}


def _rows(task: Task, folder: Path) -> Iterator[dict[str, Any]]:
    for item in task.load(folder):
        for wording, question in enumerate(item.questions):
            if len(question.contexts) > 1:
                raise VLMIGError(
                    f"task {task.name}: a context for each choice; expected one for all of them"
                )
            yield {
                "id": item.id,
                "wording": wording,
                "cluster": item.cluster,
                "picture": item.picture,
                "question": question.contexts[0],
                "choices": list(question.continuations),
                "answer": question.answer,
            }
