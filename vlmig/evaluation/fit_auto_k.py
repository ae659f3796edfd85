"""Calibrate ``k="auto"`` on a measured run, whose items are not used afterwards.

On a third of the items the estimate of a change is fitted, on the others the threshold is chosen,
by conformal risk control (Angelopoulos et al. 2024, arXiv 2208.02814). The loss of an item, in [0,
1], is the share of its questions whose answer changes, over random orders of its images. The
greatest loss at this threshold or a lower one falls as the threshold does. If over n items its mean
is R, then for a further item, exchangeable with them, the expected loss is at most (n R + 1) / (n +
1). That holds for each kind of question by itself (each task of the run): a threshold has the bound
of the worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vlmig.errors import VLMIGError
from vlmig.evaluation.answered import answered
from vlmig.evaluation.run_folder import read_run
from vlmig.io.atomic import write_text
from vlmig.models.config import VLMIGConfig
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import CHANGED, GROUP, MOST, Stopping, leads, log_odds
from vlmig.predict.scores import Scores

NEVER = 1.1
"""A gate that no probability passes."""
FITTED = 3
"""One item in so many fits the estimate; the others choose the threshold."""
ORDERS = 32
"""Random orders of each calibration question's images."""
TOGETHER = 128
"""Questions followed at a time."""
THRESHOLDS = (
    *(0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.17, 0.14, 0.12, 0.1, 0.08, 0.07, 0.06, 0.05, 0.04),
    *(0.03, 0.025, 0.02, 0.015, 0.01, 0.007, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0001),
)
"""Estimates of a change from which imagining may end."""


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
    items: list[str] = []
    kinds: list[str] = []
    for task in run.tasks:
        for question, _, cluster in answered(run, task):
            scores.append(question)
            items.append(cluster)
            kinds.append(task)
    if not scores:
        raise VLMIGError(
            f"no questions with candidates in {folder}; expected a run of vlmig eval --k 0,{MOST}"
        )
    rule = fit(scores, Mixture.of(config), items=items, kinds=kinds)
    config.auto = rule.described()
    write_text(checkpoint / "config.json", config.to_json_string())
    return rule


