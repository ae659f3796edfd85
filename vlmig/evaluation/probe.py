"""Quick accuracy on tasks during training: few items, one question each, few images, imagined
once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from vlmig.errors import VLMIGError
from vlmig.evaluation.tasks.download import fetch
from vlmig.evaluation.tasks.items import Item, Task
from vlmig.evaluation.tasks.yaml_task import choose_tasks
from vlmig.imagination.store import default_store
from vlmig.imagination.visuals import Visuals
from vlmig.models.mixture import Mixture
from vlmig.predict.predictor import VLMIG


def probe_of(
    names: Sequence[str], k: int, limit: int, data: Path | None, extra: dict[str, Task]
) -> TaskProbe | None:
    """Make the probe of tasks by name; None where there are none.

    Args:
        data: folder of benchmark files; they are downloaded when None.
        extra: tasks from elsewhere.
    """
    if not names:
        return None
    tasks = choose_tasks(names, extra)
    files = [file for task in tasks for file in task.files]
    if data is None:
        data = fetch(files, default_store() / "data") if files else Path()
    return TaskProbe(tasks, data, k, limit)


class TaskProbe:
    """Accuracy on some items of tasks, spread evenly over each.

    Args:
        data: folder of benchmark files.
        k: images per item.
        limit: items per task.

    Raises:
        VLMIGError: a task whose candidates do not share one context; a missing file.
    """

    def __init__(self, tasks: Sequence[Task], data: Path, k: int, limit: int) -> None:
        self.k, self.items = k, {task.name: _some(task, data, limit) for task in tasks}
        self._visuals: dict[str, list[Visuals]] = {}

    def __call__(self, model: VLMIG) -> dict[str, float]:
        """Return the accuracy by task, with k images and with none."""
        accuracies = {}
        for name, items in self.items.items():
            if name not in self._visuals:
                self._visuals[name] = model.imagine([item.picture for item in items], self.k)
            questions = [item.questions[0] for item in items]
            contexts = [question.contexts[0] for question in questions]
            choices = [question.continuations for question in questions]
            lm = model.model.language_model
            # Next to an LM in half precision the adapter trains in full precision.
            with torch.autocast(lm.device.type, lm.dtype, enabled=lm.dtype != torch.float32):
                scores = model.score(contexts, choices, self._visuals[name])
            mixture = Mixture.of(model.config)
            for label, k in ((name, self.k), (f"{name} text only", 0)):
                right = 0
                for question, answer in zip(questions, scores, strict=True):
                    right += int(answer.mixed(k, mixture).argmax()) == question.answer
                accuracies[label] = round(right / len(questions), 4)
        return accuracies


def _some(task: Task, data: Path, limit: int) -> Sequence[Item]:
    items = task.load(data)
    if task.kind != "choice" or any(len(item.questions[0].contexts) != 1 for item in items):
        raise VLMIGError(
            f"{task.name} cannot be probed during training; expected a task with candidates behind "
            "one context, such as memory_color"
        )
    return items[:: max(1, len(items) // limit)][:limit]
