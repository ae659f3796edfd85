"""Scores of candidates: with text alone, with each image and with a blank image; and their
mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vlmig.models.mixture import Mixture


@dataclass
class Scores:
    """Log-probabilities of C candidates. Any number of images and any mixture is computed from them
    afterwards."""

    text: np.ndarray
    """log p_0, (C,)."""
    per_image: np.ndarray
    """log p_i, (K, C)."""
    blank: np.ndarray
    """log p_blank, (C,)."""
    alignment: np.ndarray
    """CLIP similarity of each image and its prompt, (K,); (K, C) where each candidate has its own
    images."""

    @classmethod
    def zero(cls, candidates: int, alignment: np.ndarray) -> Scores:
        """Return zeros, to which the log-probabilities of tokens are added, for images of these
        CLIP similarities."""
        return cls(
            np.zeros(candidates),
            np.zeros((len(alignment), candidates)),
            np.zeros(candidates),
            alignment,
        )

    @classmethod
    def joined(cls, groups: Sequence[Scores]) -> Scores:
        """Join candidates that were scored separately, each with its own images; a single group
        stays as it is."""
        if len(groups) == 1:
            return groups[0]
        text = np.concatenate([group.text for group in groups], -1)
        per_image = np.concatenate([group.per_image for group in groups], -1)
        blank = np.concatenate([group.blank for group in groups], -1)
        return cls(text, per_image, blank, np.stack([group.alignment for group in groups], -1))

    def one(self, question: int) -> Scores:
        """Select one of Q stacked questions, whose arrays are (Q, C), (K, Q, C), (Q, C), (K, Q)."""
        i = question
        return Scores(self.text[i], self.per_image[:, i], self.blank[i], self.alignment[:, i])

    def alone(self, k: int) -> Scores:
        """Stack the same question k times, each time with a single one of the first k images."""
        text, blank = np.repeat(self.text[None], k, 0), np.repeat(self.blank[None], k, 0)
        return Scores(text, self.per_image[None, :k], blank, self.alignment[None, :k])

    def extended(self, more: Scores) -> Scores:
        """Append the images of ``more``, scores of the same candidates; the blank image's scores
        come from ``more``."""
        images = np.concatenate([self.per_image, more.per_image])
        return Scores(
            self.text, images, more.blank, np.concatenate([self.alignment, more.alignment])
        )

    def split(self, k: int) -> tuple[Scores, Scores]:
        """Separate the first k images from the others, where two sets were scored in one pass."""
        return (
            Scores(self.text, self.per_image[:k], self.blank, self.alignment[:k]),
            Scores(self.text, self.per_image[k:], self.blank, self.alignment[k:]),
        )

    def loglikelihoods(
        self, k: int, mixture: Mixture, trust: np.ndarray | None = None
    ) -> np.ndarray:
        """Divide the candidates' total text-only probability among them by the mixture, (C,); k = 0
        gives log p_0."""
        if not k:
            return self.text
        return self.mixed(k, mixture, trust) + np.logaddexp.reduce(self.text, -1, keepdims=True)

    def mixed(self, k: int, mixture: Mixture, trust: np.ndarray | None = None) -> np.ndarray:
        """Mix the first k images' distributions over the candidates: log-probabilities, (C,); k = 0
        is text-only.

        A candidate of several tokens counts with its whole probability (the mixture is per
        sequence). ``prob`` mixes these probabilities as the LM gives them, as equation 2 does: an
        image beside which the LM expects other words than the candidates says less. For the other
        rules every distribution is first normalized over the candidates, since the answer is one
        of them.

        Args:
            trust: in each image, (K,), instead of what ``Mixture.trust`` makes of the alignment.
        """
        text, blank = torch.from_numpy(self.text), torch.from_numpy(self.blank)
        images = torch.from_numpy(self.per_image[:k])
        if trust is None:
            shares = mixture.trust(torch.from_numpy(self.alignment[:k]).movedim(0, -1))
        else:
            shares = torch.from_numpy(trust[:k]).movedim(0, -1)
        among = text.log_softmax(-1), images.log_softmax(-1), blank.log_softmax(-1)
        if mixture.mix != "prob":
            return mixture.combine(among[0], among[1], shares, among[2]).numpy()
        shares = mixture.certain(among[0], among[1], shares)
        rule = replace(mixture, weights="uniform")
        return rule.combine(text, images, shares).log_softmax(-1).numpy()

    def sequences(self, k: int, mixture: Mixture) -> np.ndarray:
        """Mix each candidate's whole log-probability by itself: (C,) log-probabilities, not
        normalized over candidates.

        A rule that needs a distribution gets the two outcomes "exactly this text" and "anything
        else".
        """
        values = []
        for c in range(len(self.text)):
            pair = Scores(
                _or_else(self.text[c]),
                _or_else(self.per_image[:, c]),
                _or_else(self.blank[c]),
                self.alignment,
            )
            values.append(pair.mixed(k, mixture)[0])
        return np.array(values)


def normalized(log_probs: np.ndarray) -> np.ndarray:
    """Turn log-probabilities into probabilities of the candidates in the last axis, (..., C)."""
    probabilities = np.exp(log_probs - log_probs.max(-1, keepdims=True))
    return probabilities / probabilities.sum(-1, keepdims=True)


def _or_else(log_probability: np.ndarray) -> np.ndarray:
    """Put log(1 - p) next to log p, (...) -> (..., 2)."""
    clipped = np.minimum(log_probability, -1e-12)
    return np.stack([clipped, np.log(-np.expm1(clipped))], -1)
