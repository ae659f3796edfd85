"""Mixing the text-only prediction with one prediction per image, in log space.

Axes: B prompts, K images, T positions, V outcomes (vocabulary entries, or answer candidates).
Every rule takes the images one after another, so that (B, K, T, V) is never built.

Rules, with p_0 the text-only distribution, p_i that of image i and f_i in [0, 1] the trust in image
i:

- ``prob`` (paper, equation 2, with the 1/K it needs to be a distribution): mean_i [f_i p_i + (1 -
  f_i) p_0].
- ``logit`` (the published code): softmax of mean_i [f_i log p_i + (1 - f_i) log p_0].
- ``geometric``: the images' average, sum_i f_i p_i / sum_i f_i, and the text multiplied:
  softmax of F log p_img + (1 - F) log p_0, F = mean_i f_i.
- ``evidence``: softmax of log p_0 + s * mean_i f_i [log p_i - log p_blank], p_blank being the
  prediction with a blank image. An image that says no more than a blank one leaves the text
  prediction exactly as it is.
- ``contrast``: the same with the mean of log p over other objects' images in place of log p_blank
  (``vlmig.models.generic``): what every image says, whatever it shows, is no evidence.

Weights give the trust: ``uniform`` is 1; ``clip`` is the CLIP similarity of image and prompt,
clamped to [0, 1]; ``doubled`` is twice that (the published ImageNetVC script; a trust above 1
subtracts the text prediction); ``entropy`` is the share of the text model's uncertainty that an
image removes, max(0, 1 - H(p_i) / H(p_0)), for images that fit their
prompt: where text alone is as certain as text with the image, the text prediction stays;
``learned`` is fitted by ``vlmig calibrate`` and judges an image by the candidate answers beside it
(``vlmig.models.learned``); a text that is continued has none, and is mixed with ``entropy`` weights
(``Mixture.for_texts``). An image that the user gave is trusted fully by all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.models.config import MIX_RULES, WEIGHT_KINDS, VLMIGConfig
from vlmig.models.learned import Learned, features_of


@dataclass(frozen=True)
class Mixture:
    """How the predictions with and without images become one; the fields are those of
    ``VLMIGConfig``.

    Raises:
        VLMIGError: an unknown rule or kind of weights; ``learned`` ones that were not fitted.
    """

    mix: str
    """The rule: ``prob``, ``logit``, ``geometric``, ``evidence`` or ``contrast``."""
    weights: str = "uniform"
    """How far each image is trusted: ``uniform``, ``clip``, ``doubled``, ``entropy`` or
    ``learned``."""
    strength: float = 1.0
    """Factor s of the evidence."""
    doubt: float = 0.0
    """Exponent of (1 - max p_0), by which the evidence is multiplied: a text model that is certain
    is left alone."""
    alignment_floor: float = 0.0
    """CLIP similarity below which ``entropy`` weights ignore an image."""
    learned: Learned | None = None
    """What ``learned`` weights were fitted to."""

    def __post_init__(self) -> None:
        if self.mix not in MIX_RULES:
            raise VLMIGError(f"mix={self.mix!r}; expected one of {', '.join(MIX_RULES)}")
        if self.weights not in WEIGHT_KINDS:
            raise VLMIGError(f"weights={self.weights!r}; expected one of {', '.join(WEIGHT_KINDS)}")
        if self.weights == "learned" and self.learned is None:
            Learned.of(None)

    @classmethod
    def of(cls, config: VLMIGConfig, mix: str | None = None, weights: str | None = None) -> Mixture:
        """Return a checkpoint's mixture, with another rule or other weights where they are
        given."""
        rule, kind = mix or config.mix, weights or config.weights
        learned = Learned.of(config.learned) if kind == "learned" else None
        return cls(rule, kind, config.strength, config.doubt, config.alignment_floor, learned)

    @classmethod
    def of_texts(cls, config: VLMIGConfig) -> Mixture:
        """Return a checkpoint's mixture of every next token, see ``for_texts``."""
        return cls.of(config).for_texts

    @property
    def for_texts(self) -> Mixture:
        """The mixture of every next token: ``entropy`` weights in place of ``learned`` ones, which
        compare candidate answers."""
        if self.learned is None:
            return self
        return replace(self, weights="entropy", learned=None)

    def weigh(self, text: Tensor, images: Tensor, alignment: Tensor, blank: Tensor) -> Tensor:
        """Return the trust in each image of a question with candidate answers, (..., K).

        Args:
            text: log p_0 of the candidates, (..., C).
            images: log p_i, (K, ..., C).
            alignment: CLIP similarities, (..., K), or (..., C, K), see ``trust``.
            blank: log p_blank, (..., C).

        Raises:
            VLMIGError: as ``trust``.
        """
        if self.learned is None:
            return self.trust(alignment)
        if text.shape[-1] < 2:  # a lone candidate is certain, whatever is trusted
            return torch.ones_like(alignment)
        trust = self.learned.trust(features_of(text, images, alignment, blank))
        given = alignment.isinf()
        return torch.where(given.any(-2) if given.dim() > trust.dim() else given, 1.0, trust)

    def trust(self, alignment: Tensor) -> Tensor:
        """Turn CLIP similarities of images and their prompt, (..., K), into the trust known before
        any text is read. Infinity stands for an image that was given: it is trusted, 1; with
        ``entropy`` infinity again, so that ``combine`` trusts it however certain the text is.

        ``entropy`` gives 1 to images of similarity ``alignment_floor`` or more, and to those whose
        similarity is unknown (NaN: the encoder has no text side); ``combine`` multiplies that by
        the uncertainty removed.

        Raises:
            VLMIGError: ``clip`` or ``doubled`` where a similarity is unknown.
            ValueError: ``learned`` weights, see ``for_texts``.
        """
        if self.weights == "learned":
            raise ValueError("learned weights compare candidates; weigh them, or mix for_texts")
        unknown = alignment.isnan()
        if self.weights in ("clip", "doubled"):
            if unknown.any():
                raise VLMIGError(
                    f"weights={self.weights!r} need the cosine of image and prompt, and this "
                    "vision encoder has no text"
                    " side; expected weights uniform or entropy, or an encoder such as a CLIP"
                )
            factor = 2.0 if self.weights == "doubled" else 1.0
            return alignment.clamp(0.0, 1.0) * torch.where(alignment.isinf(), 1.0, factor)
        if self.weights == "entropy":
            fits = ((alignment >= self.alignment_floor) | unknown).to(alignment)
            return torch.where(alignment.isinf(), torch.inf, fits)
        return torch.ones_like(alignment)

    def certain(self, text: Tensor, images: Tensor, trust: Tensor) -> Tensor:
        """Multiply the trust of ``entropy`` weights by the share of the text's uncertainty that
        each image removes; other weights stay.

        Args:
            text: log p_0, (..., V).
            images: log p_i, (K, ..., V).
            trust: f_i, (..., K), or (..., V, K) where each outcome has its own images.
        """
        if self.weights != "entropy":
            return trust
        removed = _removed(entropy(text), images).movedim(0, -1)
        removed = removed if trust.dim() > text.dim() else removed.squeeze(-2)
        return torch.where(trust.isinf(), 1.0, trust * removed)

    def combine(
        self, text: Tensor, images: Iterable[Tensor], trust: Tensor, blank: Tensor | None = None
    ) -> Tensor:
        """Mix log-probabilities.

        Args:
            text: log p_0, (..., V).
            images: log p_i for each of the K images, each (..., V).
            trust: f_i in its last axis, (..., K) up to broadcasting with ``text`` less its last
                axis; or (..., V, K), one axis more than ``text`` has, where each outcome has its
                own images.
            blank: log p_blank, (..., V), needed by ``evidence``; for ``contrast`` the mean of log p
                over generic images.

        Returns:
            Normalized log-probabilities, (..., V).

        Raises:
            ValueError: ``evidence`` or ``contrast`` without ``blank``.
        """
        if self.contrasts and blank is None:
            baseline = "a blank image" if self.mix == "evidence" else "generic images"
            raise ValueError(f"mix={self.mix!r} compares with {baseline}; pass blank=")
        rule, count = self.mix, trust.shape[-1]
        uncertainty = entropy(text) if self.weights == "entropy" else None
        total: Tensor | None = None
        left_to_text = torch.zeros((), dtype=text.dtype, device=text.device)
        for i, image in enumerate(images):
            share = trust[..., i] if trust.dim() > text.dim() else trust[..., i].unsqueeze(-1)
            if uncertainty is not None:
                removed = _removed(uncertainty, image)
                share = torch.where(share.isinf(), 1.0, share * removed)
            left_to_text = left_to_text + (1 - share)
            if rule in ("prob", "geometric"):
                term = share.clamp_min(1e-30).log() + image
                total = term if total is None else torch.logaddexp(total, term)
            else:
                term = share * (image - blank if self.contrasts and blank is not None else image)
                total = term if total is None else total + term
        if total is None:
            return text
        if rule == "prob":
            from_text = left_to_text.clamp_min(1e-30).log() + text
            return torch.logaddexp(total, from_text) - torch.tensor(count).log()
        if rule == "geometric":
            on_images = (count - left_to_text).clamp_min(1e-30)
            from_images = total - on_images.log()
            mixed = on_images / count * from_images + left_to_text / count * text
            return mixed.log_softmax(-1)
        if rule == "logit":
            return ((total + left_to_text * text) / count).log_softmax(-1)
        return (text + self.strength * self._uncertain(text) * total / count).log_softmax(-1)

    @property
    def floor(self) -> float | None:
        """The CLIP similarity below which an image does not count; None where all of them do."""
        return self.alignment_floor if self.weights == "entropy" else None

    @property
    def contrasts(self) -> bool:
        """Whether an image counts by what it says beyond other images, blank or generic ones."""
        return self.mix in ("evidence", "contrast")

    @property
    def linear(self) -> bool:
        """Whether the rule is linear in log-probabilities: before a linear head it can mix states
        instead."""
        return (self.mix == "logit" or self.contrasts) and self.weights != "entropy"

    def state_weights(self, trust: Tensor, text: Tensor | None = None) -> Tensor:
        """Weights that average hidden states so that one call of a linear head gives the mixed
        prediction.

        log p is the logits less a number that no softmax sees. So the softmax of a sum of
        log-probabilities is the softmax of the sum of logits, which is the head's value of the sum
        of states. The weights add up to 1, which keeps a head's bias.

        Args:
            trust: f_i, (R, K).
            text: log p_0, (R, V), where ``doubt`` is not 0.

        Returns:
            Weights of the states of text, blank image (``evidence``; for ``contrast`` the generic
            images' mean) and each image: (R, 1 + K) or (R, 2 + K).
        """
        each = trust / trust.shape[-1]
        on_images = each.sum(-1, keepdim=True)
        if self.mix == "logit":
            return torch.cat([1 - on_images, each], -1)
        gate = self.strength * (self._uncertain(text) if text is not None else 1.0)
        return torch.cat([torch.ones_like(on_images), -gate * on_images, gate * each], -1)

    def _uncertain(self, text: Tensor) -> Tensor:
        """Return (1 - max p_0) to the power ``doubt``, (..., 1), of log p_0 (..., V)."""
        return (1 - text.amax(-1, keepdim=True).exp()).clamp_min(0) ** self.doubt


def _removed(uncertainty: Tensor, image: Tensor) -> Tensor:
    """Return the share of an uncertainty, (..., 1), that is gone beside an image, (..., V)."""
    return (1 - entropy(image) / uncertainty.clamp_min(1e-9)).clamp_min(0)


def entropy(log_probs: Tensor) -> Tensor:
    """Return the entropy in nats over the last axis, kept as an axis of length one."""
    return torch.special.entr(log_probs.exp()).sum(-1, keepdim=True)
