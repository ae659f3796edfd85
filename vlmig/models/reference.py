"""What ``protocol="reference"`` does as the published code does, where its numbers depend on it (docs/fidelity.md).

*Layout*: how text positions are numbered beside an image, padding included, and Gemma's image in the place of BOS.
*Losses*: ours is the cross-entropy of the mixture over the text's own next tokens. Published, and reproduced here: without image
weights, every image's own cross-entropy, averaged over images, the first text token included, which the last visual
token predicts; with weights, the mixture's. Padded targets never count (forward.md: "Loss").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmig.models.text_states import Reading, first_token, number

COUNTS_PADDING = ("gpt2", "llama")
"""Families whose published fusion layer numbers every slot of a padded row; the others number real tokens only."""


def published_layout(present: Tensor, family: str, visual_tokens: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Lay out text (B, S) beside its image as published.

    Returns:
        Which positions the fusion layer sees, their numbers, and where the image ends if it stands inside the text.
    """
    if family in COUNTS_PADDING:
        return present, torch.arange(present.shape[1], device=present.device).expand_as(present), None
    places = number(present)
    if family == "opt":  # padding has the slot before the image's first, whatever the image's length
        return present, places.masked_fill(~present, -1 - visual_tokens), None
    if family == "gemma":  # images stand in the place of BOS, whose own state is never used
        begin = first_token(present)
        return present & ~begin, (places - 1).clamp_min(0), begin
    return present, places, None


def published_gpt2_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the attention bias (B, 1, T, T) of the published GPT-2 for a padded batch (B, T).

    Real tokens attend as ever. A padded position, from which the published loss predicts the first token of a left-padded
    row, spreads evenly over padding before it and text after it: two finite minima were added where one is meant.
    """
    causal = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device).tril()
    present = mask.bool()[:, None, :]
    low = torch.finfo(dtype).min
    bias = torch.zeros(mask.shape[0], *causal.shape, dtype=dtype, device=mask.device)
    bias = bias.masked_fill(causal ^ present, low).masked_fill(~causal & ~present, -torch.inf)
    return bias.masked_fill(causal & present, 0.0)[:, None]


def published_causal_loss(
    model: Any, reading: Reading, features: Tensor, labels: Tensor, mixed: Tensor | None
) -> Tensor:
    """Return the published loss of a causal LM.

    Args:
        model: a ``VLMIGForCausalLM``.
        reading: every position of the text.
        features: F, (B, K, P, C).
        labels: token ids, -100 where none counts, (B, T).
        mixed: the mixture's log-probabilities (B, T, V) where image weights were given.
    """
    if reading.image_end is not None:  # the image stands in this token's place
        labels = labels.masked_fill(reading.image_end, -100)
    if mixed is not None:
        return mean_loss([mixed[:, :-1]], labels[:, 1:])
    visual = model.fusion.encode_images(model, features)
    images = model.image_logits(reading, visual)
    if reading.image_end is not None:
        return mean_loss((logits[:, :-1] for logits in images), labels[:, 1:])
    ends = model.head(model.language_model, visual[-1]).unbind(1)
    return mean_loss((torch.cat([end, logits[:, :-1]], 1) for end, logits in zip(ends, images, strict=True)), labels)


def published_masked_loss(model: Any, reading: Reading, features: Tensor, labels: Tensor) -> Tensor:
    """Return the published loss of a masked LM: every image's own, averaged over images."""
    return mean_loss(model.image_logits(reading, features), labels)


def mean_loss(predictions: Iterable[Tensor], targets: Tensor) -> Tensor:
    """Average the cross-entropy of each (B, T, V) against targets (B, T) over predictions and tokens; -100 is skipped."""
    losses = [
        F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum") for logits in predictions
    ]
    return torch.stack(losses).sum() / (len(losses) * (targets != -100).sum())
