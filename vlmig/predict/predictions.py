"""What text alone and each image predict for one question: every mixture of them is arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from vlmig.imagination.visuals import Visuals
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import (
    AdaptiveScores,
    Draw,
    Stopping,
    parse_k,
    score_until_safe,
)
from vlmig.predict.answer import Answer
from vlmig.predict.attribution import explain
from vlmig.predict.images import DEFAULT_K, Images
from vlmig.predict.scorer import Scorer
from vlmig.predict.scores import Scores
from vlmig.processing.conversation import Conversation, spaced
from vlmig.processing.texts import check_question
from vlmig.vision import ImageInputs


class Posed(NamedTuple):
    """A question as the LM reads it."""

    context: str
    options: list[str]
    """The choices, or the likeliest next words without any."""
    candidates: list[str]
    """The options as they follow the context."""


def pose(
    scorer: Scorer,
    conversation: Conversation,
    choices: Sequence[str] | None,
    visuals: Visuals,
    rationale: str | None = None,
) -> Posed:
    """Write a question's context and candidates.

    Args:
        rationale: the chain of thought that comes first, if there is one.
    """
    gap = scorer.tokenizer.mask_token if scorer.masked else ""
    context = conversation.context(gap) if rationale is None else conversation.conclude(rationale)
    options = list(scorer.likely(context, visuals, 8) if choices is None else choices)
    plain = conversation.template == "question" or rationale is not None or gap
    candidates = spaced(context, options) if plain else conversation.continuations(options)
    return Posed(context, options, candidates)


def score_posed(
    scorer: Scorer,
    posed: Posed,
    visuals: Visuals,
    count: int | Stopping | None,
    mixture: Mixture,
    draw: Draw,
) -> tuple[Scores, Visuals]:
    """Score a question's candidates with these images, or with as many as it takes."""
    question = (posed.context, posed.candidates)
    if isinstance(count, Stopping):
        (safe,) = score_until_safe(scorer, [question], count, mixture, draw)
        return safe.scores[0], safe.visuals
    how = {"verbatim": True, "generic": mixture.mix == "contrast"}
    return scorer.score([posed.context], [posed.candidates], [visuals], **how)[0], visuals


@dataclass(frozen=True)
class Predictions:
    """The predictions for one question, by text alone and beside each of K images."""

    question: str
    posed: Posed
    scores: Scores
    text_only: np.ndarray
    """Log-probabilities without any image, (C,)."""
    visuals: Visuals
    given: list[Image.Image]
    """Images that were given."""

    def only(self, indices: Sequence[int]) -> Predictions:
        """Return those of text alone and beside the images at these indices."""
        rows = list(indices)
        images, alignment = self.scores.per_image[rows], self.scores.alignment[rows]
        scores = replace(self.scores, per_image=images, alignment=alignment)
        return replace(self, scores=scores, visuals=self.visuals.chosen(rows))

    def answer(self, mixture: Mixture) -> Answer:
        """Mix them."""
        read = self.posed.options, self.scores, self.text_only, self.visuals
        return Answer.of(*read, mixture, self.given, question=self.question)

    def why(self, scorer: Scorer, mixture: Mixture) -> Answer:
        """Mix them, and attribute the answer to images and patches.

        Raises:
            VLMIGError: as ``explain``.
        """
        context, options, candidates = self.posed
        question = (context, candidates)
        attribution = explain(scorer, question, self.visuals, self.scores, mixture, options)
        return replace(self.answer(mixture), attribution=attribution)


def predictions(
    scorer: Scorer,
    images: Images,
    question: str,
    choices: Sequence[str] | None = None,
    k: int | str | None = None,
    *,
    given: ImageInputs = (),
    seed: int = 0,
) -> Iterator[Predictions]:
    """Predict as ``VLMIG.ask`` does, and yield after each image that is imagined; once, with all
    of them, where images are given or there are no choices.

    Args:
        given: images of the question.

    Raises:
        VLMIGError: as ``VLMIG.ask``.
    """
    check_question(question, choices)
    scorer.texts.refuse_unknown(choices or ())
    conversation = Conversation.of(question.strip(), given, (), scorer.config, scorer.tokenizer)
    pictured = bool(conversation.images)
    count = parse_k(k, scorer.config.auto, choices is not None and not pictured)
    generic = len(scorer.model.generic_features) > 0

    def draw(number: int | None) -> Visuals:
        return images.for_conversation(conversation, None, number, seed)

    if pictured or choices is None:
        visuals = draw(None if isinstance(count, Stopping) else count)
        posed = pose(scorer, conversation, choices, visuals)
        (scores,) = scorer.score(
            [posed.context], [posed.candidates], [visuals], verbatim=True, generic=generic
        )
        alone = scorer.text_only(posed.context, posed.candidates, visuals, scores)
        yield Predictions(question, posed, scores, alone, visuals, conversation.images)
        return
    posed = pose(scorer, conversation, choices, draw(0))
    for scores, visuals in _gradually(scorer, posed, count, draw, generic):
        yield Predictions(question, posed, scores, scores.text, visuals, [])


def _gradually(
    scorer: Scorer,
    posed: Posed,
    count: int | Stopping | None,
    draw: Callable[[int], Visuals],
    generic: bool,
) -> Iterator[tuple[Scores, Visuals]]:
    """Yield the scores by text alone, and after each image; with a rule, after each group."""
    fixed, rule = DEFAULT_K if count is None else count, Stopping(1.0, 1.0, 1.0)
    if isinstance(fixed, Stopping):
        rule = replace(fixed, group=scorer.config.imaginer_batch or fixed.group)
    questions, mixture = [[(posed.context, posed.candidates)]], Mixture.of(scorer.config)
    adaptive = AdaptiveScores(scorer, questions, rule, mixture, generic=generic)
    with torch.inference_mode():
        adaptive.read()
    while True:
        yield adaptive.scores[0], adaptive.visuals
        n = len(adaptive.visuals.features)
        wanted = adaptive.wanted if isinstance(fixed, Stopping) else n + 1 if n < fixed else None
        if wanted is None:
            return
        visuals = draw(wanted)
        with torch.inference_mode():
            adaptive.look(visuals)
