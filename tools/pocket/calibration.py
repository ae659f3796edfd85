"""Choose the pocket model's mixture on calibration concepts, which no test item is about."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmig.evaluation.fit_auto_k import fit
from vlmig.evaluation.fit_learned import examples
from vlmig.evaluation.fit_learned import fit as fit_learned
from vlmig.evaluation.keep_generic import spread
from vlmig.models.generic import COUNT, save_generic
from vlmig.models.mixture import Mixture
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.tasks import look_items, topic
from vlmig.pocket.text import language_corpus
from vlmig.predict.adaptive_k import MOST, Stopping
from vlmig.predict.batching import read_padded
from vlmig.predict.images import DEFAULT_K
from vlmig.predict.predictor import VLMIG
from vlmig.predict.scores import Scores

logger = logging.getLogger(__name__)
TEXTS = 200
TOGETHER = 5
"""Mixtures that are tried on the texts in one pass."""
CALIBRATION_SEED = 13
WEIGHTS = ("uniform", "entropy", "clip")
STRENGTHS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
DOUBTS = (0.0, 0.25)
FLOORS = (0.1, 0.2, 0.3, 0.4)
"""Quantiles of the calibration images' similarities to try as floors."""
TEXT_ALONE = Mixture("prob", "clip")
FIELDS = ("mix", "weights", "strength", "doubt", "alignment_floor")
"""What is chosen of a mixture."""


@dataclass(frozen=True)
class Limits:
    """What a mixture may cost."""

    known: tuple[str, ...] = ("supervised",)
    """The splits of whose concepts the text model knows colors."""
    kept: float = 0.98
    """Least share of their colors, right from text alone, that must stay right with images."""
    perplexity: float = 1.005
    """Greatest factor on the perplexity of plain texts."""


POCKET = Limits()
Answered = tuple[list[Scores], np.ndarray]
"""Scores of questions, and their right answers, (n,)."""


@dataclass
class ReadText:
    """Predictions for a sentence from text alone, with each image, and with the blank image."""

    text: Tensor
    """log p_0, (T, V)."""
    images: list[Tensor]
    blank: Tensor
    alignment: Tensor
    targets: Tensor
    """The true tokens, (T, 1)."""

    def loss(self, k: int, mixture: Mixture) -> Tensor:
        """Return the loss of each token in nats, (T,)."""
        trust = mixture.trust(self.alignment[:k]).expand(len(self.text), -1)
        mixed = mixture.combine(self.text, self.images[:k], trust, self.blank)
        return -mixed.gather(1, self.targets)[:, 0]


def calibrate(out: Path, work: Path, limits: Limits = POCKET) -> None:
    """Choose the mixture with the best accuracy on held-out concepts that keeps what the text model
    knows: what is right from text alone, and the perplexity of texts."""
    model = VLMIG.from_pretrained(out, store=work / "store")
    told, told_answers = _scores(model, "supervised")
    untold, untold_answers = _scores(model, "held_out")
    answered = {"supervised": (told, told_answers), "held_out": (untold, untold_answers)}
    alone = {split: _correct(*answered[split], 0, TEXT_ALONE) for split in limits.known}
    alignments = np.concatenate([score.alignment[:DEFAULT_K] for score in told + untold])
    fitting: list[tuple[float, float, Mixture]] = []
    for mixture in mixtures([round(float(np.quantile(alignments, share)), 3) for share in FLOORS]):
        still = [_correct(*answered[s], DEFAULT_K, mixture)[right] for s, right in alone.items()]
        kept = float(np.concatenate(still).mean())
        accuracy = float(_correct(untold, untold_answers, DEFAULT_K, mixture).mean())
        logger.info(
            "%-8s %-7s strength %.2f doubt %.2f floor %.3f: kept %.3f, untold %.3f",
            *astuple(mixture)[: len(FIELDS)],
            kept,
            accuracy,
        )
        if kept >= limits.kept:
            fitting.append((accuracy, kept, mixture))
    fitting.sort(key=lambda row: (-row[0], -row[1]))
    accuracy, kept, mixture, ratio = _keeping_texts(model, fitting, limits.perplexity)
    config = model.config
    for name in FIELDS:
        setattr(config, name, getattr(mixture, name))
    known_answers = [
        *zip(told, told_answers, strict=True),
        *zip(untold, untold_answers, strict=True),
    ]
    found = examples(((scores, right, "") for scores, right in known_answers), DEFAULT_K)
    config.learned = fit_learned(found.features, found.helped).described()
    rule = _stopping(answered, mixture)
    config.auto = rule.described()
    config.save_pretrained(out)
    save_generic(out, _generic(model))
    logger.info("k=auto: %s", rule)
    logger.info(
        "chosen %s: untold %.3f, kept %.3f, perplexity x %.4f", mixture, accuracy, kept, ratio
    )


