"""Scores of candidates, from text alone, beside each picture and beside an empty one, and how they are mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlmig.models.mixture import image_trust, mix

Setting = tuple[str, str, float, float, float]
"""Mixing rule, kind of weights, strength, doubt and alignment floor, see ``VLMIGConfig.setting``."""


@dataclass
class Scores:
    """Log-probabilities of C candidates."""

    text: np.ndarray
    """log p_0, (C,)."""
    per_image: np.ndarray
    """log p_i, (K, C)."""
    blank: np.ndarray
    """log p_blank, (C,)."""
    alignment: np.ndarray
    """Cosine of each picture with its prompt, (K,); (K, C) where every candidate has pictures of its own."""

    @classmethod
    def zero(cls, candidates: int, alignment: np.ndarray) -> Scores:
        """Make room for the scores of candidates beside pictures of these cosines."""
        return cls(np.zeros(candidates), np.zeros((len(alignment), candidates)), np.zeros(candidates), alignment)

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """Put candidates together that were scored apart, each beside its own pictures; one part stays as it is."""
        if len(parts) == 1:
            return parts[0]
        names = ("text", "per_image", "blank")
        text, images, blank = (np.concatenate([getattr(part, name) for part in parts], -1) for name in names)
        return cls(text, images, blank, np.stack([part.alignment for part in parts], -1))

    def one(self, question: int) -> Scores:
        """Take a question out of Q that lie beside each other: (Q, C), (K, Q, C), (Q, C), (K, Q)."""
        own = question
        return Scores(self.text[own], self.per_image[:, own], self.blank[own], self.alignment[:, own])

    def alone(self, k: int) -> Scores:
        """Ask the same question k times, each time beside another one of the first k pictures."""
        text, blank = (np.repeat(own[None], k, 0) for own in (self.text, self.blank))
        return Scores(text, self.per_image[None, :k], blank, self.alignment[None, :k])

    def beside(self, more: Scores) -> Scores:
        """Put the pictures of the same candidates behind each other, those of ``more`` last; it knows the empty picture, too."""
        images = np.concatenate([self.per_image, more.per_image])
        return Scores(self.text, images, more.blank, np.concatenate([self.alignment, more.alignment]))

    def first(self, k: int) -> Scores:
        """Keep the first k pictures."""
        return self.split(k)[0]

    def split(self, k: int) -> tuple[Scores, Scores]:
        """Part the first k pictures from the others, where two sets were scored in one pass."""
        return (
            Scores(self.text, self.per_image[:k], self.blank, self.alignment[:k]),
            Scores(self.text, self.per_image[k:], self.blank, self.alignment[k:]),
        )

    def loglikelihoods(self, k: int, *setting: Any, trust: np.ndarray | None = None) -> np.ndarray:
        """Share the text's whole probability of the candidates out as the mixture says: (C,); k = 0 gives log p_0 itself."""
        return (
            self.mixed(k, *setting, trust=trust) + np.logaddexp.reduce(self.text, -1, keepdims=True) if k else self.text
        )

    def mixed(
        self,
        k: int,
        rule: str,
        weights: str,
        strength: float,
        doubt: float,
        floor: float,
        *,
        trust: np.ndarray | None = None,
    ) -> np.ndarray:
        """Mix the first k pictures' distributions over the candidates: log-probabilities, (C,); k = 0 is text-only.

        A candidate of several tokens counts with its whole probability (the mixture is per sequence); every
        distribution is normalised over the candidates first, since the answer is one of them.

        Args:
            trust: in each picture, (K,), instead of what ``weights`` makes of the alignment.
        """
        text, blank = (torch.from_numpy(x).log_softmax(-1) for x in (self.text, self.blank))
        images = torch.from_numpy(self.per_image[:k]).log_softmax(-1)
        if trust is None:
            shares = image_trust(weights, torch.from_numpy(self.alignment[:k]).movedim(0, -1), floor)
        else:
            shares = torch.from_numpy(trust[:k]).movedim(0, -1)
        settings: dict[str, Any] = {"strength": strength, "doubt": doubt, "by_entropy": weights == "entropy"}
        return mix(text, images, shares, rule, blank=blank, **settings).numpy()

    def sequences(self, k: int, rule: str, weights: str, strength: float, doubt: float, floor: float) -> np.ndarray:
        """Mix each candidate's whole log-probability on its own: (C,) log-probabilities, not normalised over candidates.

        A rule that needs a distribution gets the two outcomes "exactly this text" and "anything else".
        """
        alone = [
            Scores(_or_else(self.text[c]), _or_else(self.per_image[:, c]), _or_else(self.blank[c]), self.alignment)
            for c in range(len(self.text))
        ]
        return np.array([pair.mixed(k, rule, weights, strength, doubt, floor)[0] for pair in alone])


def _or_else(log_probability: np.ndarray) -> np.ndarray:
    """Put log(1 - p) beside log p, (...) -> (..., 2)."""
    clipped = np.minimum(log_probability, -1e-12)
    return np.stack([clipped, np.log(-np.expm1(clipped))], -1)
