"""Everything that touches transformers' cache: its name, and the layers we add to it.

The argument and the output are called ``past_key_values`` until transformers 5.23 and ``cache``
after it. No other file uses either name. Our layers follow the LM's in an ordinary cache, so that
beam search, cropping and reordering apply to them too.
Axes: B prompts, K images per prompt, P patches, C vision width, T text tokens, S text positions so
far.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from vlmig.errors import VLMIGError

logger = logging.getLogger(__name__)
States = tuple[Tensor, ...]
"""Keys and values, of a text or of images (``TextStates`` and ``VisualStates``)."""
OLD, NEW = "past_key_values", "cache"
NAME = NEW if NEW in {field.name for field in fields(CausalLMOutputWithPast)} else OLD
"""The name of a cache in the installed transformers, in arguments and in outputs."""


def cache_argument(cache: Cache | None) -> dict[str, Cache | None]:
    """Return a cache as the keyword argument of a model or an output."""
    return {NAME: cache}


def text_cache(values: Mapping[str, Any]) -> Cache | None:
    """Return the cache of a model's arguments or output; None without one."""
    return values.get(NAME)


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """Return the cache that was given by either name; as in transformers, the older one warns.

    Raises:
        VLMIGError: a cache by each name.
    """
    if cache is not None and past_key_values is not None:
        raise VLMIGError(
            "a cache as cache and another as past_key_values; expected one: past_key_values is the "
            "older name"
        )
    if past_key_values is None:
        return cache
    if NAME == NEW:
        message = "`past_key_values` is deprecated and will be removed; use `cache`"
        warnings.warn(message, FutureWarning, stacklevel=3)
    return past_key_values


def seen_length(cache: Cache | None, queries: int) -> int | Tensor:
    """Count the text positions read so far. In a static cache the count is a tensor, so that one
    graph serves every step."""
    return cache.get_seq_length() if cache is not None else queries


def static_length(cache: Cache | None) -> int | None:
    """Return how many tokens a static cache can hold; None of one that grows."""
    for layer in cache.layers if cache is not None else []:
        if isinstance(layer, StaticLayer) and not layer.is_sliding:
            return layer.max_cache_len
    return None


def slots(cache: Cache | None, queries: int) -> int:
    """Count the positions of a fusion layer's keys: those read so far, or all of a static cache,
    of which the last are empty."""
    return static_length(cache) or int(seen_length(cache, queries))


def extend_cache(cache: Cache, text: States, config: Any) -> States:
    """Append a fusion layer's keys and values to the cache, as one more layer; return those of the
    whole text so far.

    Raises:
        VLMIGError: a cache whose first tokens were read without images.
    """
    layer = config.get_text_config(decoder=True).num_hidden_layers
    if len(cache.layers) <= layer:
        windows = any(isinstance(other, StaticLayer) for other in cache.layers)
        if length := static_length(cache):
            cache.layers.append(StaticLayer(max_cache_len=length))
        else:
            cache.layers.append(_GrowingLayer() if windows else DynamicLayer())
        if unread := _unread(cache, text):
            text = tuple(F.pad(states, (0, 0, unread, 0)) for states in text)
    keys, values = cache.update(*text, layer)
    if keys.shape[-2] < slots(cache, 0):
        raise VLMIGError(
            f"a cache of {slots(cache, 0)} tokens, {keys.shape[-2]} of them read with "
            "images; expected one that began with visual_features: start with a new cache"
        )
    return keys, values


def mark_text(cache: Cache | None) -> None:
    """Note that this model filled a cache without images: it cannot go on beside them."""
    if cache is not None and not torch.compiler.is_compiling():
        cache.vlmig_text = True  # type: ignore[attr-defined]


def unread_positions(cache: Cache | None) -> int:
    """Count the first positions of a cache that no text was read into (prefix tuning's): the LM
    attends to them, a fusion layer does not."""
    return getattr(cache, "vlmig_unread", 0)


