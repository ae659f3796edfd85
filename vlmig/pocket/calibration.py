"""Choose the pocket model's mixture on calibration concepts, which no test item is about."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import numpy as np

from vlmig.pocket.concepts import load_concepts
from vlmig.pocket.tasks import look_items
from vlmig.predictor import DEFAULT_K, VLMIG
from vlmig.scoring import Scores

logger = logging.getLogger(__name__)

KEPT = 0.99
"""Least share of what the text model was told and gets right that must stay right."""
MIXES = ("evidence", "prob", "logit")
WEIGHTS = ("uniform", "entropy", "clip")
STRENGTHS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
DOUBTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def calibrate(out: Path, work: Path) -> None:
    """Take the rule with the best accuracy on untold calibration concepts among those that keep what was told."""
    model = VLMIG.from_pretrained(out, store=work / "store")
    told, told_answers = _scores(model, "supervised")
    untold, untold_answers = _scores(model, "held_out")
    known = _correct(told, told_answers, 0, "prob", "uniform", 1.0, 0.0)
    best: tuple[float, float, tuple[str, str, float, float]] | None = None
    for mix, weights, strength, doubt in itertools.product(MIXES, WEIGHTS, STRENGTHS, DOUBTS):
        if mix != "evidence" and (strength, doubt) != (STRENGTHS[0], DOUBTS[0]):
            continue  # only the evidence has these two
        setting = (mix, weights, strength, doubt)
        kept = _correct(told, told_answers, DEFAULT_K, *setting)[known].mean()
        accuracy = _correct(untold, untold_answers, DEFAULT_K, *setting).mean()
        logger.info("%-8s %-7s strength %.2f doubt %.2f: kept %.3f, untold %.3f", *setting, kept, accuracy)
        if kept >= KEPT and (best is None or accuracy > best[0]):
            best = (float(accuracy), float(kept), setting)
    if best is None:
        raise RuntimeError("no mixture keeps what the text model knows; train the language model longer")
    config = model.config
    config.mix, config.weights, config.strength, config.doubt = best[2]
    config.save_pretrained(out)
    logger.info("chosen %s: untold %.3f, kept %.3f", best[2], best[0], best[1])


def _scores(model: VLMIG, split: str) -> tuple[list[Scores], np.ndarray]:
    """Score the colour questions about the calibration concepts of a split."""
    items = look_items("calibration", [c for c in load_concepts() if c.calibration and c.split == split], "color")
    visuals = model.imagine([item.picture for item in items], DEFAULT_K, progress=True)
    contexts = [context for item in items for context in item.contexts]
    seen = [v for item, v in zip(items, visuals, strict=True) for _ in item.contexts]
    choices = [item.choices for item in items for _ in item.contexts]
    return model.score(contexts, choices, seen), np.array([item.answer for item in items for _ in item.contexts])


def _correct(
    scores: list[Scores], answers: np.ndarray, k: int, mix: str, weights: str, strength: float, doubt: float
) -> np.ndarray:
    return np.array([s.mixed(k, mix, weights, strength, doubt).argmax() for s in scores]) == answers
