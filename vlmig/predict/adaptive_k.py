"""When to imagine and when to stop: ``k="auto"``.

A gate looks at the text-only prediction: where it is sure enough, no picture is imagined. Otherwise pictures come in small
groups until the leading answer is safe: until it is unlikely that it would change with all ``most`` pictures.

Each picture, mixed with the text by itself, gives log-odds of the leader against every rival. They are independent draws (picture i
depends on the prompt and its seed only), and for the rules ``evidence`` and ``logit`` their mean is the mixture's own. With n of
``most`` seen, the mean of all differs from that of those seen by a standard error of s * sqrt(1/n - 1/most). The spread s of a
few draws is hardly known, so it is shrunk towards that of other questions (empirical Bayes, Smyth 2004: s_0 with d_0 degrees of
freedom). The leader is safe when for every rival mean / error exceeds Student's quantile of the error level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from vlmig.errors import VLMIGError
from vlmig.imagination.visuals import Visuals
from vlmig.models.mixture import Mixture
from vlmig.predict.batching import score_reading
from vlmig.predict.scorer import Reader
from vlmig.predict.scores import Scores
from vlmig.runtime import spread

LEVEL = 0.1
"""Error level: how likely, at each look, the leader may be another one in the end."""
MOST, GROUP = 10, 1
CHANGED = 0.1
"""Share of answers that pictures change where the gate stands."""
NEVER = 1.1
"""A gate that no probability passes."""


@dataclass(frozen=True)
class Stopping:
    """The rule, as calibrated on questions that are not asked later.

    Args:
        sure: text-only probability of the leader from which no picture is imagined.
        spread: s_0, typical standard deviation of a rival's log-odds between pictures of one prompt, in nats.
        freedom: d_0, how alike that is from question to question, as degrees of freedom.
        most: pictures at most.
        group: pictures imagined at a time.
        level: chosen error level.
    """

    sure: float
    spread: float
    freedom: float
    most: int = MOST
    group: int = GROUP
    level: float = LEVEL

    @classmethod
    def asked(cls, k: str, calibrated: dict[str, Any] | None) -> Stopping:
        """Understand ``auto``, or ``auto:LEVEL`` with an error level of one's own.

        Args:
            calibrated: of the checkpoint, see ``VLMIGConfig.auto``.

        Raises:
            VLMIGError: something else; a checkpoint for which that was never calibrated.
        """
        name, colon, level = k.partition(":")
        try:
            chosen = {"level": float(level)} if colon else {}
        except ValueError:
            name = ""
        if name != "auto":
            raise VLMIGError(
                f"k={k!r}; expected a number of pictures, auto, or auto:LEVEL with an error level such as 0.1"
            )
        if calibrated is None:
            raise VLMIGError(
                "k='auto' needs a checkpoint that was calibrated for it, and this one was not; expected vlmig calibrate, or a number"
            )
        return cls(**{**calibrated, **chosen})

    def __post_init__(self) -> None:
        if not (0 < self.level < 0.5 and 1 <= self.group <= self.most):
            raise VLMIGError(
                f"level={self.level}, group={self.group}, most={self.most}; expected an error level in (0, 0.5) and groups of 1 to most"
            )

    @property
    def looks(self) -> list[int]:
        """How many pictures are there at each look; all of them at the last."""
        return [*range(self.group, self.most, self.group), self.most]

    def after(self, n: int) -> int:
        """Return how many pictures there are at the look behind that with n."""
        return next(look for look in self.looks if look > n)

    def enough(self, scores: Scores, n: int, mixture: Mixture) -> bool:
        """Tell whether the first n pictures are enough.

        Args:
            scores: of the candidates, beside n pictures or more.
            mixture: how they are mixed.
        """
        if n >= self.most:
            return True
        if n == 0:
            return bool(np.exp(scores.mixed(0, mixture)).max() >= self.sure)
        from scipy import stats  # half a second, which only k="auto" has to spend

        leads, spread, freedom = _leads(scores, n, mixture), self.spread, self.freedom
        known = freedom + n - 1
        variance = (freedom * spread**2 + (n - 1) * (leads.var(0, ddof=1) if n > 1 else 0)) / known
        error = np.sqrt(variance * (1 / n - 1 / self.most))
        return bool((leads.mean(0) >= stats.t.isf(self.level, known) * error).all())

    def used(self, many: Sequence[Scores], mixture: Mixture) -> int:
        """Return how many pictures are looked at before the answers of questions that share them are safe."""
        n = 0
        while not all(self.enough(own, n, mixture) for own in many):
            n = self.after(n)
        return n

    def described(self) -> dict[str, Any]:
        """Return the rule as a checkpoint keeps it."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def _leads(scores: Scores, n: int, mixture: Mixture) -> np.ndarray:
    """Return the log-odds of the leader against every rival beside each of the first n pictures alone, (n, C - 1)."""
    leader = int(scores.mixed(n, mixture).argmax())
    alone = scores.alone(n).mixed(1, mixture)
    return np.delete(alone[:, [leader]] - alone, leader, 1)


def fit(scores: Sequence[Scores], mixture: Mixture, most: int = MOST, group: int = GROUP) -> Stopping:
    """Calibrate the rule on questions that were scored beside ``most`` pictures.

    ``sure`` is the confidence of text alone at which, by a logistic regression on its log-odds, all pictures would change one
    answer in ten; above it the more certain ones are, so that of all that pass the gate far fewer change.

    Raises:
        VLMIGError: fewer pictures than ``most``, or fewer than two questions.
    """
    seen = min((len(own.per_image) for own in scores), default=0)
    if seen < most or len(scores) < 2 or most < 2:
        raise VLMIGError(
            f"{len(scores)} questions beside {seen} pictures; expected two or more questions beside {most} pictures or more"
        )
    variances = np.concatenate([_leads(own, most, mixture).var(0, ddof=1) for own in scores])
    spread, freedom = shrinkage(variances[variances > 0], most - 1)
    alone, together = (np.stack([own.mixed(k, mixture) for own in scores]) for k in (0, most))
    return Stopping(_gate(alone.max(-1), alone.argmax(-1) != together.argmax(-1)), spread, freedom, most, group)


