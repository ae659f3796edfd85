"""From captions, documents and conversations to batches of token ids and labels.

Axes: B rows, T tokens. A row is one text, or several that do not attend to each other (packing).
"""

from __future__ import annotations

import re
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
        )


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
        self.place, self.visual_tokens = config.placeholder_id, config.visual_tokens
        fits = config.text_limit and config.text_limit + (self.visual_tokens if self.early else 0)
        self.limit = min(limit, fits or limit)
        self.vocabulary = config.text_config.vocab_size
        pad = tokenizer.pad_token_id
        self.pad = pad if pad is not None else (tokenizer.eos_token_id or 0)
        if pack is not None and not self.early:
            raise VLMIGError(
                f"pack: {pack} with fusion {config.fusion}; expected prefix, or no packing: every text "
                "has a picture beside it"
            )

    def batch(
        self, pairs: Sequence[Pair], rngs: Sequence[np.random.Generator] = (), alone: bool = False
    ) -> Texts:
        """Tokenize, cut, mask (each text with one of the generators), pack and pad.

        Args:
            alone: without image tokens.
        """
        rows, shown = self._rows(pairs, alone)
        groups = (
            [[i] for i in range(len(rows))]
            if self.pack is None
            else self._packed([len(ids) for ids, _ in rows])
        )
        length = max(sum(len(rows[i][0]) for i in group) for group in groups)
        ids = torch.full((len(groups), length), self.pad)
        samples = torch.zeros(len(groups), length, dtype=torch.long)
        labels = torch.full((len(groups), length), IGNORED)
        for row, group in enumerate(groups):
            start = 0
            for number, i in enumerate(group, 1):
                text, learnt = torch.tensor(rows[i][0]), rows[i][1]
                end = start + len(text)
                ids[row, start:end], samples[row, start:end] = text, number
                if self.masked:
                    ids[row, start:end], labels[row, start:end] = self._hide(text, rngs[i])
                else:
                    ignored = ~torch.tensor(learnt[1:], dtype=torch.bool)
                    labels[row, start : end - 1] = text[1:].masked_fill(ignored, IGNORED)
                start = end
        return Texts(ids, samples, labels, groups, shown)

    def _rows(
        self, pairs: Sequence[Pair], alone: bool
    ) -> tuple[list[tuple[list[int], list[bool]]], list[int]]:
        """Return each text's token ids and which of them are learnt, and its number of images."""
        early = self.early and not alone
        texts = [with_places(pair) if early else without_places(pair) for pair in pairs]
        spans = any(learnt for _, learnt in texts)
        cut: dict[str, Any] = {} if early else {"truncation": True, "max_length": self.limit}
        encoded = self.tokenizer(
            [text for text, _ in texts], return_offsets_mapping=spans, verbose=False, **cut
        )
        rows, shown = [], []
        for i, (_, learnt) in enumerate(texts):
            ids = encoded.input_ids[i]
            wanted = _within(encoded.offset_mapping[i], learnt) if learnt else [True] * len(ids)
            ids, wanted = self._ended(ids, wanted, not learnt)
            if early:
                ids, wanted, count = self._expanded(ids, wanted)
                shown.append(count)
            rows.append((ids, wanted))
        return rows, shown or [1] * len(rows)

    def _expanded(self, ids: list[int], learnt: list[bool]) -> tuple[list[int], list[bool], int]:
        """Repeat each image token for its visual tokens, and cut the text, but never inside an image."""
        out: list[int] = []
        wanted: list[bool] = []
        count = 0
        for token, counts in zip(ids, learnt, strict=True):
            size = self.visual_tokens if token == self.place else 1
            if len(out) + size > self.limit:
                break
            count += token == self.place
            out += [token] * size
            wanted += [counts and token != self.place] * size
        return out, wanted, count

    def _packed(self, lengths: Sequence[int]) -> list[list[int]]:
        """Put each text into the first row with room for it."""
        groups: list[list[int]] = []
        room: list[int] = []
        for i, length in enumerate(lengths):
            for row, left in enumerate(room):
                if left >= length:
                    groups[row].append(i)
                    room[row] -= length
                    break
            else:
                groups.append([i])
                room.append((self.pack or 0) - length)
        return groups

    def _ended(
        self, ids: list[int], learnt: list[bool], closes: bool
    ) -> tuple[list[int], list[bool]]:
        """Append the end token to a text that was not cut; a conversation's template has its own."""
        end = self.tokenizer.eos_token_id
        if (
            closes
            and not self.masked
            and end is not None
            and ids[-1:] != [end]
            and len(ids) < self.limit
        ):
            return [*ids, end], [*learnt, True]
        return (ids, learnt) if ids else ([self.pad], [False])

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


def with_places(pair: Pair) -> tuple[str, tuple[Span, ...]]:
    """Return a pair's text with a placeholder for each image, and its learnt spans.

    Images of a text without placeholders go first.

    Raises:
        VLMIGError: more or fewer placeholders than images.
    """
    pictures, marks = len(pair.pictures()) or bool(pair.prompt), pair.caption.count(IMAGE)
    if marks not in (0, pictures):
        raise VLMIGError(
            f"{marks} {IMAGE} for {pictures} pictures in {pair.caption[:60]!r}; expected one for each, "
            "or none at all"
        )
    if marks or not pictures:
        return pair.caption, pair.learnt
    front = IMAGE * pictures
    return front + pair.caption, tuple((a + len(front), b + len(front)) for a, b in pair.learnt)


def without_places(pair: Pair) -> tuple[str, tuple[Span, ...]]:
    """Return a pair's text without placeholders, and its learnt spans, for late fusion."""
    marks = [found.span() for found in re.finditer(rf"{re.escape(IMAGE)}\n?", pair.caption)]
    if not marks:
        return pair.caption, pair.learnt

    def moved(position: int) -> int:
        return position - sum(min(position, b) - a for a, b in marks if a < position)

    kept = re.sub(rf"{re.escape(IMAGE)}\n?", "", pair.caption)
    return kept, tuple((moved(a), moved(b)) for a, b in pair.learnt)


def _within(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Return which tokens overlap one of the spans."""
    return [any(a < end and b > begin for begin, end in spans) for a, b in offsets]
