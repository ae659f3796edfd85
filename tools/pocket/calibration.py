"""Choose the pocket model's mixture on calibration concepts, which no test item is about."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from torch import Tensor

from tools.pocket.calibration_texts import (
    TEXT_ALONE,
    calibration_concepts,
    mean_losses,
    read_texts,
)
from tools.pocket.drawings import agreeing
from vlmig.evaluation.fit_auto_k import fit
from vlmig.evaluation.fit_learned import examples, fit_to_others
from vlmig.evaluation.fit_learned import fit as fit_learned
from vlmig.evaluation.keep_generic import spread
from vlmig.models.generic import COUNT, save_generic
from vlmig.models.learned import Learned
from vlmig.models.mixture import Mixture
from vlmig.pocket.concepts import Concept
from vlmig.pocket.tasks import look_items
from vlmig.predict.adaptive_k import MOST, Stopping
from vlmig.predict.images import DEFAULT_K
from vlmig.predict.predictor import VLMIG
from vlmig.predict.scores import Scores

logger = logging.getLogger(__name__)
TOGETHER = 20
"""Mixtures that are tried on the texts in one pass."""
Kind = tuple[str, str]
"""A split of concepts, and the look that is asked about."""
KINDS: tuple[Kind, ...] = (("supervised", "color"), ("held_out", "color"), ("held_out", "shape"))
STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
DOUBTS = (0.0, 0.25)
FLOORS = (0.1, 0.2, 0.3, 0.4)
"""Quantiles of the calibration images' similarities to try as floors."""
FIELDS = ("mix", "weights", "strength", "doubt", "alignment_floor")
"""What is chosen of a mixture."""


@dataclass(frozen=True)
class Limits:
    """What a mixture may cost."""

    known: tuple[str, ...] = ("supervised",)
    """The splits of whose concepts the text model knows colors."""
    told: tuple[str, ...] = ("supervised",)
    """Those of which texts told it the colors: they are to stay whatever an image shows."""
    kept: float = 0.98
    """Least share of their colors, right from text alone, that must stay right with images."""
    misled: float = 0.95
    """Least share of them that must stay right beside another thing's imagined images."""
    followed: float = 0.45
    """Least share of answers that follow another thing's images where a user gives them, though
    texts told another color; the images by themselves say that one in about 0.55."""
    perplexity: float = 1.005
    """Greatest factor on the perplexity of plain texts."""
    weights: tuple[str, ...] = ("uniform", "entropy", "clip", "learned")
    """Those that are tried."""


POCKET = Limits()


