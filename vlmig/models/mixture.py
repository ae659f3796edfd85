"""Mixing the text-only prediction with one prediction per imagined image, in log space.

Axes: B prompts, K images, T positions, V outcomes (vocabulary entries, or answer candidates).
Every rule takes the images one after another, so that (B, K, T, V) is never built.

Rules, with p_0 the text-only distribution, p_i that of image i and f_i in [0, 1] the trust in image i:

- ``prob`` (paper, equation 2, with the 1/K it needs to be a distribution): mean_i [f_i p_i + (1 - f_i) p_0].
- ``logit`` (the published code): softmax of mean_i [f_i log p_i + (1 - f_i) log p_0].
- ``geometric``: the pictures' average, sum_i f_i p_i / sum_i f_i, and the text multiplied: softmax of F log p_img + (1 - F) log p_0,
  F = mean_i f_i.
- ``evidence``: softmax of log p_0 + s * mean_i f_i [log p_i - log p_blank], where p_blank saw an empty picture.
  A picture that says no more than an empty one leaves the text exactly as it is.

Trust: ``uniform`` is 1; ``clip`` is the cosine of image and prompt, clamped to [0, 1], and ``doubled`` twice that (the published
ImageNetVC script; a share beyond 1 takes the text's part away); ``entropy`` is the share of the
text's uncertainty that an image which fits its prompt removes, max(0, 1 - H(p_i) / H(p_0)): where text alone is as sure as with the image, be
it a fact it was told or a word no picture can help with, the text stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.models.config import MIX_RULES


def mix(
    text: Tensor,
    images: Iterable[Tensor],
    trust: Tensor,
    rule: str,
    *,
    blank: Tensor | None = None,
    strength: float = 1.0,
    doubt: float = 0.0,
    by_entropy: bool = False,
) -> Tensor:
    """Mix log-probabilities.

    Args:
        text: log p_0, (..., V).
        images: log p_i for each of the K images, each (..., V).
        trust: f_i in its last axis, (..., K) up to broadcasting with ``text`` less its last axis; or (..., V, K), one axis
            more than ``text`` has, where every outcome has images of its own.
        rule: ``prob``, ``logit``, ``geometric`` or ``evidence``.
        blank: log p_blank, (..., V); needed by ``evidence``.
        strength: factor s of the evidence.
        doubt: exponent of (1 - max p_0), which multiplies the evidence: a text model that is sure is left alone.
        by_entropy: multiply each trust by the share of uncertainty that its image removes.

    Returns:
        Normalised log-probabilities, (..., V).

    Raises:
        ValueError: an unknown rule, or ``evidence`` without ``blank``.
    """
    if rule not in MIX_RULES:
        raise ValueError(f"mix={rule!r}; expected one of {', '.join(MIX_RULES)}")
    if rule == "evidence" and blank is None:
        raise ValueError("mix='evidence' compares with a blank picture; pass blank=")
    count = trust.shape[-1]
    own = entropy(text) if by_entropy else None
    total: Tensor | None = None
    left_to_text = torch.zeros((), dtype=text.dtype, device=text.device)
    for i, image in enumerate(images):
        share = trust[..., i] if trust.dim() > text.dim() else trust[..., i].unsqueeze(-1)
        if own is not None:
            share = share * (1 - entropy(image) / own.clamp_min(1e-9)).clamp_min(0)
        left_to_text = left_to_text + (1 - share)
        if rule in ("prob", "geometric"):
            part = share.clamp_min(1e-30).log() + image
            total = part if total is None else torch.logaddexp(total, part)
        else:
            part = share * (image - blank if rule == "evidence" and blank is not None else image)
            total = part if total is None else total + part
    if total is None:
        return text
    if rule == "prob":
        return torch.logaddexp(total, left_to_text.clamp_min(1e-30).log() + text) - torch.tensor(count).log()
    if rule == "geometric":
        heard = (count - left_to_text).clamp_min(1e-30)
        return (heard / count * (total - heard.log()) + left_to_text / count * text).log_softmax(-1)
    if rule == "logit":
        return ((total + left_to_text * text) / count).log_softmax(-1)
    return (text + strength * doubted(text, doubt) * total / count).log_softmax(-1)


STATE_RULES = ("logit", "evidence")
"""Rules that are linear in log-probabilities, so that behind a linear head the states can be mixed in their place."""


def state_shares(trust: Tensor, rule: str, strength: float, doubt: float, text: Tensor | None = None) -> Tensor:
    """Say with which shares of the states before a linear head one state predicts what ``mix`` makes of their predictions.

    log p is the logits less a number, which no softmax sees: so softmax of a sum of log-probabilities is softmax of the sum of
    logits, and that is the head's value of the sum of states. Shares add up to 1, so a head's bias stays what it is.

    Args:
        trust: f_i, (R, K).
        rule: one of ``STATE_RULES``.
        strength, doubt: see ``mix``.
        text: log p_0, (R, V), where doubt is not 0.

    Returns:
        Shares of the states of text, blank picture (``evidence`` only) and each image: (R, 1 + K) or (R, 2 + K).
    """
    each = trust / trust.shape[-1]
    heard = each.sum(-1, keepdim=True)
    if rule == "logit":
        return torch.cat([1 - heard, each], -1)
    gate = strength * (doubted(text, doubt) if text is not None else 1.0)
    return torch.cat([torch.ones_like(heard), -gate * heard, gate * each], -1)


def doubted(text: Tensor, doubt: float) -> Tensor:
    """Return (1 - max p_0) to the power ``doubt``, (..., 1), of log p_0 (..., V)."""
    return (1 - text.amax(-1, keepdim=True).exp()).clamp_min(0) ** doubt


def entropy(log_probs: Tensor) -> Tensor:
    """Return the entropy in nats over the last axis, kept as an axis of length one."""
    return torch.special.entr(log_probs.exp()).sum(-1, keepdim=True)


def image_trust(kind: str, alignment: Tensor, floor: float) -> Tensor:
    """Turn cosines of images and their prompt, (..., K), into trust by what is known before reading any text.

    ``clip`` is the cosine itself, clamped to [0, 1], ``doubled`` twice that (published code). ``entropy`` listens to
    images that fit their prompt at all, of cosine ``floor`` or more, or whose cosine is not known (NaN: the encoder has
    no text side). ``uniform`` listens to every image.

    Raises:
        VLMIGError: ``clip`` or ``doubled`` where a cosine is not known.
    """
    unknown = alignment.isnan()
    if kind in ("clip", "doubled"):
        if unknown.any():
            raise VLMIGError(
                f"weights={kind!r} need the cosine of picture and prompt, and this vision encoder has no text side; expected weights uniform or entropy, or an encoder such as a CLIP"
            )
        return alignment.clamp(0.0, 1.0) * (2 if kind == "doubled" else 1)
    return ((alignment >= floor) | unknown).to(alignment) if kind == "entropy" else torch.ones_like(alignment)
