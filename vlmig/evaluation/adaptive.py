"""Measuring items with as many pictures as their answers need: ``--k auto`` imagines no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from vlmig.errors import VLMIGError
from vlmig.evaluation.items import Item, Question, Task
from vlmig.evaluation.settings import Settings
from vlmig.predictor import VLMIG
from vlmig.scores import Scores, Setting
from vlmig.scoring import spaced
from vlmig.sequential import Asked, ask_all
from vlmig.stopping import Stopping
from vlmig.visuals import Visuals

if TYPE_CHECKING:
    from vlmig.evaluation.measuring import Plan


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


def setting_of(model: VLMIG, task: Task) -> Setting:
    """Return how a task's candidates are mixed where nothing else is asked for."""
    return model.config.setting(None, task.weights)


def measured(
    plan: Plan, rule: Stopping, items: Sequence[Item], seed: int
) -> Iterator[tuple[list[Visuals], list[Scores]]]:
    """Give each item its pictures in groups, those of many items together, and yield its sets of pictures and its scores."""
    by_item = plan.policy == "item"
    sets = [[item.questions] if by_item else [(question,) for question in item.questions] for item in items]
    about = [
        item.picture if by_item else own[0].context(0) for item, many in zip(items, sets, strict=True) for own in many
    ]
    policy = "question" if by_item else plan.policy
    setting, first = setting_of(plan.model, plan.task), plan.task.scoring == "first_token"
    asked = [
        Asked(plan.model, [_spaced(question) for question in own], rule, setting, least=plan.k, first=first)
        for many in sets
        for own in many
    ]

    def draw(members: Sequence[int], k: int) -> list[Visuals]:
        return plan.model.imagine([about[i] for i in members], k, seed, policy=policy)

    ask_all(asked, draw, plan.model.model.device)
    done = iter(asked)
    for many in sets:
        own = list(islice(done, len(many)))
        yield [one.visuals for one in own], [scores for one in own for scores in one.scores]


def _spaced(question: Question) -> list[tuple[str, list[str]]]:
    return [(context, spaced([own])[0]) for context, own in parts_of(question)]


def parts_of(question: Question, apart: bool = False) -> list[tuple[str, list[str]]]:
    """Put a question's candidates behind the texts that they continue: all behind one, or each behind its own.

    Args:
        apart: whether they are scored one by one although they share their text.
    """
    whole = range(len(question.continuations))
    split = [(c,) for c in whole] if apart or len(question.contexts) > 1 else [tuple(whole)]
    return [(question.context(part[0]), [question.continuations[c] for c in part]) for part in split]
