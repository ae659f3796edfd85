"""Items measured with as many images as their answers need: ``--k auto``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vlmig.errors import VLMIGError
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Item, Question, Task, by_context
from vlmig.imagination.visuals import Visuals
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import AdaptiveScores, Stopping, parse_k, score_adaptively
from vlmig.predict.predictor import VLMIG
from vlmig.predict.scores import Scores
from vlmig.processing.conversation import spaced


def rule_of(model: VLMIG, settings: Settings, task: Task) -> Stopping | None:
    """Return the rule of a task under ``auto``; None for a task whose questions have no answers
    that share images.

    Raises:
        VLMIGError: such a task, and no other number of images was asked for.
    """
    rule = parse_k(settings.auto, model.config.auto)
    if not isinstance(rule, Stopping):
        return None
    policy = settings.policy or task.policy
    if task.kind == "choice" and task.scoring != "sequence" and policy != "option":
        return rule
    if settings.main_k != settings.auto:
        return None
    raise VLMIGError(
        f"k={settings.auto!r} for task {task.name}, whose answers do not share images or are none "
        "to choose between; expected a number of images, too"
    )


def rule_for(model: VLMIG, settings: Settings, task: Task) -> Stopping | None:
    """Return when to stop imagining; None where another k needs all images anyway.

    Raises:
        VLMIGError: as ``rule_of``; the control ``shuffled``, which uses as many images of another
            object.
    """
    rule = rule_of(model, settings, task)
    if rule is None or settings.every_k[-1] >= rule.most:
        return None
    if "shuffled" in settings.controls:
        raise VLMIGError(
            f"the control shuffled with k={settings.auto!r}, which does not imagine all images; "
            f"expected --k {settings.auto},{rule.most}, or no such control"
        )
    return rule


def score_items(
    model: VLMIG,
    task: Task,
    rule: Stopping,
    policy: str,
    least: int,
    items: Sequence[Item],
    seed: int,
    generic: bool = False,
) -> Iterator[tuple[list[Visuals], list[Scores]]]:
    """Draw images for many items together, in groups, and yield each item's sets of images and its
    questions' scores.

    Args:
        policy: what to imagine; with ``item`` one set of images serves all questions of an item.
        least: images to use in any case.
        generic: score with the checkpoint's generic images too.
    """
    mixture = Mixture.of(model.config, task.mix, task.weights)
    texts: list[str] = []
    adaptive: list[AdaptiveScores] = []
    sizes: list[int] = []
    for item in items:
        sets: list[Sequence[Question]] = [item.questions]
        if policy != "item":
            sets = [[question] for question in item.questions]
        sizes.append(len(sets))
        for questions in sets:
            groups, first = [], task.scoring == "first_token"
            for question in questions:
                contexts = []
                for context, candidates in by_context(question):
                    contexts.append((context, spaced("" if first else context, candidates)))
                groups.append(contexts)
            how: Any = {"least": least, "first": first, "generic": generic}
            adaptive.append(AdaptiveScores(model.scorer, groups, rule, mixture, **how))
            texts.append(item.picture if policy == "item" else questions[0].context(0))

    def draw(members: Sequence[int], k: int) -> list[Visuals]:
        made_by = "question" if policy == "item" else policy
        return model.imagine([texts[i] for i in members], k, seed, policy=made_by)

    score_adaptively(adaptive, draw, model.model.device)
    start = 0
    for size in sizes:
        visuals, scores = [], []
        for one in adaptive[start : start + size]:
            visuals.append(one.visuals)
            scores += one.scores
        start += size
        yield visuals, scores