def _unread(cache: Cache, text: States) -> int:
    """Count the positions that were in a new cache before any text, and note their number."""
    if getattr(cache, "vlmig_text", False) or torch.compiler.is_compiling():
        return 0
    before = int(seen_length(cache, 0)) - text[0].shape[-2]
    cache.vlmig_unread = before  # type: ignore[attr-defined]
    if unread := unread_positions(cache):
        logger.warning(
            "a cache whose first %d positions this model has not read, such as prefix tuning's: "
            "its fusion layer does not see them",
            unread,
        )
    return unread


class _GrowingLayer(DynamicLayer):
    """Our layer in a cache of static sliding windows, which do not say how long a text may become.

    Without the flag, transformers would leave out the masks of the windows' empty slots.
    """

    is_compileable = True


def cached_images(cache: Cache | None, features: Tensor) -> States | None:
    """Return the cached states of this very tensor of features, (B, K, P, C); None without any."""
    for layer in cache.layers if cache is not None else []:
        if isinstance(layer, _Images) and layer.features is features:
            return layer.states
    return None


def keep_images(cache: Cache, features: Tensor, states: States) -> None:
    """Keep the states of images in the cache, in place of any others."""
    cache.layers = [layer for layer in cache.layers if not isinstance(layer, _Images)]
    cache.layers.append(_Images(features, states))


class _Images(DynamicLayer):
    """Images beside a text: an empty layer to transformers, shared by a row's beams."""

    is_compileable = True

    def __init__(self, features: Tensor, states: States) -> None:
        super().__init__()
        self.features: Tensor | None = features
        self.states = states

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the layer holds no text."""

    def reset(self) -> None:
        """Drop the images."""
        self.features, self.states = None, ()


def images_read(cache: Cache | None, layers: int) -> bool:
    """Whether the LM, of so many layers, has read the text's begin after each image too."""
    return cache is not None and len(cache.layers) > layers and cache.layers[layers].is_initialized


def image_cache(cache: Cache, layers: int, images: int, tokens: int) -> Cache:
    """Return the cache of the text after each image of ``tokens``: as many layers as the LM has,
    kept behind the LM's in its cache.

    Raises:
        VLMIGError: it was filled with another number of images.
    """
    added = cache.layers[layers:]
    if not added:
        for _ in range(layers):
            if length := static_length(cache):
                added.append(_StaticAfterImages(max_cache_len=length + tokens))
            else:
                added.append(_GrowingAfterImages())
            added[-1].images = images
        cache.layers += added
    if added[0].images != images:
        raise VLMIGError(
            f"a cache of a text with {added[0].images} images, {images} given; expected as many: "
            "start with a new cache"
        )
    return Cache(layers=added)


class _AfterImages:
    """Keys and values of a text after K images, (B, K * heads, S, d): a row has all its images."""

    images: int

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        together = (self._join(key_states), self._join(value_states))
        keys, values = super().update(*together)  # type: ignore[misc]
        return self._separate(keys), self._separate(values)

    def _join(self, states: Tensor) -> Tensor:
        return states.unflatten(0, (-1, self.images)).flatten(1, 2)

    def _separate(self, states: Tensor) -> Tensor:
        return states.unflatten(1, (self.images, -1)).flatten(0, 1)


class _GrowingAfterImages(_AfterImages, DynamicLayer):
    pass


class _StaticAfterImages(_AfterImages, StaticLayer):
    def reset(self) -> None:
        """Begin anew: ``images_read`` tells by this flag."""
        super().reset()
        self.is_initialized = False


def given_cache(keys: Tensor, values: Tensor) -> Cache:
    """Return a read-only cache of one layer with these keys and values, (B, heads, S, d)."""
    return Cache(layers=[_Given(keys, values)])


class _Given(DynamicLayer):
    """Fixed keys and values, which already contain those of the queries."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        super().update(keys, values)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return self.keys, self.values
