"""When to imagine and when to stop: ``k="auto"``.

The answer with all ``most`` images is the aim; images come in small groups until it is known well
enough. Before the first image and after each group the rule estimates the probability that the
answer will still change (``Stopping.doubt``), and stops where that is below a threshold.

- By text alone the estimate is a logistic regression on the leader's log-odds.
- Each image, mixed with the text by itself, gives log-odds of the leader against every rival. For
  the rules ``evidence`` and ``logit`` their mean is that of the mixture. After n of ``most`` images
  the mean of all differs from the mean so far by a standard error of s * sqrt(1/n - 1/most). A few
  draws hardly tell the standard deviation s, so it is shrunk towards that of other questions
  (empirical Bayes, Smyth 2004: s_0 with d_0 degrees of freedom). The estimate is the tail of
  Student's t beyond mean / error, for the rival where it is greatest.

Both are right only for images that scatter normally. They need not be right: the threshold is
chosen by conformal risk control (``vlmig.evaluation.fit_auto_k``), which counts the changed answers
of calibration questions. So the level is the share of questions, among those like the
calibration's, that are answered otherwise than with all images, whatever the images hold.

It says nothing of a single question, and no cheap rule could: where nine images agree and a tenth
outweighs them, the first n look like those of ten that agree, and miss the tenth in 1 - n/10 of all
orders. To err in at most one order of ten, for any images, takes nine of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch

from vlmig.errors import VLMIGError
from vlmig.imagination.visuals import Visuals
from vlmig.models.mixture import Mixture
from vlmig.predict.batching import Batch, add_scores
from vlmig.predict.scorer import Scorer
from vlmig.predict.scores import Scores
from vlmig.runtime import deterministic_map

LEVEL = 0.1
"""Error level: the share of questions that are answered otherwise than with all images."""
CHANGED = 0.1
"""Share of answers that images change where text alone has the probability ``sure``."""
MOST, GROUP = 10, 1


@dataclass(frozen=True)
class Stopping:
    """The rule, calibrated on questions other than those it is used for.

    Args:
        sure: text-only probability of the leader at which images change one answer in ten.
        spread: s_0, typical standard deviation of a rival's log-odds between images of one prompt,
            in nats.
        freedom: d_0, how alike that is from question to question, as degrees of freedom.
        most: the most images.
        group: images imagined at a time.
        level: chosen error level.
        slope: how fast the log-odds of a change fall with those of the text's leader; None: at
            once, no image is imagined from ``sure`` on.
        risks: pairs of a threshold and the share of answers that change by it at most. Without
            them, as in checkpoints calibrated before them, ``level`` itself is the threshold: an
            error level of each look, and only if images scatter normally.
    """

    sure: float
    spread: float
    freedom: float
    most: int = MOST
    group: int = GROUP
    level: float = LEVEL
    slope: float | None = None
    risks: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        if not (0 < self.level < 0.5 and 1 <= self.group <= self.most):
            raise VLMIGError(
                f"level={self.level}, group={self.group}, most={self.most}; expected an error "
                "level in (0, 0.5) and groups of 1 to most"
            )

    @property
    def threshold(self) -> float:
        """The estimate of a change from which the rule stops; -1, which none reaches, where no
        threshold is known to keep the level."""
        if not self.risks:
            return self.level
        return max((threshold for threshold, risk in self.risks if risk <= self.level), default=-1)

    def after(self, n: int) -> int:
        """Return how many images there are after the group that follows n images; at the end there
        are ``most``."""
        following = self.group * (n // self.group + 1)
        return min(following, self.most)

    def enough(self, scores: Scores, n: int, mixture: Mixture) -> bool:
        """Tell whether the first n images are enough.

        Args:
            scores: of the candidates, with n images or more.
        """
        return n >= self.most or bool(self.doubt(scores, n, mixture) <= self.threshold)

    def doubt(self, scores: Scores, n: int, mixture: Mixture) -> np.ndarray:
        """Estimate the probability that the answer by the first n images is not that by all, (...).

        Args:
            scores: of a question, or of several that are stacked, (..., C), with n images or more.
        """
        if n == 0:
            return self._doubt_of_text(scores.mixed(0, mixture).max(-1))
        from scipy import stats  # half a second, which only k="auto" has to spend

        odds = leads(scores, n, mixture)
        known = self.freedom + n - 1
        between = odds.var(0, ddof=1) if n > 1 else 0
        variance = (self.freedom * self.spread**2 + (n - 1) * between) / known
        error = np.sqrt(variance * (1 / n - 1 / self.most))
        return np.asarray(stats.t.sf(odds.mean(0) / error, known).max(-1, initial=0))

    def _doubt_of_text(self, confidence: np.ndarray) -> np.ndarray:
        """Estimate the same by the log-probability of the text-only leader, (...)."""
        if self.slope is None or self.sure >= 1:
            return np.where(np.exp(confidence) >= self.sure, 0.0, 1.0)
        above = log_odds(confidence) - np.log(self.sure / (1 - self.sure))
        return 1 / (1 + (1 - CHANGED) / CHANGED * np.exp(np.minimum(self.slope * above, 500)))

    def used(self, questions: Sequence[Scores], mixture: Mixture) -> int:
        """Return how many images are used before the answers of questions that share them are
        safe."""
        n = 0
        while not all(self.enough(scores, n, mixture) for scores in questions):
            n = self.after(n)
        return n

    def described(self) -> dict[str, Any]:
        """Return the rule as a checkpoint keeps it."""
        fields: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name == "risks":
                fields |= {name: [list(pair) for pair in value]} if value else {}
            elif value is not None:
                fields[name] = round(value, 4)
        return fields


def parse_k(
    k: int | str | None, calibrated: dict[str, Any] | None, decides: bool = True
) -> int | Stopping | None:
    """Parse a number of images: ``auto``, or ``auto:LEVEL`` with another error level, becomes a
    rule; a number stays.

    Args:
        calibrated: the checkpoint's rule, see ``VLMIGConfig.auto``.
        decides: whether there are answers between which imagined images can decide.

    Raises:
        VLMIGError: another word; ``auto`` with nothing to decide, or with a
            checkpoint that was not calibrated for it.
    """
    if not isinstance(k, str):
        return k
    if not decides:
        raise VLMIGError(
            f"k={k!r} decides between answers by imagined images; expected choices, and neither "
            "images nor steps, or a number"
        )
    name, colon, level = k.partition(":")
    try:
        chosen = {"level": float(level)} if colon else {}
    except ValueError:
        name = ""
    if name != "auto":
        raise VLMIGError(
            f"k={k!r}; expected a number of images, auto, or auto:LEVEL with an error level "
            "such as 0.1"
        )
    if calibrated is None:
        raise VLMIGError(
            "k='auto' needs a checkpoint that was calibrated for it, and this one was not; "
            "expected vlmig calibrate, or a number"
        )
    return Stopping(**{**calibrated, **chosen})


def leads(scores: Scores, n: int, mixture: Mixture) -> np.ndarray:
    """Return the log-odds of the leader against every rival with each of the first n images alone,
    (n, ..., C - 1)."""
    leader = scores.mixed(n, mixture).argmax(-1)[..., None]
    alone = scores.alone(n).mixed(1, mixture)
    rival = np.arange(alone.shape[-1]) != leader
    odds = np.take_along_axis(alone, np.broadcast_to(leader, (n, *leader.shape)), -1) - alone
    return odds[:, rival].reshape(*alone.shape[:-1], -1)


def log_odds(log_probability: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)) of log p, with 1 - p at least a millionth."""
    return log_probability - np.log(-np.expm1(np.minimum(log_probability, -1e-6)))


