"""Scores of candidates: with text alone, with each image and with a blank image; and their
mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.models.generic import NO_GENERIC
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
    generic: np.ndarray | None = None
    """log p beside each of the checkpoint's generic images, (M, C); None if not scored."""

    @classmethod
    def zero(cls, candidates: int, alignment: np.ndarray, generic: int = 0) -> Scores:
        """Return zeros, to which the log-probabilities of tokens are added, for images of these
        CLIP similarities, and for so many generic ones."""
        return cls(
            np.zeros(candidates),
            np.zeros((len(alignment), candidates)),
            np.zeros(candidates),
            alignment,
            np.zeros((generic, candidates)) if generic else None,
        )

    @classmethod
    def joined(cls, groups: Sequence[Scores]) -> Scores:
        """Join candidates that were scored separately, each with its own images; a single group
        stays as it is."""
        if len(groups) == 1:
            return groups[0]
        text, per_image, blank, alignment, generic = [], [], [], [], []
        for group in groups:
            text.append(group.text)
            per_image.append(group.per_image)
            blank.append(group.blank)
            alignment.append(group.alignment)
            if group.generic is not None:
                generic.append(group.generic)
        return cls(
            np.concatenate(text, -1),
            np.concatenate(per_image, -1),
            np.concatenate(blank, -1),
            np.stack(alignment, -1),
            np.concatenate(generic, -1) if len(generic) == len(groups) else None,
        )

    @classmethod
    def stacked(cls, questions: Sequence[Scores]) -> Scores:
        """Stack Q questions of C candidates and K images: arrays (Q, C), (K, Q, C), (Q, C), (K, Q);
        the scores beside generic images are left out."""
        return cls(
            np.stack([scores.text for scores in questions]),
            np.stack([scores.per_image for scores in questions], 1),
            np.stack([scores.blank for scores in questions]),
            np.stack([scores.alignment for scores in questions], 1),
        )

    def at(self, i: int | np.ndarray | slice) -> Scores:
        """Select one or some of stacked questions."""
        generic = None if self.generic is None else self.generic[:, i]
        return Scores(
            self.text[i], self.per_image[:, i], self.blank[i], self.alignment[:, i], generic
        )

    def alone(self, k: int) -> Scores:
        """Stack the same question k times, each time with a single one of the first k images."""
        text, blank = np.repeat(self.text[None], k, 0), np.repeat(self.blank[None], k, 0)
        generic = None if self.generic is None else np.repeat(self.generic[:, None], k, 1)
        return Scores(text, self.per_image[None, :k], blank, self.alignment[None, :k], generic)

    def extended(self, more: Scores) -> Scores:
        """Append the images of ``more``, scores of the same candidates; the scores beside the blank
        and the generic images come from ``more``."""
        images = np.concatenate([self.per_image, more.per_image])
        alignment = np.concatenate([self.alignment, more.alignment])
        return Scores(self.text, images, more.blank, alignment, more.generic)

    def split(self, k: int) -> tuple[Scores, Scores]:
        """Separate the first k images from the others, where two sets were scored in one pass."""
        return (
            replace(self, per_image=self.per_image[:k], alignment=self.alignment[:k]),
            replace(self, per_image=self.per_image[k:], alignment=self.alignment[k:]),
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
            trust: in each image, (K,), instead of what ``Mixture.weigh`` makes of the scores.
        """
        text, images = torch.from_numpy(self.text), torch.from_numpy(self.per_image[:k])
        among = self._normalized(k)
        if trust is None:
            shares = mixture.weigh(*among)
        else:
            shares = torch.from_numpy(trust[:k]).movedim(0, -1)
        if mixture.mix != "prob":
            reference = self._contrasted() if mixture.mix == "contrast" and k else among[3]
            return mixture.combine(among[0], among[1], shares, reference).numpy()
        shares = mixture.certain(among[0], among[1], shares)
        rule = replace(mixture, weights="uniform")
        return rule.combine(text, images, shares).log_softmax(-1).numpy()

    def trust(self, k: int, mixture: Mixture) -> np.ndarray:
        """Return the trust in each of the first k images, which decides between the candidates,
        (K,)."""
        return mixture.weigh(*self._normalized(k)).numpy()

    def _normalized(self, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what ``Mixture.weigh`` takes."""
        return (
            torch.from_numpy(self.text).log_softmax(-1),
            torch.from_numpy(self.per_image[:k]).log_softmax(-1),
            torch.from_numpy(self.alignment[:k]).movedim(0, -1),
            torch.from_numpy(self.blank).log_softmax(-1),
        )

    def _contrasted(self) -> Tensor:
        """Return the mean over generic images of log p, (C,)."""
        if self.generic is None:
            raise VLMIGError(NO_GENERIC)
        return torch.from_numpy(self.generic).log_softmax(-1).mean(0)

    def sequences(self, k: int, mixture: Mixture, trust: np.ndarray | None = None) -> np.ndarray:
        """Mix each candidate's whole log-probability by itself: (C,) log-probabilities, not
        normalized over candidates.

        A rule that needs a distribution gets the two outcomes "exactly this text" and "anything
        else".

        Args:
            trust: in each image, (K,), instead of what ``Mixture.trust`` makes of the alignment.
        """
        if trust is None:
            mixture = mixture.for_texts
            trust = mixture.trust(torch.from_numpy(self.alignment[:k])).numpy()
        values = []
        for c in range(len(self.text)):
            pair = Scores(
                _or_else(self.text[c]),
                _or_else(self.per_image[:, c]),
                _or_else(self.blank[c]),
                self.alignment,
                None if self.generic is None else _or_else(self.generic[:, c]),
            )
            values.append(pair.mixed(k, mixture, trust)[0])
        return np.array(values)


def trusts_of(
    contexts: Sequence[str], scores: Sequence[Scores], mixture: Mixture
) -> list[np.ndarray | None]:
    """Return learned weights' trust in the images of each continuation, (K,): the continuations of
    one context are candidates.

    None where a continuation is alone with its context, and for other weights, which judge each by
    itself.

    Args:
        scores: of one continuation each.
    """
    trusts: list[np.ndarray | None] = [None] * len(scores)
    if mixture.learned is None:
        return trusts
    members: dict[tuple[str, int], list[int]] = {}
    for i, (context, continuation) in enumerate(zip(contexts, scores, strict=True)):
        members.setdefault((context, len(continuation.per_image)), []).append(i)
    for indices in members.values():
        if len(indices) > 1:
            question = Scores.joined([scores[i] for i in indices])
            trust = question.trust(len(question.per_image), mixture)
            for i in indices:
                trusts[i] = trust
    return trusts


def _or_else(log_probability: np.ndarray) -> np.ndarray:
    """Put log(1 - p) next to log p, (...) -> (..., 2)."""
    clipped = np.minimum(log_probability, -1e-12)
    return np.stack([clipped, np.log(-np.expm1(clipped))], -1)
