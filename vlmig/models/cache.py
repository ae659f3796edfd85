"""Everything that touches transformers' cache: its name, the layers we add to it, and what we find in it again.

The argument and the output were called ``past_key_values`` until transformers 5.23 and are called ``cache`` since. Nothing else in
the package says either name. The cache of a text is an ordinary one: behind the LM's layers it holds ours, so that beams, cropping
and reordering treat them as the LM's.
Axes: B prompts, K images per prompt, P patches, C vision width, T text tokens, S text positions so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from vlmig.errors import VLMIGError

States = tuple[Tensor, ...]
"""Keys and values, of a text or of pictures (``TextStates`` and ``VisualStates`` of ``fusion.py``)."""
OLD, NEW = "past_key_values", "cache"
NAME = NEW if NEW in {field.name for field in fields(CausalLMOutputWithPast)} else OLD
"""What the installed transformers calls a cache, in arguments and in outputs."""


def cache_argument(cache: Cache | None) -> dict[str, Cache | None]:
    """Return the keyword argument that hands a cache to a model, or to an output."""
    return {NAME: cache}


def text_cache(values: Mapping[str, Any]) -> Cache | None:
    """Find the cache among a model's arguments or in its output; None without one."""
    return values.get(NAME)


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """Return the cache that was given, by either name.

    Raises:
        VLMIGError: one under each name.
    """
    if cache is not None and past_key_values is not None:
        raise VLMIGError(
            "a cache as cache and another as past_key_values; expected one: past_key_values is the older name"
        )
    return past_key_values if cache is None else cache


def seen_length(cache: Cache | None, queries: int) -> int:
    """Count the text positions read so far; in a static cache the slots beyond are empty."""
    return int(cache.get_seq_length()) if cache is not None else queries


def extend_cache(cache: Cache, text: States, config: Any) -> States:
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


def kept_images(cache: Cache | None, features: Tensor) -> States | None:
    """Find what was made of these very pictures, (B, K, P, C), when an earlier part of the text was read."""
    layers = cache.layers if cache is not None else []
    return next((layer.states for layer in layers if isinstance(layer, _Images) and layer.features is features), None)


def keep_images(cache: Cache, features: Tensor, states: States) -> None:
    """Keep what was made of pictures in the cache, as long as it lives."""
    cache.layers = [layer for layer in cache.layers if not isinstance(layer, _Images)]
    cache.layers.append(_Images(features, states))


class _Images(DynamicLayer):
    """Pictures beside a text: an empty layer, since they do not grow with it, and the beams of a row have the same ones."""

    is_compileable = True

    def __init__(self, features: Tensor, states: States) -> None:
        super().__init__()
        self.features: Tensor | None = features
        self.states = states

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Keep the pictures however short the text becomes: of the text nothing is here."""

    def reset(self) -> None:
        """Forget the pictures."""
        self.features, self.states = None, ()


def image_cache(cache: Cache, layers: int, images: int) -> Cache:
    """Return the part of a cache that keeps the text beside each image: as many layers again as the LM has.

    Being rows of the same cache, beams and their order treat it right.

    Raises:
        VLMIGError: it was filled beside another number of images.
    """
    own = cache.layers[layers:]
    if not own:
        own = [_BesideImages(images) for _ in range(layers)]
        cache.layers += own
    if own[0].images != images:
        raise VLMIGError(
            f"a cache of a text beside {own[0].images} pictures, {images} given; expected as many: start anew"
        )
    return Cache(layers=own)


class _BesideImages(DynamicLayer):
    """Keys and values of a text beside each of K images: (B, K, heads, S, d), so that a row is a prompt with all its images."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = (states.unflatten(0, (-1, self.images)) for states in (key_states, value_states))
        keys, values = super().update(keys, values)
        return keys.flatten(0, 1), values.flatten(0, 1)


def given_cache(keys: Tensor, values: Tensor) -> Cache:
    """Return a cache of one layer that hands out keys and values made elsewhere, (B, heads, S, d), and takes none in."""
    return Cache(layers=[_Given(keys, values)])


class _Given(DynamicLayer):
    """Keys and values made elsewhere; those of the queried rows are among them already."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        super().update(keys, values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.keys, self.values