class AdaptiveScores:
    """Scores of questions that share their images, which come in groups.

    Args:
        questions: of each its contexts with their candidates, verbatim: one context for all, or one
            for each.
        rule: when to stop.
        mixture: how candidates are mixed.
        least: images to use in any case.
        first: score each candidate's first sub-token only, as published.
        generic: score with the checkpoint's generic images too, whatever the mixture.
    """

    def __init__(
        self,
        scorer: Scorer,
        questions: Sequence[Sequence[tuple[str, Sequence[str]]]],
        rule: Stopping,
        mixture: Mixture,
        *,
        least: int = 0,
        first: bool = False,
        generic: bool = False,
    ) -> None:
        self.generic = generic or mixture.mix == "contrast"
        self.scorer, self.rule, self.mixture = scorer, rule, mixture
        self.least, self.first = least, first
        self.sizes = [len(groups) for groups in questions]
        self.groups = list(chain(*questions))
        self.visuals = Visuals.none(scorer.config)
        self._scores: list[Scores] = []
        self._batches: list[Batch] = []

    @property
    def wanted(self) -> int | None:
        """How many images are needed next; None where there are enough."""
        n = len(self.visuals.features)
        if n < self.least:
            return self.least
        if all(self.rule.enough(scores, n, self.mixture) for scores in self.scores):
            return None
        return self.rule.after(n)

    @property
    def scores(self) -> list[Scores]:
        """The scores of each question so far."""
        joined, start = [], 0
        for size in self.sizes:
            question = Scores.joined(self._scores[start : start + size])
            joined.append(replace(question, alignment=self._scores[0].alignment))
            start += size
        return joined

    def read(self) -> None:
        """Read the contexts, and score the candidates with text alone."""
        contexts, choices = zip(*self.groups, strict=True)
        none = [self.visuals] * len(contexts)
        self._scores = self._zeros(self.visuals)
        batches = self.scorer.batches(contexts, choices, none, first=self.first, together=True)
        self._batches = list(batches)
        for batch in self._batches:
            add_scores(self.scorer.model, batch, None, self._scores)

    def look(self, visuals: Visuals) -> None:
        """Score with the images that are new in ``visuals``."""
        fresh = visuals.between(len(self.visuals.features), len(visuals.features))
        added = self._zeros(fresh)
        for batch in self._batches:
            states = self.scorer.visual_cache([fresh] * len(batch.requests), self.generic)
            add_scores(self.scorer.model, batch, states, added)
        for i, more in enumerate(added):
            self._scores[i] = self._scores[i].extended(more)
        self.visuals = visuals

    def _zeros(self, visuals: Visuals) -> list[Scores]:
        scores = []
        for _, candidates in self.groups:
            scores.append(self.scorer.zero(len(candidates), visuals, self.generic))
        return scores


