"""Measuring items with as many pictures as their answers need: ``--k auto`` imagines no others."""

from __future__ import annotations

from vlmig.errors import VLMIGError
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Task
from vlmig.predict.adaptive_k import Stopping
from vlmig.predict.predictor import VLMIG


def rule_of(model: VLMIG, settings: Settings, task: Task) -> Stopping | None:
    """Return the rule of a task that is asked with ``auto``; None for one that has no answers to decide between picture by picture.

    Raises:
        VLMIGError: such a task, and nothing else was asked for.
    """
    if settings.auto is None:
        return None
    rule = Stopping.asked(settings.auto, model.config.auto)
    policy = settings.policy or task.policy
    if task.kind == "choice" and task.scoring != "sequence" and policy != "option":
        return rule
    if settings.main_k != settings.auto:
        return None
    raise VLMIGError(
        f"k={settings.auto!r} for task {task.name}, whose answers do not share pictures or are none to choose between; expected "
        "a number of pictures, too"
    )


def rule_for(model: VLMIG, settings: Settings, task: Task) -> Stopping | None:
    """Return when to stop imagining; None where all pictures are imagined for other numbers of them anyway.

    Raises:
        VLMIGError: as ``rule_of``; the shuffled control, which shows as many pictures of another object.
    """
    rule = rule_of(model, settings, task)
    if rule is None or settings.every_k[-1] >= rule.most:
        return None
    if "shuffled" in settings.controls:
        raise VLMIGError(
            f"the control shuffled with k={settings.auto!r}, which does not imagine all pictures; expected --k {settings.auto},{rule.most}, or no such control"
        )
    return rule
