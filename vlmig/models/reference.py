"""Layout and losses of the published code, for ``protocol="reference"`` (docs/fidelity.md).

*Layout*: how positions are numbered beside an image, with padding, and Gemma's image in the
position of BOS. *Losses*: ours is the cross-entropy of the mixture over the text's next tokens. The
published loss, without image weights, is each image's cross-entropy, averaged over images; it
includes the first text token, which the last visual token predicts. With weights it is the
mixture's. Padded targets never count (forward.md: "Loss").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmig.models.text_states import Reading, first_token, number

COUNTS_PADDING = ("gpt2", "llama")
"""Families whose published layer numbers padding too; the others number real tokens only."""


def published_layout(
    present: Tensor, family: str, visual_tokens: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Lay out text (B, S) beside its image as published.

    Returns:
        Which positions the fusion layer attends to, their numbers, and where the image ends if it
        is inside the text.
    """
    if family in COUNTS_PADDING:
        return (
            present,
            torch.arange(present.shape[1], device=present.device).expand_as(present),
            None,
        )
    positions = number(present)
    # Padding has the position before the image's first, whatever the image's length.
    if family == "opt":
        return present, positions.masked_fill(~present, -1 - visual_tokens), None
    if family == "gemma":  # the image takes the position of BOS, whose state is never used
        begin = first_token(present)
        return present & ~begin, (positions - 1).clamp_min(0), begin
    return present, positions, None


def published_gpt2_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the attention bias (B, 1, T, T) of the published GPT-2 for a padded batch (B, T).

    Real tokens attend as usual. A padded position, from which the published loss predicts the first
    token of a left-padded row, attends evenly to padding before it and text after it: the published
    code adds two finite minima where one is meant.
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
    if reading.image_end is not None:  # the image takes this token's position
        labels = labels.masked_fill(reading.image_end, -100)
    if mixed is not None:
        return mean_loss([mixed[:, :-1]], labels[:, 1:])
    visual = model.fusion.encode_images(model, features)
    images = model.image_logits(reading, visual)
    if reading.image_end is not None:
        return mean_loss((logits[:, :-1] for logits in images), labels[:, 1:])
    ends = model.head(model.language_model, visual[-1]).unbind(1)
    return mean_loss(
        (torch.cat([end, logits[:, :-1]], 1) for end, logits in zip(ends, images, strict=True)),
        labels,
    )


def published_masked_loss(
    model: Any, reading: Reading, features: Tensor, labels: Tensor, mixed: Tensor | None = None
) -> Tensor:
    """Return the published loss of a masked LM, which ignores image weights."""
    return mean_loss(model.image_logits(reading, features), labels)


def mean_loss(predictions: Iterable[Tensor], targets: Tensor) -> Tensor:
    """Average the cross-entropy of predictions (B, T, V) and targets (B, T); -100 is skipped."""
    losses = []
    for logits in predictions:
        rows = logits.flatten(0, 1).float()
        losses.append(F.cross_entropy(rows, targets.flatten(), reduction="sum"))
    return torch.stack(losses).sum() / (len(losses) * (targets != -100).sum())
