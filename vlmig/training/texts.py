"""From captions, documents and conversations to batches of token ids and labels.

Axes: B rows, T tokens. A row is one text, or several that do not attend to each other (packing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmig.data.pairs import Pair
from vlmig.errors import VLMIGError
from vlmig.models.config import IMAGE
from vlmig.models.modeling import Model, VLMIGForMaskedLM
from vlmig.processing.conversation import without_placeholders

IGNORED = -100
Span = tuple[int, int]


@dataclass
class Texts:
    """Texts as token ids, right-padded."""

    input_ids: Tensor
    """(B, T)."""
    samples: Tensor
    """The number of each token's text in its row, from 1, (B, T); 0 for padding."""
    labels: Tensor
    """The token that each position has to predict, (B, T); -100 for none, as in padding."""
    rows: list[list[int]] = field(default_factory=list)
    """The texts of each row, by their numbers."""
    shown: list[int] = field(default_factory=list)
    """How many images of each text are in it: those after a cut are not."""
    states: Tensor | None = None
    """The frozen LM's last hidden states, (B, T, D), where they are stored."""

    @property
    def attention_mask(self) -> Tensor:
        """Return 1 for tokens, 0 for padding, (B, T)."""
        return (self.samples > 0).long()

    @property
    def positions(self) -> Tensor:
        """Number the tokens of each text from 0, (B, T)."""
        columns = torch.arange(self.samples.shape[1], device=self.samples.device)
        columns = columns.expand_as(self.samples)
        begins = torch.ones_like(self.samples, dtype=torch.bool)
        begins[:, 1:] = self.samples[:, 1:] != self.samples[:, :-1]
        return columns - (columns * begins).cummax(1).values

    @property
    def count(self) -> int:
        """Return the number of tokens to predict."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device) -> Texts:
        """Move to a device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            samples=self.samples.to(device),
            labels=self.labels.to(device),
            states=None if self.states is None else self.states.to(device),
        )


@dataclass
class _Text:
    """One text as token ids."""

    ids: list[int]
    learnt: list[bool]
    """Which of them are to be predicted."""
    images: int = 1
    """How many images are in it, or beside it."""


