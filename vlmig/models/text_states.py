"""What is kept of a text once the LM has read it: everything that pictures need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache

TextStates = tuple[Tensor, Tensor]
"""What a fusion layer keeps of a text, two tensors (B, heads, S, d): the ordinary cache holds them as one more layer."""
VisualStates = tuple[Tensor, ...]
"""What a fusion layer keeps of pictures, each (B, K, ...): made once per picture, whatever is asked beside it."""


@dataclass(kw_only=True)
class Reading:
    """A text as the LM sees it by itself."""

    hidden: Tensor
    """Last hidden states of the queried positions, (B, T, D)."""
    cache: Cache | None = None
    image_end: Tensor | None = None
    """Queries, bool (B, T), where the image ends: the published Gemma puts images in the position of BOS."""


@dataclass(kw_only=True)
class LateReading(Reading):
    """A text as a late-fusion layer sees it."""

    text: TextStates
    """What the fusion layer keeps of all S text positions."""
    mask: Tensor
    """Which of them each queried position sees, bool (B, T, S)."""
    positions: Tensor
    """Place of each query in its text, (B, T)."""


@dataclass(kw_only=True)
class PrefixReading(Reading):
    """A text that the LM has to read again behind each imagined picture."""

    embeddings: Tensor
    """The LM's input of the new positions, shown pictures among them, (B, Q, E)."""
    present: Tensor
    """Which of all S positions hold tokens, bool (B, S)."""
    begin: Tensor
    """Position before which an imagined picture goes, (B,)."""
    kept: Tensor | slice
    """Which of the new positions are queried."""


def queried(logits_to_keep: int | Tensor) -> Tensor | slice:
    """Return the index of the positions that transformers' ``logits_to_keep`` asks for; 0 keeps all."""
    return slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep


def real_tokens(padding: Tensor | None, states: Tensor, seen: int) -> Tensor:
    """Say which of the ``seen`` positions hold tokens rather than padding: bool (B, seen)."""
    if padding is None:
        return torch.ones(states.shape[0], seen, dtype=torch.bool, device=states.device)
    return F.pad(padding.bool(), (0, max(0, seen - padding.shape[1])), value=True)[:, :seen]


def number(present: Tensor) -> Tensor:
    """Number the real tokens of each row from 0; padding has the number of the token before it, (B, S)."""
    return (present.long().cumsum(-1) - 1).clamp_min(0)


def visible(present: Tensor, queries: int, total: int) -> Tensor:
    """Say which of ``total`` cached positions each of the last ``queries`` sees: causal, real ones, bool (B, T, S)."""
    seen = present.shape[1]
    last = torch.arange(seen - queries, seen, device=present.device)
    causal = torch.arange(total, device=present.device)[None] <= last[:, None]
    return causal & F.pad(present, (0, total - seen), value=False)[:, None]


def first_token(present: Tensor) -> Tensor:
    """Mark the first real token of each row, bool (B, S)."""
    return present & (present.long().cumsum(-1) == 1)
