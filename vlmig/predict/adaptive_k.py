"""When to imagine and when to stop: ``k="auto"``.

A gate looks at the text-only prediction: above a certain probability no image is imagined.
Otherwise images come in small groups until the leading answer is safe, that is, unlikely to change
with all ``most`` images.

Each image, mixed with the text by itself, gives log-odds of the leader against every rival. They
are independent draws (image i depends on the prompt and its seed only), and for the rules
``evidence`` and ``logit`` their mean is that of the mixture. After n of ``most`` images, the mean
of all differs from the mean so far by a standard error of s * sqrt(1/n - 1/most). A few draws
hardly tell the standard deviation s, so it is shrunk towards that of other questions (empirical
Bayes, Smyth 2004: s_0 with d_0 degrees of freedom). The leader is safe when for every rival mean /
error exceeds Student's quantile of the error level.
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
from vlmig.predict.batching import Batch, add_scores
from vlmig.predict.scorer import Scorer
from vlmig.predict.scores import Scores
from vlmig.runtime import deterministic_map

LEVEL = 0.1
"""Error level: the probability, each time it is checked, that the leader is another one in the
end."""
MOST, GROUP = 10, 1


@dataclass(frozen=True)
class Stopping:
    """The rule, calibrated on questions other than those it is used for.

    Args:
        sure: text-only probability of the leader from which no image is imagined.
        spread: s_0, typical standard deviation of a rival's log-odds between images of one prompt,
            in nats.
        freedom: d_0, how alike that is from question to question, as degrees of freedom.
        most: the most images.
        group: images imagined at a time.
        level: chosen error level.
    """

    sure: float
    spread: float
    freedom: float
    most: int = MOST
    group: int = GROUP
    level: float = LEVEL

    def __post_init__(self) -> None:
        if not (0 < self.level < 0.5 and 1 <= self.group <= self.most):
            raise VLMIGError(
                f"level={self.level}, group={self.group}, most={self.most}; expected an error "
                "level in (0, 0.5) and "
                "groups of 1 to most"
            )

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
        if n >= self.most:
            return True
        if n == 0:
            return bool(np.exp(scores.mixed(0, mixture)).max() >= self.sure)
        from scipy import stats  # half a second, which only k="auto" has to spend

        odds = leads(scores, n, mixture)
        known = self.freedom + n - 1
        between = odds.var(0, ddof=1) if n > 1 else 0
        variance = (self.freedom * self.spread**2 + (n - 1) * between) / known
        error = np.sqrt(variance * (1 / n - 1 / self.most))
        return bool((odds.mean(0) >= stats.t.isf(self.level, known) * error).all())

    def used(self, questions: Sequence[Scores], mixture: Mixture) -> int:
        """Return how many images are used before the answers of questions that share them are
        safe."""
        n = 0
        while not all(self.enough(scores, n, mixture) for scores in questions):
            n = self.after(n)
        return n

    def described(self) -> dict[str, Any]:
        """Return the rule as a checkpoint keeps it."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def parse_k(
    k: int | str | None, calibrated: dict[str, Any] | None, decides: bool = True
) -> int | Stopping | None:
    """Parse a number of images: ``auto``, or ``auto:LEVEL`` with another error level, becomes a
    rule; a number stays.

    Args:
        calibrated: the checkpoint's rule, see ``VLMIGConfig.auto``.
        decides: whether there are answers between which imagined images can decide.

    Raises:
        VLMIGError: another word; ``auto`` with nothing to decide, or with a checkpoint that was not
            calibrated for it.
    """
    if not isinstance(k, str):
        return k
    if not decides:
        raise VLMIGError(
            f"k={k!r} decides between answers by imagined pictures; expected choices, and neither "
            "images nor steps, "
            "or a number"
        )
    name, colon, level = k.partition(":")
    try:
        chosen = {"level": float(level)} if colon else {}
    except ValueError:
        name = ""
    if name != "auto":
        raise VLMIGError(
            f"k={k!r}; expected a number of pictures, auto, or auto:LEVEL with an error level "
            "such as 0.1"
        )
    if calibrated is None:
        raise VLMIGError(
            "k='auto' needs a checkpoint that was calibrated for it, and this one was not; "
            "expected vlmig calibrate, or "
            "a number"
        )
    return Stopping(**{**calibrated, **chosen})


def leads(scores: Scores, n: int, mixture: Mixture) -> np.ndarray:
    """Return the log-odds of the leader against every rival with each of the first n images alone,
    (n, C - 1)."""
    leader = int(scores.mixed(n, mixture).argmax())
    alone = scores.alone(n).mixed(1, mixture)
    return np.delete(alone[:, [leader]] - alone, leader, 1)


class AdaptiveScores:
    """Scores of questions that share their images, which come in groups.

    Args:
        questions: of each its contexts with their candidates, verbatim: one context for all, or one
            for each.
        rule: when to stop.
        mixture: how candidates are mixed.
        least: images to use in any case.
        first: score each candidate's first sub-token only, as published.
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
    ) -> None:
        self.scorer, self.rule, self.mixture, self.least, self.first = (
            scorer,
            rule,
            mixture,
            least,
            first,
        )
        self.sizes = [len(groups) for groups in questions]
        self.groups = [group for groups in questions for group in groups]
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
        self._batches = list(self.scorer.batches(contexts, choices, none, first=self.first))
        for batch in self._batches:
            add_scores(self.scorer.model, batch, None, self._scores)

    def look(self, visuals: Visuals) -> None:
        """Score with the images that are new in ``visuals``."""
        fresh = visuals.between(len(self.visuals.features), len(visuals.features))
        added = self._zeros(fresh)
        for batch in self._batches:
            states = self.scorer.visual_cache([fresh] * len(batch.requests))
            add_scores(self.scorer.model, batch, states, added)
        self._scores = [
            before.extended(more) for before, more in zip(self._scores, added, strict=True)
        ]
        self.visuals = visuals

    def _zeros(self, visuals: Visuals) -> list[Scores]:
        return [Scores.zero(len(candidates), visuals.fit.numpy()) for _, candidates in self.groups]


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
        wanted = {i: k for i, scores in enumerate(adaptive) if (k := scores.wanted) is not None}
        if not wanted:
            return
        k = min(wanted.values())
        members = [i for i in wanted if wanted[i] == k]
        work(
            _look,
            [(adaptive[i], visuals) for i, visuals in zip(members, draw(members, k), strict=True)],
        )


def _look(pair: tuple[AdaptiveScores, Visuals]) -> None:
    pair[0].look(pair[1])


@torch.inference_mode()
def _one_by_one(work: Callable[[Any], None], members: Sequence[Any]) -> None:
    for member in members:
        work(member)