Draw = Callable[[Sequence[int], int], Sequence[Visuals]]
"""Gives the first k images of some questions, by their numbers."""


def score_until_safe(
    scorer: Scorer,
    questions: Sequence[tuple[str, Sequence[str]]],
    rule: Stopping,
    mixture: Mixture,
    draw: Draw,
) -> list[AdaptiveScores]:
    """Score questions, each a context with its candidates and its own images, until every answer is
    safe."""
    # A generator that draws several images at a time takes no longer for them than for one.
    rule = replace(rule, group=scorer.config.imaginer_batch or rule.group)
    adaptive = [AdaptiveScores(scorer, [[question]], rule, mixture) for question in questions]
    score_adaptively(adaptive, draw)
    return adaptive


def score_adaptively(
    adaptive: Sequence[AdaptiveScores], draw: Draw, device: torch.device | None = None
) -> None:
    """Draw images and score with them, those of many questions together, until all have enough.

    Args:
        device: where texts are read, each by itself, so that no number depends on the others; with
            all threads, one after another, when None.
    """
    work = partial(deterministic_map, device=device) if device is not None else _one_by_one
    work(AdaptiveScores.read, adaptive)
    while True:
        wanted: dict[int, int] = {}
        for i, scores in enumerate(adaptive):
            if (count := scores.wanted) is not None:
                wanted[i] = count
        if not wanted:
            return
        k = min(wanted.values())
        members = [i for i, count in wanted.items() if count == k]
        pairs = list(zip([adaptive[i] for i in members], draw(members, k), strict=True))
        work(lambda pair: pair[0].look(pair[1]), pairs)


@torch.inference_mode()
def _one_by_one(work: Callable[[Any], None], members: Sequence[Any]) -> None:
    for member in members:
        work(member)