def _gate(confidence: np.ndarray, changed: np.ndarray) -> float:
    """Return the confidence at which ``CHANGED`` of the answers change, of log probabilities and whether each answer changed."""
    from scipy.special import expit, logit  # with scikit-learn a second, for calibration alone
    from sklearn.linear_model import LogisticRegression

    if changed.all() or not changed.any():
        return NEVER if changed.any() else float(np.exp(confidence.min()))
    odds = confidence - np.log(-np.expm1(np.minimum(confidence, -1e-6)))
    line = LogisticRegression(C=1e3).fit(odds[:, None], changed)
    slope = line.coef_[0, 0]
    if slope >= 0:  # who is surer is not more often right
        return NEVER
    return float(expit((logit(CHANGED) - line.intercept_[0]) / slope))


def shrinkage(variances: np.ndarray, freedom: int) -> tuple[float, float]:
    """Fit a scaled inverse chi-squared distribution to variances of ``freedom`` degrees each: s_0 and d_0 (Smyth 2004, section 6.2)."""
    if len(variances) < 2:
        return 1.0, 1.0
    from scipy.optimize import brentq  # for calibration alone, as in ``_gate``
    from scipy.special import digamma, polygamma

    logs = np.log(variances) - digamma(freedom / 2) + np.log(freedom / 2)
    excess = max(
        1e-3, float(logs.var(ddof=1)) - float(polygamma(1, freedom / 2))
    )  # of chance alone there would be none
    half = float(brentq(lambda x: polygamma(1, x) - excess, 1e-3, 1e4))
    return float(np.exp((logs.mean() + digamma(half) - np.log(half)) / 2)), 2 * half


class Asked:
    """Questions that share their pictures, which come in groups.

    Args:
        reader: scores them.
        questions: of each its texts, with the candidates behind them, letter by letter: one text for all, or one for each.
        rule: when to stop.
        mixture: how candidates are mixed.
        least: pictures that are there in any case.
        first: score each candidate's first sub-token only, as published.
    """

    def __init__(
        self,
        reader: Reader,
        questions: Sequence[Sequence[tuple[str, Sequence[str]]]],
        rule: Stopping,
        mixture: Mixture,
        *,
        least: int = 0,
        first: bool = False,
    ) -> None:
        self.reader, self.parts = reader, [len(parts) for parts in questions]
        self.contexts, self.choices = zip(*(part for parts in questions for part in parts), strict=True)
        self.rule, self.mixture, self.least, self.first = rule, mixture, least, first
        self.visuals = Visuals.none(reader.config)

    @property
    def wanted(self) -> int | None:
        """How many pictures there have to be next; None where there are enough."""
        seen = len(self.visuals.features)
        if seen < self.least:
            return self.least
        if all(self.rule.enough(own, seen, self.mixture) for own in self.scores):
            return None
        return self.rule.after(seen)

    @property
    def scores(self) -> list[Scores]:
        """What the candidates of each question got so far."""
        flat = iter(self._scores)
        joined = [Scores.joined([next(flat) for _ in range(count)]) for count in self.parts]
        return [replace(own, alignment=self._scores[0].alignment) for own in joined]

    def read(self) -> None:
        """Read the texts, and score the candidates by text alone."""
        bare = [self.visuals] * len(self.contexts)
        self._scores = [Scores.zero(len(own), self.visuals.alignment.numpy()) for own in self.choices]
        readings = self.reader.readings(self.contexts, self.choices, bare, first=self.first)
        self._readings = [(jobs, reading) for jobs, _, reading in readings]
        for jobs, reading in self._readings:
            score_reading(self.reader.model, reading, jobs, None, self._scores)

    def look(self, visuals: Visuals) -> None:
        """Look at the pictures that were not there before."""
        fresh = visuals.between(len(self.visuals.features), len(visuals.features))
        added = [Scores.zero(len(own), fresh.alignment.numpy()) for own in self.choices]
        for jobs, reading in self._readings:
            score_reading(self.reader.model, reading, jobs, self.reader.sights([fresh] * len(jobs)), added)
        self._scores = [before.extended(more) for before, more in zip(self._scores, added, strict=True)]
        self.visuals = visuals


def ask_all(
    asked: Sequence[Asked],
    draw: Callable[[Sequence[int], int], Sequence[Visuals]],
    device: torch.device | None = None,
) -> None:
    """Give each of many its pictures, those that come next together, until all have enough.

    Args:
        draw: gives the first k pictures of some of them, by their numbers.
        device: where texts are read, each by itself, so that no number depends on the others; together with all threads when None.
    """
    work = partial(spread, device=device) if device is not None else _one_by_one
    work(Asked.read, asked)
    while wanted := {i: k for i, own in enumerate(asked) if (k := own.wanted) is not None}:
        k = min(wanted.values())
        members = [i for i, own in wanted.items() if own == k]
        work(_look, list(zip([asked[i] for i in members], draw(members, k), strict=True)))


def _look(pair: tuple[Asked, Visuals]) -> None:
    pair[0].look(pair[1])


@torch.inference_mode()
def _one_by_one(work: Callable[[Any], None], parts: Sequence[Any]) -> None:
    for part in parts:
        work(part)
