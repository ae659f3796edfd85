"""The published code's losses (``protocol="reference"``): other positions and other averages than ours.

Ours is the cross-entropy of the mixture over the text's own next tokens. Published, and reproduced here: without image
weights, every image's own cross-entropy, averaged over images, the first text token included, which the last visual
token predicts; with weights, the mixture's. Padded targets never count (forward.md: "Loss").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmig.reading import Reading


def published_causal_loss(model: Any, reading: Reading, features: Tensor, labels: Tensor, mixed: Tensor | None) -> Tensor:
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
    images = model.image_logits(reading, features)
    if reading.image_end is not None:
        return mean_loss((logits[:, :-1] for logits in images), labels[:, 1:])
    ends = model.head(model.language_model, model.fusion.last_visual(model.projector(features))).unbind(1)
    return mean_loss((torch.cat([end, logits[:, :-1]], 1) for end, logits in zip(ends, images, strict=True)), labels)


def published_masked_loss(model: Any, reading: Reading, features: Tensor, labels: Tensor) -> Tensor:
    """Return the published loss of a masked LM: every image's own, averaged over images."""
    return mean_loss(model.image_logits(reading, features), labels)


def mean_loss(predictions: Iterable[Tensor], targets: Tensor) -> Tensor:
    """Average the cross-entropy of each (B, T, V) against targets (B, T) over predictions and tokens; -100 is skipped."""
    losses = [F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum") for logits in predictions]
    return torch.stack(losses).sum() / (len(losses) * (targets != -100).sum())
