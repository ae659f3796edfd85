"""Choose the pocket model's mixture on calibration concepts, which no test item is about."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vlmig.pocket.concepts import find_concept, load_concepts
from vlmig.pocket.tasks import look_items, topic
from vlmig.pocket.text import language_corpus
from vlmig.predictor import DEFAULT_K, VLMIG
from vlmig.scoring import Scores
from vlmig.visuals import Visuals

logger = logging.getLogger(__name__)

KEPT = 0.98
"""Least share of what the text model was told and gets right that must stay right."""
PERPLEXITY = 1.005
"""Greatest factor on the perplexity of plain texts."""
TEXTS = 150
CALIBRATION_SEED = 13
Setting = tuple[str, str, float, float]
"""mix, weights, strength, doubt"""
WEIGHTS = ("uniform", "entropy", "clip")
STRENGTHS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
DOUBTS = (0.0, 0.25)


def calibrate(out: Path, work: Path) -> None:
    """Take the rule with the best accuracy on untold calibration concepts among those that keep what was told.

    The alignment that nine of ten of their pictures reach becomes the floor under which a picture is a guess.
    """
    model = VLMIG.from_pretrained(out, store=work / "store")
    told, told_answers = _scores(model, "supervised")
    untold, untold_answers = _scores(model, "held_out")
    known = _correct(told, told_answers, 0, ("prob", "uniform", 1.0, 0.0), 0.0)
    floor = round(float(np.quantile(np.concatenate([score.alignment for score in told + untold]), 0.1)), 3)
    model.config.alignment_floor = floor
    fitting: list[tuple[float, float, Setting]] = []
    for setting in settings():
        kept = float(_correct(told, told_answers, DEFAULT_K, setting, floor)[known].mean())
        accuracy = float(_correct(untold, untold_answers, DEFAULT_K, setting, floor).mean())
        logger.info("%-8s %-7s strength %.2f doubt %.2f: kept %.3f, untold %.3f", *setting, kept, accuracy)
        if kept >= KEPT:
            fitting.append((accuracy, kept, setting))
    texts = _texts(model)
    alone = _loss(model, texts, 0, ("prob", "uniform", 1.0, 0.0))
    for accuracy, kept, setting in sorted(fitting, key=lambda row: (-row[0], -row[1])):
        ratio = float(np.exp(_loss(model, texts, DEFAULT_K, setting) - alone))
        logger.info("%s: kept %.3f, untold %.3f, perplexity x %.4f", setting, kept, accuracy, ratio)
        if ratio <= PERPLEXITY:
            break
    else:
        raise RuntimeError("no mixture keeps what the text model knows; train the language model longer")
    config = model.config
    config.mix, config.weights, config.strength, config.doubt = setting
    config.save_pretrained(out)
    logger.info(
        "chosen %s: untold %.3f, kept %.3f, alignment floor %.3f", setting, accuracy, kept, config.alignment_floor
    )


def settings() -> Iterator[Setting]:
    """List every (mix, weights, strength, doubt); only the evidence has the last two."""
    for mix, weights in itertools.product(("prob", "logit"), WEIGHTS):
        yield mix, weights, 1.0, 0.0
    for weights, strength, doubt in itertools.product(WEIGHTS, STRENGTHS, DOUBTS):
        yield "evidence", weights, strength, doubt


def _scores(model: VLMIG, split: str) -> tuple[list[Scores], np.ndarray]:
    """Score the colour questions about the calibration concepts of a split."""
    items = look_items("calibration", [c for c in load_concepts() if c.calibration and c.split == split], "color")
    visuals = model.imagine([item.picture for item in items], DEFAULT_K, progress=True)
    contexts = [context for item in items for context in item.contexts]
    seen = [v for item, v in zip(items, visuals, strict=True) for _ in item.contexts]
    choices = [item.choices for item in items for _ in item.contexts]
    return model.score(contexts, choices, seen), np.array([item.answer for item in items for _ in item.contexts])


def _correct(scores: list[Scores], answers: np.ndarray, k: int, setting: Setting, floor: float) -> np.ndarray:
    return np.array([s.mixed(k, *setting, floor).argmax() for s in scores]) == answers


def _texts(model: VLMIG) -> list[tuple[str, Visuals]]:
    """Draw sentences of the corpus's kind, none about a concept of a test item, with pictures of what they are about."""
    drawn = [(text, topic(text)) for text in dict.fromkeys(language_corpus(CALIBRATION_SEED, 4000))]
    concepts = [(text, name, find_concept(name)) for text, name in drawn]
    chosen = [(text, name) for text, name, concept in concepts if concept is None or concept.calibration][:TEXTS]
    visuals = model.imagine([name for _, name in chosen], DEFAULT_K, progress=True)
    return [(text, seen) for (text, _), seen in zip(chosen, visuals, strict=True)]


def _loss(model: VLMIG, texts: list[tuple[str, Visuals]], k: int, setting: Setting) -> float:
    """Return the mean loss per token in nats with k pictures mixed in."""
    model.config.mix, model.config.weights, model.config.strength, model.config.doubt = setting
    log_probs = [model.token_log_probs(text, seen.first(k)) for text, seen in texts]
    return -float(torch.cat(log_probs).mean())
