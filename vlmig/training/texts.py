"""From captions, documents and conversations to batches of token ids: what is read, and what is to be predicted.

Axes: B rows, T tokens. A row is one text, or several side by side that do not see each other (packing).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """Which of its row's texts a token belongs to, from 1, (B, T); 0 for padding."""
    labels: Tensor
    """The token that each position has to predict, (B, T); -100 where none counts, so padding never trains."""
    rows: list[list[int]] = field(default_factory=list)
    """The texts of each row, by their numbers."""
    shown: list[int] = field(default_factory=list)
    """How many pictures of each text have a place in it: those behind a cut have none."""

    @property
    def attention_mask(self) -> Tensor:
        """Return 1 for tokens, 0 for padding, (B, T)."""
        return (self.samples > 0).long()

    @property
    def positions(self) -> Tensor:
        """Number the tokens of each text from 0, (B, T)."""
        place = torch.arange(self.samples.shape[1], device=self.samples.device).expand_as(
            self.samples
        )
        begins = torch.ones_like(self.samples, dtype=torch.bool)
        begins[:, 1:] = self.samples[:, 1:] != self.samples[:, :-1]
        return place - (place * begins).cummax(1).values

    @property
    def count(self) -> int:
        """Return the number of tokens to predict."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device) -> Texts:
        """Move to a device."""
        ids, samples, labels = (
            part.to(device) for part in (self.input_ids, self.samples, self.labels)
        )
        return Texts(ids, samples, labels, self.rows, self.shown)


class Tokens:
    """Turn pairs into batches.

    Args:
        tokenizer: the base LM's.
        model: a masked one guesses hidden tokens, a causal one the next; one with the fusion ``prefix`` has pictures in its texts.
        limit: most tokens of a text, those of its pictures included.
        mask_share: share of tokens hidden from a masked LM: 80 % replaced by its mask, 10 % by another token, 10 % left.
        pack: fill rows with several texts up to so many tokens (``prefix``).

    Raises:
        VLMIGError: ``pack`` for a model that looks at pictures beside the text.
    """

    def __init__(
        self, tokenizer: Any, model: Model, limit: int, mask_share: float, pack: int | None = None
    ) -> None:
        config = model.config
        self.tokenizer, self.mask_share, self.pack = tokenizer, mask_share, pack
        self.masked, self.early = isinstance(model, VLMIGForMaskedLM), config.fusion == "prefix"
        self.place, self.visual_tokens = config.place_token, config.visual_tokens
        fits = config.text_limit and config.text_limit + (self.visual_tokens if self.early else 0)
        self.limit = min(limit, fits or limit)
        self.vocabulary = config.text_config.vocab_size
        pad = tokenizer.pad_token_id
        self.pad = pad if pad is not None else (tokenizer.eos_token_id or 0)
        if pack is not None and not self.early:
            raise VLMIGError(
                f"pack: {pack} with fusion {config.fusion}; expected prefix, or no packing: every text has a picture beside it"
            )

    def batch(
        self, pairs: Sequence[Pair], rngs: Sequence[np.random.Generator] = (), alone: bool = False
    ) -> Texts:
        """Tokenize, cut, hide (each text by its own generator), pack and pad.

        Args:
            alone: without the places of pictures.
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
                own, learnt = torch.tensor(rows[i][0]), rows[i][1]
                part = slice(start, start + len(own))
                ids[row, part], samples[row, part] = own, number
                if self.masked:
                    ids[row, part], labels[row, part] = self._hide(own, rngs[i])
                else:
                    labels[row, start : part.stop - 1] = own[1:].masked_fill(
                        ~torch.tensor(learnt[1:], dtype=torch.bool), IGNORED
                    )
                start = part.stop
        return Texts(ids, samples, labels, groups, shown)

    def _rows(
        self, pairs: Sequence[Pair], alone: bool
    ) -> tuple[list[tuple[list[int], list[bool]]], list[int]]:
        """Return each text's token ids and which of them are learnt, and how many pictures each shows."""
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
        """Make room for each picture's visual tokens, and cut; a picture that would be cut goes as a whole."""
        out: list[int] = []
        wanted: list[bool] = []
        count = 0
        for token, own in zip(ids, learnt, strict=True):
            size = self.visual_tokens if token == self.place else 1
            if len(out) + size > self.limit:
                break
            count += token == self.place
            out += [token] * size
            wanted += [own and token != self.place] * size
        return out, wanted, count

    def _packed(self, lengths: Sequence[int]) -> list[list[int]]:
        """Put each text into the first row with room for it."""
        groups: list[list[int]] = []
        room: list[int] = []
        for i, length in enumerate(lengths):
            found = next((row for row, left in enumerate(room) if left >= length), None)
            if found is None:
                groups.append([i])
                room.append((self.pack or 0) - length)
            else:
                groups[found].append(i)
                room[found] -= length
        return groups

    def _ended(
        self, ids: list[int], learnt: list[bool], closes: bool
    ) -> tuple[list[int], list[bool]]:
        """Put the end behind a text that was not cut; a conversation brings its own stop mark."""
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
        """Hide tokens of one caption, at least one of them behind the mask."""
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
    """Return a pair's text with a mark for each of its pictures, and its learnt parts; without marks the pictures go first.

    Raises:
        VLMIGError: more or fewer marks than pictures.
    """
    pictures, marks = len(pair.pictures()) or bool(pair.prompt), pair.caption.count(IMAGE)
    if marks not in (0, pictures):
        raise VLMIGError(
            f"{marks} {IMAGE} for {pictures} pictures in {pair.caption[:60]!r}; expected one for each, or none at all"
        )
    if marks or not pictures:
        return pair.caption, pair.learnt
    front = IMAGE * pictures
    return front + pair.caption, tuple((a + len(front), b + len(front)) for a, b in pair.learnt)


def without_places(pair: Pair) -> tuple[str, tuple[Span, ...]]:
    """Return a pair's text without marks, and its learnt parts, for a model that has no pictures in its text."""
    marks = [found.span() for found in re.finditer(rf"{re.escape(IMAGE)}\n?", pair.caption)]
    if not marks:
        return pair.caption, pair.learnt

    def moved(place: int) -> int:
        return place - sum(min(place, b) - a for a, b in marks if a < place)

    kept = re.sub(rf"{re.escape(IMAGE)}\n?", "", pair.caption)
    return kept, tuple((moved(a), moved(b)) for a, b in pair.learnt)


def _within(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Say which tokens lie in one of the spans, if only in part."""
    return [any(a < end and b > begin for begin, end in spans) for a, b in offsets]