class Tokens:
    """Turn pairs into batches.

    Args:
        tokenizer: the base LM's.
        model: a masked one predicts hidden tokens, a causal one the next; early fusion (``prefix``)
            has images in its texts.
        limit: most tokens of a text, those of its images included.
        mask_share: share of tokens to predict in a masked LM: 80 % become its mask, 10 % another
            token, 10 % stay.
        pack: fill rows with several texts up to so many tokens (``prefix``).

    Raises:
        VLMIGError: ``pack`` with late fusion.
    """

    def __init__(
        self, tokenizer: Any, model: Model, limit: int, mask_share: float, pack: int | None = None
    ) -> None:
        config = model.config
        self.tokenizer, self.mask_share, self.pack = tokenizer, mask_share, pack
        self.masked, self.early = isinstance(model, VLMIGForMaskedLM), config.images_in_text
        self.placeholder, self.visual_tokens = config.placeholder_id, config.visual_tokens
        fits = config.text_limit and config.text_limit + (self.visual_tokens if self.early else 0)
        self.limit = min(limit, fits or limit)
        self.vocabulary = config.text_config.vocab_size
        pad = tokenizer.pad_token_id
        self.pad = pad if pad is not None else (tokenizer.eos_token_id or 0)
        if pack is not None and not self.early:
            raise VLMIGError(
                f"pack: {pack} with fusion {config.fusion}; expected prefix, or no packing: every "
                "text has an image beside it"
            )

    def batch(
        self, pairs: Sequence[Pair], rngs: Sequence[np.random.Generator] = (), alone: bool = False
    ) -> Texts:
        """Tokenize, cut, mask (each text with one of the generators), pack and pad.

        Args:
            alone: without image tokens.
        """
        texts = self._tokenized(pairs, alone)
        groups, length = self._packed([len(text.ids) for text in texts])
        ids = torch.full((len(groups), length), self.pad)
        samples = torch.zeros(len(groups), length, dtype=torch.long)
        labels = torch.full((len(groups), length), IGNORED)
        for row, group in enumerate(groups):
            start = 0
            for number, i in enumerate(group, 1):
                tokens = torch.tensor(texts[i].ids)
                end = start + len(tokens)
                ids[row, start:end], samples[row, start:end] = tokens, number
                if self.masked:
                    ids[row, start:end], labels[row, start:end] = self._hide(tokens, rngs[i])
                else:
                    ignored = ~torch.tensor(texts[i].learnt[1:], dtype=torch.bool)
                    labels[row, start : end - 1] = tokens[1:].masked_fill(ignored, IGNORED)
                start = end
        return Texts(ids, samples, labels, groups, [text.images for text in texts])

    def _tokenized(self, pairs: Sequence[Pair], alone: bool) -> list[_Text]:
        early = self.early and not alone
        marked = [early_text(pair) if early else late_text(pair) for pair in pairs]
        has_spans = any(spans for _, spans in marked)
        cut: dict[str, Any] = {} if early else {"truncation": True, "max_length": self.limit}
        encoded = self.tokenizer(
            [text for text, _ in marked], return_offsets_mapping=has_spans, verbose=False, **cut
        )
        texts = []
        for i, (_, spans) in enumerate(marked):
            ids = encoded.input_ids[i]
            learnt = _within(encoded.offset_mapping[i], spans) if spans else [True] * len(ids)
            text = self._ended(_Text(ids, learnt), not spans)
            texts.append(self._expanded(text) if early else text)
        return texts

    def _expanded(self, text: _Text) -> _Text:
        """Repeat each image token for its visual tokens, and cut, but never inside an image."""
        expanded = _Text([], [], 0)
        for token, learnt in zip(text.ids, text.learnt, strict=True):
            is_image = token == self.placeholder
            size = self.visual_tokens if is_image else 1
            if len(expanded.ids) + size > self.limit:
                break
            expanded.images += is_image
            expanded.ids += [token] * size
            expanded.learnt += [learnt and not is_image] * size
        return expanded

    def _packed(self, lengths: Sequence[int]) -> tuple[list[list[int]], int]:
        """Put each text into the first row with room for it; return the texts of each row, and the
        length of the longest row."""
        groups: list[list[int]] = []
        filled: list[int] = []
        for i, length in enumerate(lengths):
            for row, used in enumerate(filled):
                if self.pack is not None and used + length <= self.pack:
                    groups[row].append(i)
                    filled[row] += length
                    break
            else:
                groups.append([i])
                filled.append(length)
        return groups, max(filled)

    def _ended(self, text: _Text, closes: bool) -> _Text:
        """Append the end token to a text that was not cut; a chat template has its end marks."""
        end = self.tokenizer.eos_token_id
        room = end is not None and text.ids[-1:] != [end] and len(text.ids) < self.limit
        if closes and room and not self.masked:
            return _Text([*text.ids, end], [*text.learnt, True])
        return text if text.ids else _Text([self.pad], [False])

    def _hide(self, ids: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Hide tokens of one text, at least one of them with the mask token."""
        special = self.tokenizer.get_special_tokens_mask(
            ids.tolist(), already_has_special_tokens=True
        )
        words = np.flatnonzero(np.array(special) == 0)
        if not len(words):
            return ids, torch.full_like(ids, IGNORED)
        chosen = words[rng.random(len(words)) < self.mask_share]
        kind = rng.random(len(chosen))
        if not len(chosen):
            chosen, kind = rng.choice(words, 1), np.zeros(1)
        if not (kind < 0.8).any():
            kind[0] = 0
        hidden, labels = ids.clone(), torch.full_like(ids, IGNORED)
        labels[chosen] = ids[chosen]
        hidden[chosen[kind < 0.8]] = self.tokenizer.mask_token_id
        swapped = chosen[kind >= 0.9]
        hidden[swapped] = torch.from_numpy(rng.integers(0, self.vocabulary, len(swapped)))
        return hidden, labels


def early_text(pair: Pair) -> tuple[str, tuple[Span, ...]]:
    """Return a pair's text with a placeholder for each image, and its learnt spans.

    Images of a text without placeholders go first.

    Raises:
        VLMIGError: more or fewer placeholders than images.
    """
    images, marks = len(pair.images()) or bool(pair.prompt), pair.caption.count(IMAGE)
    if marks not in (0, images):
        raise VLMIGError(
            f"{marks} {IMAGE} for {images} images in {pair.caption[:60]!r}; expected one for "
            "each, or none at all"
        )
    if marks or not images:
        return pair.caption, pair.learnt
    front = IMAGE * images
    return front + pair.caption, tuple((a + len(front), b + len(front)) for a, b in pair.learnt)


def late_text(pair: Pair) -> tuple[str, tuple[Span, ...]]:
    """Return a pair's text without placeholders, and its learnt spans, for late fusion."""

    def moved(position: int) -> int:
        return len(without_placeholders(pair.caption[:position]))

    learnt = tuple((moved(start), moved(end)) for start, end in pair.learnt)
    return without_placeholders(pair.caption), learnt


def _within(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Return which tokens overlap one of the spans."""
    learnt = []
    for a, b in offsets:
        learnt.append(any(a < end and b > begin for begin, end in spans))
    return learnt
