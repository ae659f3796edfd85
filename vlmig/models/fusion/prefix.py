"""Early fusion: visual tokens stand among the words, and the LM's own layers look at them (LLaVA, VILA, LIVE).

A picture that is *shown* stands at its place in the text, which N tokens of the id ``VLMIGConfig.place_token`` hold. An *imagined*
one stands before the text, behind its BOS if it has one; each of K has a copy of the text of its own.
Axes: B prompts, K imagined and M shown images per prompt, P patches, C vision width, N visual tokens per image, T text tokens,
D LM width, E width of the LM's input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AddedToken, LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.cache_utils import Cache

from vlmig.errors import VLMIGError
from vlmig.models.cache import cache_argument, image_cache, seen_length, text_cache
from vlmig.models.config import IMAGE, VLMIGConfig
from vlmig.models.text_states import PrefixReading, Reading, VisualStates, number, real_tokens

BUDGET = 2**14
"""States, visual and of the text, that go through the LM at a time."""


class PrefixFusion(nn.Module):
    """No layer of its own: the LM's read visual tokens as they read words."""


class EarlyFusion:
    """What a causal model with the fusion ``prefix`` does in place of a fusion layer; mixed in before ``LateFusionModel``."""

    config: VLMIGConfig
    language_model: Any
    projector: nn.Module
    trunk: Any
    blank_features: Tensor
    get_input_embeddings: Any

    def placed(self, base: dict[str, Any], shown_features: Tensor | None) -> dict[str, Any]:
        """Put shown pictures (B, M, P, C) into their places in the text, if there are any.

        Raises:
            VLMIGError: places without pictures, pictures without places, a model that looks at pictures beside the text.
        """
        ids, cache = base.get("input_ids"), text_cache(base)
        shown = 0 if shown_features is None else shown_features.shape[1]
        if self.config.fusion != "prefix" and shown:
            raise VLMIGError(
                f"shown_features with fusion={self.config.fusion!r}; expected visual_features: only 'prefix' has pictures in its text"
            )
        if self.config.fusion != "prefix" or ids is None:
            return base
        places = ids == self.config.place_token
        count = int(places.sum())
        if count == 0 and shown and not (cache is not None and cache.get_seq_length()):
            raise VLMIGError(f"{shown} pictures and no place for them in the text; put {IMAGE} where they go")
        if count and not shown:
            raise VLMIGError(f"{count} places of visual tokens in the text and no picture; give one for each {IMAGE}")
        if shown_features is None or count == 0:
            return base
        words = self.get_input_embeddings()(ids.masked_fill(places, 0))
        return base | {
            "input_ids": None,
            "inputs_embeds": place(words, places, self.projector(shown_features.to(words))),
        }

    def read_early(
        self,
        base: dict[str, Any],
        placed: dict[str, Any],
        states: Tensor,
        padding: Tensor | None,
        cache: Cache | None,
        logits_to_keep: int | Tensor,
    ) -> PrefixReading:
        """Keep what is needed to read a text again behind pictures.

        Args:
            base: the LM's inputs; ``placed``: with shown pictures in their places.
            states: what the LM made of them, (B, Q, D).
            padding: the 2D mask, (B, S).
        """
        queries = states.shape[1]
        present = real_tokens(padding, states, seen_length(cache, queries))
        first = base.get("input_ids") if present.shape[1] == queries else None
        kept: Tensor | slice = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        embeddings = placed.get("inputs_embeds")
        return PrefixReading(
            hidden=states[:, kept],
            cache=cache,
            embeddings=self.get_input_embeddings()(placed["input_ids"]) if embeddings is None else embeddings,
            present=present,
            begin=begin_of(present, first, self.config.text_config.bos_token_id),
            kept=kept,
        )

    def beside(self, visual_features: Tensor, cache: Cache | None = None) -> VisualStates:
        """Put an empty picture before those of each prompt: the LM's layers see them, which keep what they make of them."""
        if self.config.fusion != "prefix":
            return super().beside(visual_features, cache)  # type: ignore[misc]
        blank = self.blank_features.to(visual_features).expand(len(visual_features), 1, -1, -1)
        return (torch.cat([blank, visual_features], 1),)

    def fuse(self, reading: Reading, visual: Tensor | VisualStates) -> Tensor:
        """Fuse the queried positions with each of the K images, features or from ``beside``: states (B, K, T, D)."""
        if not isinstance(reading, PrefixReading):
            return super().fuse(reading, visual)  # type: ignore[misc]
        features = visual if isinstance(visual, Tensor) else visual[0]
        rows = len(reading.hidden) * (reading.embeddings.shape[1] + self.config.visual_tokens)
        size = features.shape[1] if reading.cache is not None else max(1, BUDGET // rows)
        return torch.cat([self._read_behind(reading, group) for group in features.split(size, 1)], 1)

    def _read_behind(self, reading: PrefixReading, visual_features: Tensor) -> Tensor:
        """Run the base LM over the text behind each image: (B, K, T, D)."""
        rows, images = visual_features.shape[:2]
        visual = self.projector(visual_features.to(reading.embeddings)).flatten(0, 1)
        embeddings, present, begin = (
            beside_each(part, images) for part in (reading.embeddings, reading.present, reading.begin)
        )
        queries, cache = embeddings.shape[1], None
        if reading.cache is not None:
            cache = image_cache(reading.cache, self.config.text_config.num_hidden_layers, images)
        seen = cache.get_seq_length() if cache is not None else 0
        if seen + queries + (0 if seen else visual.shape[1]) != present.shape[1] + visual.shape[1]:
            raise VLMIGError(
                f"a cache of {present.shape[1] - queries} tokens that were read without pictures; expected one that began with "
                "visual_features: start anew"
            )
        if not seen:
            embeddings = insert(embeddings, visual, begin)
        present = insert(present, present.new_ones(visual.shape[:2]), begin)
        output = self.trunk(
            inputs_embeds=embeddings,
            attention_mask=present.long(),
            position_ids=number(present)[:, -embeddings.shape[1] :],
            use_cache=cache is not None,
            **cache_argument(cache),
        )
        # An image predicts the token behind it: so the text's positions are the last ones, BOS's being the image's end.
        return output.last_hidden_state[:, -queries:].unflatten(0, (rows, images))[:, :, reading.kept]

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """See that ``generate`` writes no place of a picture, which may have an id of the vocabulary."""
        processors = super()._get_logits_processor(*args, **kwargs)  # type: ignore[misc]
        if self.config.fusion == "prefix":
            processors.insert(0, SuppressTokensLogitsProcessor([self.config.place_token], self.trunk.device))
        return processors


def mark_places(tokenizer: Any, config: VLMIGConfig) -> None:
    """Teach a tokenizer the mark of a picture, and note in the configuration which id it has.

    Raises:
        VLMIGError: the checkpoint was trained with another id.
    """
    if IMAGE not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(IMAGE, normalized=False, special=True)]})
    token = tokenizer.convert_tokens_to_ids(IMAGE)
    if config.image_token_id not in (None, token):
        raise VLMIGError(
            f"image_token_id={config.image_token_id} in the configuration, {IMAGE} is token {token} of this tokenizer; expected the "
            "tokenizer that the checkpoint was made with"
        )
    config.image_token_id = token