@dataclass
class Answered:
    """Questions about the looks of concepts: as many about each, in their order."""

    concepts: list[Concept]
    scores: Scores
    """Of all questions, stacked."""
    others: Scores
    """Beside the images of the concept before."""
    answers: np.ndarray
    """The right ones, (n,)."""
    learned: list[tuple[np.ndarray, Learned]] = field(default_factory=list)
    """Some of the questions, and weights fitted to questions about other concepts."""

    def right(
        self, k: int, mixture: Mixture, scores: Scores | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return whether a mixture answers right, (n,), and the log-probabilities of the right
        answers.

        Args:
            scores: beside other images than the concepts' imagined ones.
        """
        asked, mixed = scores or self.scores, np.empty_like(self.scores.text)
        groups: Sequence[tuple[Any, Learned | None]] = [(slice(None), None)]
        for some, learned in self.learned if mixture.learned else groups:
            mixed[some] = asked.at(some).mixed(k, replace(mixture, learned=learned))
        mixed = log_softmax(mixed, axis=1)
        return mixed.argmax(1) == self.answers, mixed[np.arange(len(mixed)), self.answers]

    @property
    def questions(self) -> list[Scores]:
        """The scores of each question."""
        return [self.scores.at(number) for number in range(len(self.answers))]

    @property
    def names(self) -> list[str]:
        """The concept of each question."""
        names = [concept.name for concept in self.concepts]
        return np.repeat(names, self.wordings).tolist()

    def per_concept(self, values: np.ndarray) -> np.ndarray:
        """Average values of questions over the wordings about a concept."""
        return values.reshape(-1, self.wordings).mean(1)

    @property
    def wordings(self) -> int:
        """How many questions there are about each concept."""
        return len(self.answers) // len(self.concepts)


@dataclass(frozen=True, eq=False)
class Tried:
    """A mixture, and what it does to questions about calibration concepts."""

    mixture: Mixture
    kept: float
    """Share of the colors, right from text alone, that stay right."""
    misled: float
    """The same beside another thing's images."""
    followed: float
    """Share of told colors in whose place those of another thing's given images are answered."""
    accuracy: np.ndarray
    """On each look of a held-out concept, over its wordings, (n,)."""
    likelihood: np.ndarray
    """Mean log-probability of its right answers, in nats, (n,)."""

    def within(self, limits: Limits) -> bool:
        """Whether it keeps to all limits but that of texts."""
        kept = self.kept >= limits.kept and self.misled >= limits.misled
        return kept and self.followed >= limits.followed


def calibrate(out: Path, work: Path, limits: Limits = POCKET) -> None:
    """Choose a mixture that keeps what the text model knows: what is right from text alone, and the
    perplexity of texts.

    Colors and shapes count alike. Where no text told a concept's color or shape, it is asked about
    only if that is the same in all sets of drawings: otherwise an image may show another one than
    counts as right. A few dozen concepts do not tell mixtures apart: see ``_best_first``.
    """
    model = VLMIG.from_pretrained(out, store=work / "store")
    answered = {}
    for split, look in KINDS:
        alike = agreeing(work, look)
        told = look == "color" and split in limits.told
        some = [c for c in calibration_concepts() if c.split == split and (told or c in alike)]
        answered[split, look] = _answered(model, some, look)
    cosines = [one.scores.alignment[:DEFAULT_K].ravel() for one in answered.values()]
    alignments = np.concatenate(cosines)
    floors = [round(float(np.quantile(alignments, share)), 3) for share in FLOORS]
    learned = _fit_learned(list(answered.values()))
    fitting = []
    for mixture in mixtures(floors, learned):
        if mixture.weights not in limits.weights:
            continue
        one = _try(mixture, answered, limits)
        logger.info(_described(one))
        if one.within(limits):
            fitting.append(one)
    chosen, ratio = _keeping_texts(model, fitting, limits.perplexity)
    config = model.config
    for name in FIELDS:
        setattr(config, name, getattr(chosen.mixture, name))
    config.learned = learned.described()
    rule = _stopping(answered, chosen.mixture)
    config.auto = rule.described()
    config.save_pretrained(out)
    save_generic(out, _generic(model))
    logger.info("k=auto: %s", rule)
    logger.info("chosen %s, perplexity x %.4f", _described(chosen), ratio)


def _fit_learned(answered: Sequence[Answered]) -> Learned:
    """Fit learned weights to all questions; give each question (``Answered.learned``) those fitted
    to questions about other concepts."""
    questions: list[tuple[Scores, int, str]] = []
    starts = []
    for one in answered:
        starts.append(len(questions))
        questions += zip(one.questions, one.answers, one.names, strict=True)
    data = examples(questions, DEFAULT_K)
    for indices, learned in fit_to_others(data):
        for one, start in zip(answered, starts, strict=True):
            among = (indices >= start) & (indices < start + len(one.answers))
            one.learned.append((indices[among] - start, learned))
    return fit_learned(data.features, data.helped)


def _try(mixture: Mixture, answered: Mapping[Kind, Answered], limits: Limits) -> Tried:
    """Answer the calibration questions by a mixture."""
    still, beside_others = [], []
    for split in limits.known:
        known = answered[split, "color"]
        right_alone, _ = known.right(0, TEXT_ALONE)
        right, _ = known.right(DEFAULT_K, mixture)
        still.append(right[right_alone])
        right, _ = known.right(DEFAULT_K, mixture, known.others)
        beside_others.append(right[right_alone])
    accuracy, likelihood = [], []
    for look in ("color", "shape"):
        untold = answered["held_out", look]
        right, likely = untold.right(DEFAULT_K, mixture)
        accuracy.append(untold.per_concept(right))
        likelihood.append(untold.per_concept(likely))
    return Tried(
        mixture,
        kept=float(np.concatenate(still).mean()),
        misled=float(np.concatenate(beside_others).mean()),
        followed=_followed(answered["supervised", "color"], mixture),
        accuracy=np.concatenate(accuracy),
        likelihood=np.concatenate(likelihood),
    )


def _followed(told: Answered, mixture: Mixture) -> float:
    """Return how often the color of another concept's images is answered, if they are trusted as
    given ones are, in place of the color that texts told."""
    right_alone, _ = told.right(0, TEXT_ALONE)
    shown = np.roll(told.answers, told.wordings)
    given = replace(told.others, alignment=np.full_like(told.others.alignment, np.inf))
    right, _ = replace(told, answers=shown).right(DEFAULT_K, mixture, given)
    return float(right[right_alone & (shown != told.answers)].mean())


def _described(tried: Tried) -> str:
    used = tried.mixture
    return (
        f"{used.mix:<8} {used.weights:<7} strength {used.strength:.2f} doubt {used.doubt:.2f} "
        f"floor {used.alignment_floor:.3f}: kept {tried.kept:.3f}, beside others' images "
        f"{tried.misled:.3f}, given {tried.followed:.3f}, untold {tried.accuracy.mean():.3f}, "
        f"likelihood {tried.likelihood.mean():.3f}"
    )


def _best_first(tried: Sequence[Tried]) -> list[Tried]:
    """Return the mixtures that are about as accurate as the best, in the order of choice.

    First those under which the right answers are about as likely as they can be; of these, those
    that ignore fewer images.
    """
    best = max(tried, key=lambda one: float(one.accuracy.mean()))
    accurate = [one for one in tried if not _clearly_more(best.accuracy, one.accuracy)]
    likeliest = max(accurate, key=lambda one: float(one.likelihood.mean()))

    def order(one: Tried) -> tuple[bool, float, float]:
        less_likely = _clearly_more(likeliest.likelihood, one.likelihood)
        floor = 0.0 if less_likely else one.mixture.alignment_floor
        return less_likely, floor, -float(one.likelihood.mean())

    return sorted(accurate, key=order)


def _clearly_more(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the mean paired difference over concepts is more than its standard error."""
    gained = one - other
    return bool(gained.mean() > gained.std(ddof=1) / len(gained) ** 0.5)


def _keeping_texts(model: VLMIG, fitting: Sequence[Tried], most: float) -> tuple[Tried, float]:
    """Return the first mixture that keeps the perplexity of texts, with its factor."""
    while fitting:
        best = _best_first(fitting)
        for start in range(0, len(best), TOGETHER):
            some = best[start : start + TOGETHER]
            alone, *losses = mean_losses(read_texts(model), [one.mixture for one in some])
            for one, loss in zip(some, losses, strict=True):
                ratio = float(np.exp(loss - alone))
                logger.info("%s, perplexity x %.4f", _described(one), ratio)
                if ratio <= most:
                    return one, ratio
        fitting = [one for one in fitting if one not in best]
    raise RuntimeError(
        "no mixture keeps what the text model knows; train the language model longer"
    )


def _stopping(answered: Mapping[Kind, Answered], mixture: Mixture) -> Stopping:
    """Calibrate ``k="auto"``, for told and untold concepts each.

    The questions about a concept share its images and count together.
    """
    scores: list[Scores] = []
    concepts: list[str] = []
    splits: list[str] = []
    for (split, _), one in answered.items():
        scores += one.questions
        concepts += one.names
        splits += [split] * len(one.answers)
    return fit(scores, mixture, items=concepts, kinds=splits)


def mixtures(floors: list[float], learned: Learned) -> Iterator[Mixture]:
    """Yield all mixtures to try; only evidence has strength and doubt, only entropy weights have a
    floor, which are learned ones' for texts."""
    for weights in POCKET.weights:
        fitted = learned if weights == "learned" else None
        for floor in floors if weights in ("entropy", "learned") else floors[:1]:
            for rule in ("prob", "logit"):
                yield Mixture(rule, weights, alignment_floor=floor, learned=fitted)
            for strength, doubt in itertools.product(STRENGTHS, DOUBTS):
                yield Mixture("evidence", weights, strength, doubt, floor, fitted)


def _answered(model: VLMIG, concepts: list[Concept], look: str) -> Answered:
    """Score the questions about a look of concepts, beside as many images as ``k="auto"`` may
    draw."""
    items = look_items("calibration", concepts, look)
    visuals = model.imagine([item.picture for item in items], MOST, progress=True)
    contexts, choices, images, others, answers = [], [], [], [], []
    for number, item in enumerate(items):
        for question in item.questions:
            contexts.append(question.contexts[0])
            choices.append(question.continuations)
            images.append(visuals[number])
            others.append(visuals[number - 1])
            answers.append(question.answer)
    scores, beside_others = (
        Scores.stacked(model.score(contexts, choices, some)) for some in (images, others)
    )
    return Answered(concepts, scores, beside_others, np.array(answers))


def _generic(model: VLMIG) -> Tensor:
    """Imagine an image of each of a few calibration concepts, (M, P, C)."""
    items = look_items("calibration", calibration_concepts(), "color")
    prompts = spread(item.picture for item in items)[:COUNT]
    return torch.cat([images.features for images in model.imagine(prompts, 1)])
