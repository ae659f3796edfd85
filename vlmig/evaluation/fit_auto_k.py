"""Calibrate ``k="auto"`` on a measured run, whose items are not used afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vlmig.errors import VLMIGError
from vlmig.evaluation.answered import answered
from vlmig.evaluation.run_folder import Run, read_run
from vlmig.io.atomic import write_text
from vlmig.models.config import VLMIGConfig
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import GROUP, MOST, Stopping, leads
from vlmig.predict.scores import Scores

CHANGED = 0.1
"""Share of answers that images change at the gate's probability."""
NEVER = 1.1
"""A gate that no probability passes."""


def calibrate(folder: Path, checkpoint: Path) -> Stopping:
    """Fit the rule to a run's measurements, and write it to a checkpoint's configuration.

    Raises:
        VLMIGError: no checkpoint, or a run without enough questions and images (``vlmig eval --k
            0,10``).
    """
    if not (checkpoint / "config.json").is_file():
        raise VLMIGError(
            f"no checkpoint in {checkpoint}; expected a folder with config.json, which is written "
            "to"
        )
    config, run = VLMIGConfig.from_pretrained(checkpoint), read_run(folder)
    scores: list[Scores] = []
    for task in run.tasks:
        scores += scores_of(run, task)
    if not scores:
        raise VLMIGError(
            f"no questions with candidates in {folder}; expected a run of vlmig eval --k 0,{MOST}"
        )
    rule = fit(scores, Mixture.of(config))
    config.auto = rule.described()
    write_text(checkpoint / "config.json", config.to_json_string())
    return rule


def scores_of(run: Run, task: str) -> Iterator[Scores]:
    """Yield the scores of a task's questions whose candidates share their images."""
    for scores, _, _ in answered(run, task):
        yield scores


def fit(
    questions: Sequence[Scores], mixture: Mixture, most: int = MOST, group: int = GROUP
) -> Stopping:
    """Calibrate the rule on questions that were scored with ``most`` images.

    ``sure`` is the text-only confidence at which, by a logistic regression on its log-odds, all
    images would change one answer in ten. Questions above it are more certain, so that of all that
    pass the gate far fewer change.

    Raises:
        VLMIGError: fewer images than ``most``, or fewer than two questions.
    """
    fewest = min((len(scores.per_image) for scores in questions), default=0)
    if fewest < most or len(questions) < 2 or most < 2:
        raise VLMIGError(
            f"{len(questions)} questions beside {fewest} pictures; expected two or more questions "
            f"beside {most} pictures "
            "or more"
        )
    variances, confidence, changed = [], [], []
    for scores in questions:
        variances.append(leads(scores, most, mixture).var(0, ddof=1))
        alone, together = scores.mixed(0, mixture), scores.mixed(most, mixture)
        confidence.append(alone.max())
        changed.append(alone.argmax() != together.argmax())
    flat = np.concatenate(variances)
    spread, freedom = shrinkage(flat[flat > 0], most - 1)
    return Stopping(_gate(np.array(confidence), np.array(changed)), spread, freedom, most, group)


def _gate(confidence: np.ndarray, changed: np.ndarray) -> float:
    """Return the probability at which ``CHANGED`` of the answers change.

    Args:
        confidence: log-probability of each question's leader, by text alone.
        changed: whether images changed its answer.
    """
    from scipy.special import expit, logit  # with scikit-learn a second, for calibration alone
    from sklearn.linear_model import LogisticRegression

    if changed.all() or not changed.any():
        return NEVER if changed.any() else float(np.exp(confidence.min()))
    odds = confidence - np.log(-np.expm1(np.minimum(confidence, -1e-6)))
    line = LogisticRegression(C=1e3).fit(odds[:, None], changed)
    slope = line.coef_[0, 0]
    if slope >= 0:  # certain answers change no less often than others
        return NEVER
    return float(expit((logit(CHANGED) - line.intercept_[0]) / slope))


def shrinkage(variances: np.ndarray, freedom: int) -> tuple[float, float]:
    """Fit a scaled inverse chi-squared distribution to variances of ``freedom`` degrees each (Smyth
    2004, section 6.2).

    Returns:
        s_0 and d_0.
    """
    if len(variances) < 2:
        return 1.0, 1.0
    from scipy.optimize import brentq  # for calibration alone, as in ``_gate``
    from scipy.special import digamma, polygamma

    logs = np.log(variances) - digamma(freedom / 2) + np.log(freedom / 2)
    # Chance alone explains polygamma(1, freedom / 2) of the variance of the logarithms.
    excess = max(1e-3, float(logs.var(ddof=1)) - float(polygamma(1, freedom / 2)))
    half = float(brentq(lambda x: polygamma(1, x) - excess, 1e-3, 1e4))
    return float(np.exp((logs.mean() + digamma(half) - np.log(half)) / 2)), 2 * half