def place(embeddings: Tensor, places: Tensor, visual: Tensor) -> Tensor:
    """Put visual tokens (B, M, N, E) into their places among a text's embeddings (B, T, E), in reading order.

    Args:
        places: which positions hold the place of a visual token, bool (B, T). A row may have fewer than M pictures: its last
            ones are not used.

    Raises:
        VLMIGError: places that are no whole pictures, or more or fewer pictures than places.
    """
    images, tokens = visual.shape[1:3]
    counts = places.sum(1)
    if bool((counts % tokens != 0).any()) or int(counts.max()) != images * tokens:
        raise VLMIGError(
            f"{counts.tolist()} places of visual tokens in the texts for at most {images} pictures of {tokens} tokens each; expected "
            f"{tokens} for every picture of a row"
        )
    used = torch.arange(images * tokens, device=places.device) < counts[:, None]
    return embeddings.masked_scatter(places[..., None], visual.flatten(1, 2)[used].to(embeddings))


def begin_of(present: Tensor, ids: Tensor | None, bos: int | None) -> Tensor:
    """Say where imagined pictures go: at each row's first real token, or behind it if that is BOS, (B,)."""
    first = present.long().argmax(1)
    if ids is None or bos is None:
        return first
    return first + (ids.gather(1, first[:, None])[:, 0] == bos)


def insert(values: Tensor, own: Tensor, begin: Tensor) -> Tensor:
    """Insert N of ``own`` (B, N, ...) before position ``begin`` (B,) of each row of ``values`` (B, T, ...)."""
    length, count = values.shape[1], own.shape[1]
    index = torch.arange(length + count, device=values.device).expand(len(values), -1)
    begin = begin[:, None]
    index = torch.where(index < begin, index, torch.where(index < begin + count, index - begin + length, index - count))
    index = index.reshape(*index.shape, *(1,) * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
    return torch.cat([values, own], 1).gather(1, index)


def beside_each(values: Tensor, images: int) -> Tensor:
    """Repeat each row for each of K images: (B, ...) -> (B * K, ...)."""
    return values.repeat_interleave(images, 0)