def fit(
    questions: Sequence[Scores],
    mixture: Mixture,
    most: int = MOST,
    group: int = GROUP,
    items: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
) -> Stopping:
    """Calibrate the rule on questions that were scored with ``most`` images.

    ``sure`` is the text-only confidence at which, by a logistic regression on its log-odds, all
    images would change one answer in ten.

    Args:
        items: what each question is about, where several are about one thing: they are no
            independent witnesses, and count together. Each by itself when None.
        kinds: of each question, for which the level is to hold separately; one kind when None.

    Raises:
        VLMIGError: fewer images than ``most``, or fewer than two items.
    """
    names = [str(i) for i in range(len(questions))] if items is None else items
    distinct, owner = np.unique(np.array(names), return_inverse=True)
    fewest = min((len(scores.per_image) for scores in questions), default=0)
    if fewest < most or len(distinct) < 2 or most < 2:
        raise VLMIGError(
            f"{len(questions)} questions about {len(distinct)} items beside {fewest} images; "
            f"expected two or more items beside {most} images or more"
        )
    random = np.random.default_rng(0)
    fitted = random.permutation(len(distinct))[: max(1, len(distinct) // FITTED)]
    fits = np.isin(owner, fitted)
    rule = _shape([questions[i] for i in np.flatnonzero(fits).tolist()], mixture, most, group)
    judging = [questions[i] for i in np.flatnonzero(~fits).tolist()]
    kind = np.zeros(len(owner), dtype=int)
    if kinds is not None:
        kind = np.unique(np.array(kinds), return_inverse=True)[1]
    # An item of two kinds counts once in each.
    units = np.stack([kind, owner], 1)[~fits]
    return replace(rule, risks=risks(judging, units, rule, mixture, random))


def _shape(questions: Sequence[Scores], mixture: Mixture, most: int, group: int) -> Stopping:
    """Fit what estimates the probability of a change."""
    variances, confidence, changed = [], [], []
    for scores in questions:
        variances.append(leads(scores, most, mixture).var(0, ddof=1))
        alone, together = scores.mixed(0, mixture), scores.mixed(most, mixture)
        confidence.append(alone.max())
        changed.append(alone.argmax() != together.argmax())
    flat = np.concatenate(variances)
    spread, freedom = shrinkage(flat[flat > 0], most - 1)
    sure, slope = _gate(np.array(confidence), np.array(changed))
    return Stopping(sure, spread, freedom, most, group, slope=slope)


def risks(
    questions: Sequence[Scores],
    units: np.ndarray,
    rule: Stopping,
    mixture: Mixture,
    random: np.random.Generator,
) -> list[list[float]]:
    """Bound the share of answers that each threshold changes, in the kind where it is greatest.

    Args:
        units: kind and item of each question, (Q, 2).

    Returns:
        Pairs of a threshold and its bound, rounded up; without those of no use to any level.
    """
    losses = np.empty((len(questions), len(THRESHOLDS)))
    sizes = np.array([scores.text.size for scores in questions])
    for size in np.unique(sizes):
        alike = np.flatnonzero(sizes == size)
        for start in range(0, len(alike), TOGETHER):
            chosen = alike[start : start + TOGETHER]
            stacked = in_random_orders([questions[i] for i in chosen], ORDERS, random)
            doubts, changed = path(stacked, rule, mixture)
            for t, threshold in enumerate(THRESHOLDS):
                stop = (doubts <= threshold).argmax(0)
                at_stop = changed[stop, np.arange(len(stop))]
                losses[chosen, t] = at_stop.reshape(len(chosen), ORDERS).mean(1)
    distinct, index, counts = np.unique(units, axis=0, return_inverse=True, return_counts=True)
    total = np.zeros((len(counts), len(THRESHOLDS)))
    np.add.at(total, index.ravel(), losses)
    by_item = total / counts[:, None]
    # Of thresholds that fall from left to right: the greatest loss from here on.
    greatest = np.maximum.accumulate(by_item[:, ::-1], 1)[:, ::-1]
    bounds = []
    for kind in np.unique(distinct[:, 0]):
        of_kind = greatest[distinct[:, 0] == kind]
        bounds.append((of_kind.sum(0) + 1) / (len(of_kind) + 1))
    rounded = np.ceil(np.max(bounds, axis=0) * 1e4) / 1e4
    return [[t, risk] for t, risk in zip(THRESHOLDS, rounded.tolist(), strict=True) if risk < 0.5]


def in_random_orders(
    questions: Sequence[Scores], count: int, random: np.random.Generator
) -> Scores:
    """Stack Q questions of C candidates and K images, each ``count`` times with its images in
    another order: text (Q * count, C), images (K, Q * count, C)."""
    text, blank, images, alignment, generic = [], [], [], [], []
    for scores in questions:
        k = len(scores.per_image)
        order = random.permuted(np.tile(np.arange(k), (count, 1)), axis=1).T
        text.append(np.tile(scores.text, (count, 1)))
        blank.append(np.tile(scores.blank, (count, 1)))
        images.append(scores.per_image[order])
        alignment.append(scores.alignment[order])
        if scores.generic is not None:
            generic.append(np.tile(scores.generic[:, None], (1, count, 1)))
    most = min(map(len, images))
    per_image = np.concatenate([values[:most] for values in images], 1)
    cosines = np.concatenate([values[:most] for values in alignment], 1)
    compared = np.concatenate(generic, 1) if generic else None
    return Scores(np.concatenate(text), per_image, np.concatenate(blank), cosines, compared)


def path(stacked: Scores, rule: Stopping, mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Follow Q stacked questions to the end.

    Returns:
        At each look the estimate of a change, and whether the answer there is not that by all
        images: (looks, Q) each, the last look being the end.
    """
    answer = stacked.mixed(rule.most, mixture).argmax(-1)
    doubts, changed, n = [], [], 0
    while n < rule.most:
        doubts.append(rule.doubt(stacked, n, mixture))
        changed.append(stacked.mixed(n, mixture).argmax(-1) != answer)
        n = rule.after(n)
    end = np.zeros(answer.shape)
    return np.stack([*doubts, end - 1]), np.stack([*changed, end > 0])


def _gate(confidence: np.ndarray, changed: np.ndarray) -> tuple[float, float | None]:
    """Return the probability at which ``CHANGED`` of the answers change, and how fast the log-odds
    of a change fall with the text's.

    Args:
        confidence: log-probability of each question's leader, by text alone.
        changed: whether images changed its answer.
    """
    from scipy.special import expit, logit  # with scikit-learn a second, for calibration alone
    from sklearn.linear_model import LogisticRegression

    if changed.all() or not changed.any():
        return (NEVER if changed.any() else float(np.exp(confidence.min()))), None
    line = LogisticRegression(C=1e3).fit(log_odds(confidence)[:, None], changed)
    slope = float(line.coef_[0, 0])
    if slope >= 0:  # certain answers change no less often than others
        return NEVER, None
    return float(expit((logit(CHANGED) - line.intercept_[0]) / slope)), -slope


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
