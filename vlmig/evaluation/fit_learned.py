"""Fit learned weights to measured questions, about objects that are not asked about afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from vlmig.errors import VLMIGError
from vlmig.evaluation.answered import answered
from vlmig.evaluation.run_folder import read_run
from vlmig.io.atomic import write_text
from vlmig.models.config import VLMIGConfig
from vlmig.models.learned import Learned, features_of
from vlmig.predict.scores import Scores

FOLDS = 5


@dataclass(frozen=True)
class Examples:
    """What is learned from: Q questions with K images each."""

    features: np.ndarray
    """See ``vlmig.models.learned.features_of``, (Q, K, F)."""
    helped: np.ndarray
    """Whether an image raises the right answer's probability above the text's, bool (Q, K)."""
    clusters: np.ndarray
    """The object of each question, (Q,)."""


@dataclass(frozen=True)
class Quality:
    """How well the trust tells, of objects it was not fitted on, which images help."""

    images: int
    helped: float
    """The share of images that help."""
    auroc: float
    brier: float
    """Mean squared error of the trust; that of a constant is ``helped * (1 - helped)``."""


def described(scores: Scores, right: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features (Q, K, F) of each of the first k images, and whether it helps (Q, K).

    Args:
        scores: of Q stacked questions with equally many candidates, see ``Scores.stacked``.
        right: the index of each question's right candidate, (Q,).
    """
    text, blank = log_softmax(scores.text, -1), log_softmax(scores.blank, -1)
    images = log_softmax(scores.per_image[:k], -1)
    alignment = np.moveaxis(scores.alignment[:k], 0, -1)
    tensors = map(torch.from_numpy, (text, images, alignment, blank))
    rows = np.arange(len(text))
    helped = images[:, rows, right] > text[rows, right]
    return features_of(*tensors).numpy(), helped.T


def examples(questions: Iterable[tuple[Scores, int, str]], k: int) -> Examples:
    """Describe the images of questions, each with its right candidate and its object."""
    features, helped, names = [], [], []
    for scores, right, name in questions:
        of_images, which_help = described(Scores.stacked([scores]), np.array([right]), k)
        features.append(of_images[0])
        helped.append(which_help[0])
        names.append(name)
    return Examples(np.array(features), np.array(helped), np.unique(names, return_inverse=True)[1])


def fit(features: np.ndarray, helped: np.ndarray) -> Learned:
    """Fit a logistic regression on standardized features (..., F) to ``helped`` (...).

    Where all images help, or none, every image gets their share, kept from 0 and 1 by one
    observation of each kind.
    """
    rows, known = features.reshape(-1, features.shape[-1]), helped.ravel()
    with np.errstate(invalid="ignore"):
        scaler = StandardScaler().fit(rows)
    mean, scale = np.nan_to_num(scaler.mean_), np.nan_to_num(scaler.scale_, nan=1.0)
    if known.all() or not known.any():
        share = (known.sum() + 1) / (len(known) + 2)
        slope, intercept = np.zeros(rows.shape[1]), float(np.log(share / (1 - share)))
    else:
        line = LogisticRegression().fit(np.nan_to_num((rows - mean) / scale), known)
        slope, intercept = line.coef_[0], float(line.intercept_[0])
    return Learned(tuple(mean.tolist()), tuple(scale.tolist()), tuple(slope.tolist()), intercept)


def cross_fitted(data: Examples) -> np.ndarray:
    """Return the trust in each image, (Q, K), fitted on other objects than it is applied to."""
    trust = np.full(data.helped.shape, float(data.helped.mean()))
    for test, learned in fit_to_others(data):
        trust[test] = learned.trust(torch.from_numpy(data.features[test])).numpy()
    return trust


def fit_to_others(data: Examples) -> Iterator[tuple[np.ndarray, Learned]]:
    """Yield the indices of the questions about some objects, and weights fitted to the others;
    nothing where all are about one object."""
    folds = min(FOLDS, len(np.unique(data.clusters)))
    if folds > 1:
        for train, test in GroupKFold(folds).split(data.helped, groups=data.clusters):
            yield test, fit(data.features[train], data.helped[train])


def quality(data: Examples) -> Quality:
    """Say how well the trust tells which images help, each object by what was fitted on others."""
    trust, helped = cross_fitted(data).ravel(), data.helped.ravel()
    both = helped.any() and not helped.all()
    auroc = float(roc_auc_score(helped, trust)) if both else float("nan")
    brier = float(brier_score_loss(helped, trust))
    return Quality(helped.size, float(helped.mean()), auroc, brier)


def calibrate(folder: Path, checkpoint: Path) -> Quality:
    """Fit learned weights to a run's measurements, and write them to a checkpoint's configuration.

    Raises:
        VLMIGError: a run without questions and images.
    """
    run = read_run(folder)
    questions: list[tuple[Scores, int, str]] = []
    for task in run.tasks:
        questions += answered(run, task)
    k = min((len(scores.per_image) for scores, _, _ in questions), default=0)
    if not k:
        raise VLMIGError(
            f"no questions with images in {folder}; expected a run of vlmig eval --k 0,6"
        )
    data = examples(questions, k)
    config = VLMIGConfig.from_pretrained(checkpoint)
    config.learned = fit(data.features, data.helped).described()
    write_text(checkpoint / "config.json", config.to_json_string())
    return quality(data)
