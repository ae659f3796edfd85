"""What is kept of a text once the LM has read it: everything that pictures need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

from vlmig.errors import VLMIGError
from vlmig.fusion import TextStates, VisualStates


@dataclass(kw_only=True)
class Reading:
    """A text as the LM sees it by itself."""

    hidden: Tensor
    """Last hidden states of the queried positions, (B, T, D)."""
    cache: Cache | None = None


@dataclass(kw_only=True)
class LateReading(Reading):
    """A text as a late-fusion layer sees it."""

    text: TextStates
    """What the fusion layer keeps of all S text positions."""
    mask: Tensor
    """Which of them each queried position sees, bool (B, T, S)."""
    positions: Tensor
    """Place of each query in its text, (B, T)."""
    image_end: Tensor | None = None
    """Queries, bool (B, T), that stand where the image ends: the published Gemma puts images in the place of BOS."""


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


def seen_length(cache: Cache | None, queries: int) -> int:
    """Count the text positions read so far; in a static cache the slots beyond are empty."""
    return int(cache.get_seq_length()) if cache is not None else queries


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


def extend_cache(cache: Cache, text: TextStates, config: Any) -> TextStates:
    """Append to the ordinary cache as one more layer, and return all of it so far.

    Being a layer like any other, beams, cropping and repetition treat it right.

    Raises:
        VLMIGError: a cache whose first tokens were read without pictures.
    """
    layer = config.get_text_config(decoder=True).num_hidden_layers
    if len(cache.layers) <= layer:
        static = [other for other in cache.layers if isinstance(other, StaticLayer)]
        lengths = [other.max_cache_len for other in static if not other.is_sliding]
        own = _GrowingLayer() if static and not lengths else DynamicLayer()
        cache.layers.append(StaticLayer(max_cache_len=max(lengths)) if lengths else own)
    keys, values = cache.update(*text, layer)
    if keys.shape[-2] < seen_length(cache, 0):
        raise VLMIGError(
            f"a cache of {seen_length(cache, 0)} tokens, {keys.shape[-2]} of them read beside pictures; "
            "expected one that began with visual_features: start anew"
        )
    return keys, values


class _GrowingLayer(DynamicLayer):
    """The layer beside static sliding windows, which do not tell how long a text may become.

    Without the flag transformers would leave out the masks of the windows' empty slots.
    """

    is_compileable = True


def kept_images(cache: Cache | None, features: Tensor) -> VisualStates | None:
    """Find what was made of these very pictures, (B, K, P, C), when an earlier part of the text was read."""
    layers = cache.layers if cache is not None else []
    return next((layer.states for layer in layers if isinstance(layer, _Images) and layer.features is features), None)


def keep_images(cache: Cache, features: Tensor, states: VisualStates) -> None:
    """Keep what was made of pictures in the cache, as long as it lives."""
    cache.layers = [layer for layer in cache.layers if not isinstance(layer, _Images)]
    cache.layers.append(_Images(features, states))


class _Images(DynamicLayer):
    """Pictures beside a text: an empty layer, since they do not grow with it, and the beams of a row have the same ones."""

    is_compileable = True

    def __init__(self, features: Tensor, states: VisualStates) -> None:
        super().__init__()
        self.features: Tensor | None = features
        self.states = states

    def reset(self) -> None:
        """Forget the pictures."""
        self.features, self.states = None, ()