def _keeping_texts(
    model: VLMIG, fitting: Sequence[tuple[float, float, Mixture]], most: float
) -> tuple[float, float, Mixture, float]:
    """Return the first mixture that keeps the perplexity of texts, with its factor."""
    for start in range(0, len(fitting), TOGETHER):
        some = fitting[start : start + TOGETHER]
        alone, *losses = _losses(_texts(model), [mixture for *_, mixture in some])
        for (accuracy, kept, mixture), loss in zip(some, losses, strict=True):
            ratio = float(np.exp(loss - alone))
            logger.info(
                "%s: kept %.3f, untold %.3f, perplexity x %.4f", mixture, kept, accuracy, ratio
            )
            if ratio <= most:
                return accuracy, kept, mixture, ratio
    raise RuntimeError(
        "no mixture keeps what the text model knows; train the language model longer"
    )


def _stopping(answered: Mapping[str, Answered], mixture: Mixture) -> Stopping:
    """Calibrate ``k="auto"``, for told and untold concepts each.

    The wordings about a concept share its images and count together.
    """
    scores: list[Scores] = []
    concepts: list[str] = []
    splits: list[str] = []
    for split, (found, _) in answered.items():
        names = [concept.name for concept in _concepts() if concept.split == split]
        scores += found
        concepts += np.repeat(names, len(found) // len(names)).tolist()
        splits += [split] * len(found)
    return fit(scores, mixture, items=concepts, kinds=splits)


def mixtures(floors: list[float]) -> Iterator[Mixture]:
    """Yield all mixtures to try; only evidence has strength and doubt, only entropy weights have a
    floor."""
    for weights in WEIGHTS:
        for floor in floors if weights == "entropy" else floors[:1]:
            for rule in ("prob", "logit"):
                yield Mixture(rule, weights, alignment_floor=floor)
            for strength, doubt in itertools.product(STRENGTHS, DOUBTS):
                yield Mixture("evidence", weights, strength, doubt, floor)


def _concepts() -> list[Concept]:
    return [concept for concept in load_concepts() if concept.calibration]


def _as_in_the_corpus(chosen: list[Concept]) -> list[Concept]:
    """Repeat held-out concepts until their share is that of the corpus."""

    def ratio(concepts: Sequence[Concept]) -> float:
        held_out = sum(c.split == "held_out" for c in concepts)
        return held_out / (len(concepts) - held_out)

    times = round(ratio(load_concepts()) / ratio(chosen))
    return [c for c in chosen for _ in range(times if c.split == "held_out" else 1)]


def _scores(model: VLMIG, split: str) -> Answered:
    """Score the color questions about the calibration concepts of a split, beside as many images as
    ``k="auto"`` may draw."""
    items = look_items("calibration", [c for c in _concepts() if c.split == split], "color")
    visuals = model.imagine([item.picture for item in items], MOST, progress=True)
    contexts, choices, images, answers = [], [], [], []
    for item, item_visuals in zip(items, visuals, strict=True):
        for question in item.questions:
            contexts.append(question.contexts[0])
            choices.append(question.continuations)
            images.append(item_visuals)
            answers.append(question.answer)
    return model.score(contexts, choices, images), np.array(answers)


def _generic(model: VLMIG) -> Tensor:
    """Imagine an image of each of a few calibration concepts, (M, P, C)."""
    items = look_items("calibration", _concepts(), "color")
    pictures = spread(item.picture for item in items)[:COUNT]
    return torch.cat([images.features for images in model.imagine(pictures, 1)])


def _correct(scores: list[Scores], answers: np.ndarray, k: int, mixture: Mixture) -> np.ndarray:
    return np.array([s.mixed(k, mixture).argmax() for s in scores]) == answers


@torch.inference_mode()
def _texts(model: VLMIG) -> Iterator[ReadText]:
    """Predict sentences in the style of the corpus, about calibration concepts and invented
    things."""
    corpus = language_corpus(CALIBRATION_SEED, 2 * TEXTS, _as_in_the_corpus(_concepts()))
    texts = list(dict.fromkeys(corpus))[:TEXTS]
    visuals = model.imagine([topic(text) for text in texts], DEFAULT_K, progress=True)
    network: Any = model.model
    for text, imagined in zip(texts, visuals, strict=True):
        ids = model.tokenizer(text).input_ids
        reading = read_padded(network, [ids[:-1]], len(ids) - 1, ids[0])
        visual = network.encode_with_blank(imagined.features[None])
        alone, blank, *images = [row[0] for row in network.predictions(reading, visual)]
        targets = torch.tensor(ids[1:])[:, None]
        yield ReadText(alone, images, blank, imagined.alignment, targets)


@torch.inference_mode()
def _losses(texts: Iterable[ReadText], mixtures: Sequence[Mixture]) -> list[float]:
    """Return the mean losses per token in nats: of text alone, and of each mixture."""
    rows = []
    for text in texts:
        mixed = [text.loss(DEFAULT_K, mixture) for mixture in mixtures]
        rows.append(torch.stack([text.loss(0, TEXT_ALONE), *mixed]))
    return torch.cat(rows, 1).mean(1).tolist()
