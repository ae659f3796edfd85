"""Early fusion: visual tokens are part of the LM's input (LLaVA, VILA, LIVE).

A *shown* image is inside the text, where N tokens ``VLMIGConfig.placeholder_id`` are its
placeholders. An *imagined* image is before the text, after BOS if there is one, with a copy of the
text for each.
Axes: B prompts, K imagined and M shown images per prompt, P patches, C vision width, N visual
tokens per image, T text tokens, D LM width, E width of the LM's input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken
from transformers.cache_utils import Cache

from vlmig.errors import VLMIGError
from vlmig.models.cache import (
    cache_argument,
    image_cache,
    images_read,
    seen_length,
    text_cache,
)
from vlmig.models.config import IMAGE, VLMIGConfig
from vlmig.models.fusion.base import Fusion
from vlmig.models.text_states import (
    PrefixReading,
    VisualStates,
    last_indices,
    number,
    queried,
    real_tokens,
)

BUDGET = 2**14
"""States, visual and of the text, that go through the LM at a time."""


class PrefixFusion(Fusion):
    """Early fusion adds no layer; the LM's own layers attend to the visual tokens."""

    def embed_shown(
        self, model: Any, inputs: dict[str, Any], shown: Tensor | None
    ) -> dict[str, Any]:
        """Embed the text's tokens, and the images (B, M, P, C) where their placeholders are.

        Raises:
            VLMIGError: placeholders without images, or images without placeholders.
        """
        ids, cache = inputs.get("input_ids"), text_cache(inputs)
        if ids is None:
            return inputs
        images = 0 if shown is None else shown.shape[1]
        mask = ids == model.config.placeholder_id
        if torch.compiler.is_compiling():  # a graph cannot depend on what a text says
            filled = images > 0
        else:
            # The placeholders may have been read already.
            begun = cache is not None and cache.get_seq_length()
            filled = _has_placeholders(mask, images, bool(begun))
        if shown is None or not filled:
            return inputs
        words = model.get_input_embeddings()(ids.masked_fill(mask, 0))
        embedded = fill_placeholders(words, mask, model.projector(shown.to(words)))
        return inputs | {"input_ids": None, "inputs_embeds": embedded}

    def prepare_text(
        self,
        model: Any,
        ids: Tensor | None,
        embedded: dict[str, Any],
        states: Tensor,
        padding: Tensor | None,
        cache: Cache | None,
        logits_to_keep: int | Tensor,
    ) -> PrefixReading:
        """Keep what the LM needs to read the text again after each image."""
        selected, present = queried(logits_to_keep), real_tokens(padding, states, cache)
        embeddings = embedded.get("inputs_embeds")
        if embeddings is None:
            embeddings = model.get_input_embeddings()(embedded["input_ids"])
        text_config = model.config.text_config
        begun = images_read(cache, text_config.num_hidden_layers)
        begin = begin_of(present, None if begun else ids, text_config.bos_token_id)
        return PrefixReading(
            hidden=states[:, selected],
            cache=cache,
            embeddings=embeddings,
            present=present,
            begin=begin,
            selected=selected,
        )

    def encode_images(self, model: Any, features: Tensor) -> VisualStates:
        """Return the features: the LM makes their keys and values together with the text's."""
        return (features,)

    def fuse(self, model: Any, reading: PrefixReading, visual: Tensor | VisualStates) -> Tensor:
        """Run the LM over the text after each image: states (B, K, T, D); see ``Fusion.fuse``."""
        features = visual if isinstance(visual, Tensor) else visual[0]
        rows = len(reading.hidden) * (reading.embeddings.shape[1] + model.config.visual_tokens)
        size = features.shape[1] if reading.cache is not None else max(1, BUDGET // rows)
        groups = features.split(size, 1)
        return torch.cat([_run_after(model, reading, group) for group in groups], 1)


def _has_placeholders(mask: Tensor, images: int, begun: bool) -> bool:
    """Tell whether there are placeholders (B, T) to fill, as many as images ask for."""
    count = int(mask.sum())
    if count == 0 and images and not begun:
        raise VLMIGError(
            f"{images} images and no placeholder in the text; put {IMAGE} where they go"
        )
    if count and not images:
        raise VLMIGError(
            f"{count} placeholder tokens in the text and no image; give one for each {IMAGE}"
        )
    return count > 0


def _run_after(model: Any, reading: PrefixReading, features: Tensor) -> Tensor:
    """Run the LM over the text after each image (B, K, P, C): (B, K, T, D)."""
    rows, images = features.shape[:2]
    visual = model.projector(features.to(reading.embeddings)).flatten(0, 1)
    embeddings = reading.embeddings.repeat_interleave(images, 0)
    present = reading.present.repeat_interleave(images, 0)
    begin = reading.begin.repeat_interleave(images, 0)
    queries, cache = embeddings.shape[1], None
    layers, tokens = model.config.text_config.num_hidden_layers, visual.shape[1]
    length = seen_length(reading.cache, queries)
    begun = images_read(reading.cache, layers)
    if reading.cache is not None:
        cache = image_cache(reading.cache, layers, images, tokens)
    added = queries if begun else tokens + queries
    before = cache.get_seq_length() if cache is not None else 0
    if not torch.compiler.is_compiling() and before + added != length + tokens:
        raise VLMIGError(
            f"a cache of {int(length) - queries} tokens that were read without images; "
            "expected one that began with visual_features: start with a new cache"
        )
    if not begun:
        embeddings = insert(embeddings, visual, begin)
    present = insert(present, present.new_ones(visual.shape[:2]), begin)
    indices = last_indices(added, length + tokens, embeddings.device)
    output = model.trunk(
        inputs_embeds=embeddings,
        attention_mask=present.long(),
        position_ids=number(present)[:, indices],
        use_cache=cache is not None,
        **cache_argument(cache),
    )
    # The last positions are the text's. An image after BOS predicts the next token, so its end
    # counts as BOS's position.
    states = output.last_hidden_state[:, -queries:].unflatten(0, (rows, images))
    return states[:, :, reading.selected]


def add_image_token(tokenizer: Any, config: VLMIGConfig) -> None:
    """Add the placeholder token ``<image>`` to a tokenizer, and its id to the configuration.

    Raises:
        VLMIGError: the checkpoint was trained with another id.
    """
    if IMAGE not in tokenizer.get_vocab():
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [AddedToken(IMAGE, normalized=False, special=True)]}
        )
    token = tokenizer.convert_tokens_to_ids(IMAGE)
    if config.image_token_id not in (None, token):
        raise VLMIGError(
            f"image_token_id={config.image_token_id} in the configuration, {IMAGE} is token "
            f"{token} of this tokenizer; expected the tokenizer that the checkpoint was made with"
        )
    config.image_token_id = token


