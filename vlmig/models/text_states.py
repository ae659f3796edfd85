"""What fusion needs of a text that the LM has read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache

from vlmig.models.cache import slots

TextStates = tuple[Tensor, Tensor]
"""A fusion layer's keys and values of a text, (B, heads, S, d): one more layer of the cache."""
VisualStates = tuple[Tensor, ...]
"""What fusion needs of images, each (B, K, ...): computed once per image, whatever the text."""


@dataclass(kw_only=True)
class Reading:
    """A text that the LM has read without images."""

    hidden: Tensor
    """Last hidden states of the queried positions, (B, T, D)."""
    cache: Cache | None = None
    image_end: Tensor | None = None
    """Queries, bool (B, T), where the image ends (published Gemma: images replace BOS)."""
    hidden_states: tuple[Tensor, ...] | None = None
    """States of every layer of the LM, where they were asked for."""
    attentions: tuple[Tensor, ...] | None = None
    """Its attention, where that was asked for."""


@dataclass(kw_only=True)
class LateReading(Reading):
    """A text as a late-fusion layer needs it."""

    text: TextStates
    """The layer's keys and values of all S text positions."""
    mask: Tensor
    """Which of them each query attends to, bool (B, T, S)."""
    positions: Tensor
    """Position of each query in its text, (B, T)."""


@dataclass(kw_only=True)
class PrefixReading(Reading):
    """A text that the LM has to read again after each imagined image."""

    embeddings: Tensor
    """The LM's input of the new positions, with shown images, (B, Q, E)."""
    present: Tensor
    """Which of all S positions hold tokens, bool (B, S)."""
    begin: Tensor
    """Position at which an imagined image is inserted, (B,)."""
    selected: Tensor | slice
    """Which of the new positions are queried."""


def queried(logits_to_keep: int | Tensor) -> Tensor | slice:
    """Return the index of the positions that ``logits_to_keep`` selects; 0 keeps all."""
    return slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep


def real_tokens(padding: Tensor | None, states: Tensor, cache: Cache | None = None) -> Tensor:
    """Return which of the S positions that were read hold tokens and not padding, bool (B, S).

    Args:
        states: of the new positions, (B, T, D).
        cache: the positions before them.
    """
    length = states.shape[1] if cache is None else slots(cache, states.shape[1])
    if padding is None:
        return torch.ones(states.shape[0], length, dtype=torch.bool, device=states.device)
    missing = max(0, length - padding.shape[1])
    return F.pad(padding.bool(), (0, missing), value=True)[:, :length]


def number(present: Tensor) -> Tensor:
    """Number the real tokens of each row from 0, (B, S); padding repeats the last number."""
    return (present.long().cumsum(-1) - 1).clamp_min(0)


def last_indices(count: int, length: int | Tensor, device: torch.device) -> Tensor:
    """Return the last ``count`` indices into a text of ``length`` tokens, (T,)."""
    return torch.arange(count, device=device) + (length - count)


def first_token(present: Tensor) -> Tensor:
    """Mark the first real token of each row, bool (B, S)."""
    return present & (present.long().cumsum(-1) == 1)


def same_text(positions: Tensor) -> Tensor:
    """Return which positions of packed rows are of one text, bool (B, T, T).

    Args:
        positions: which begin anew with each text, (B, T).
    """
    begins = F.pad(positions.diff(dim=-1) != 1, (1, 0))
    text = begins.long().cumsum(-1)
    return text[:, :, None] == text[:, None, :]