def fill_placeholders(embeddings: Tensor, mask: Tensor, visual: Tensor) -> Tensor:
    """Replace the placeholders in a text's embeddings (B, T, E) by visual tokens (B, M, N, E), in
    reading order.

    Args:
        mask: which positions are placeholders, bool (B, T). A row with fewer than M images uses
            its first ones.

    Raises:
        VLMIGError: placeholders for a fraction of an image, or for more or fewer images than there
            are.
    """
    images, tokens = visual.shape[1:3]
    if not torch.compiler.is_compiling():
        counts = mask.sum(1)
        if bool((counts % tokens != 0).any()) or int(counts.max()) != images * tokens:
            raise VLMIGError(
                f"{counts.tolist()} placeholder tokens in the texts for at most {images} images of "
                f"{tokens} tokens each; expected {tokens} for every image of a row"
            )
    order = (mask.long().cumsum(1) - 1).clamp(0, images * tokens - 1)[..., None]
    read = visual.flatten(1, 2).to(embeddings).gather(1, order.expand(-1, -1, visual.shape[-1]))
    return torch.where(mask[..., None], read, embeddings)


def begin_of(present: Tensor, ids: Tensor | None, bos: int | None) -> Tensor:
    """Return where imagined images go, (B,): before each row's first real token, or after BOS."""
    first = present.long().argmax(1)
    if ids is None or bos is None:
        return first
    return first + (ids.gather(1, first[:, None])[:, 0] == bos)


def insert(values: Tensor, added: Tensor, begin: Tensor) -> Tensor:
    """Insert ``added`` (B, N, ...) before position ``begin`` (B,) of ``values`` (B, T, ...)."""
    length, count = values.shape[1], added.shape[1]
    index = torch.arange(length + count, device=values.device).expand(len(values), -1)
    begin = begin[:, None]
    index = torch.where(
        index < begin,
        index,
        torch.where(index < begin + count, index - begin + length, index - count),
    )
    index = index.reshape(*index.shape, *(1,) * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
    return torch.cat([values, added], 1).gather(1, index)
