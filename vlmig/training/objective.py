"""What is minimised: the loss of a caption's tokens beside its picture (paper, equation 1).

Axes: B samples, T text tokens, P patches per picture, C vision width, D LM width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlmig.modeling import VLMIGForMaskedLM
from vlmig.reading import Reading
from vlmig.scoring import Model

IGNORED = -100
LOGITS_BUDGET = 2**26
"""Logits that are kept for the backward pass; more are made again, some rows at a time."""


@dataclass
class Texts:
    """Captions as token ids, right-padded."""

    input_ids: Tensor
    """(B, T)."""
    attention_mask: Tensor
    """(B, T), 1 for tokens, 0 for padding."""
    labels: Tensor
    """The token that each position has to predict, (B, T); -100 where none counts, so padding never trains."""

    @property
    def count(self) -> int:
        """Return the number of tokens to predict."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device) -> Texts:
        """Move to a device."""
        return Texts(*(part.to(device) for part in (self.input_ids, self.attention_mask, self.labels)))


class Tokens:
    """Turn captions into batches.

    Args:
        tokenizer: the base LM's.
        model: a masked one guesses hidden tokens, a causal one the next.
        limit: most tokens of a caption.
        mask_share: share of tokens hidden from a masked LM: 80 % replaced by its mask, 10 % by another token, 10 % left.
    """

    def __init__(self, tokenizer: Any, model: Model, limit: int, mask_share: float) -> None:
        self.tokenizer, self.mask_share = tokenizer, mask_share
        self.masked = isinstance(model, VLMIGForMaskedLM)
        self.limit = min(limit, model.config.text_limit or limit)
        self.vocabulary = model.config.text_config.vocab_size
        pad = tokenizer.pad_token_id
        self.pad = pad if pad is not None else (tokenizer.eos_token_id or 0)

    def batch(self, captions: list[str], rngs: list[np.random.Generator]) -> Texts:
        """Tokenize, cut, hide (each caption by its own generator) and pad."""
        many = self.tokenizer(captions, truncation=True, max_length=self.limit).input_ids
        rows = [self._ended(ids) for ids in many]
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), self.pad)
        present = torch.zeros(len(rows), length, dtype=torch.long)
        labels = torch.full((len(rows), length), IGNORED)
        for i, row in enumerate(rows):
            own = torch.tensor(row)
            ids[i, : len(row)], present[i, : len(row)] = own, 1
            if self.masked:
                ids[i, : len(row)], labels[i, : len(row)] = self._hide(own, rngs[i])
            else:
                labels[i, : len(row) - 1] = own[1:]
        return Texts(ids, present, labels)

    def _ended(self, ids: list[int]) -> list[int]:
        """Put the end behind a caption that was not cut."""
        end = self.tokenizer.eos_token_id
        if not self.masked and end is not None and ids[-1:] != [end] and len(ids) < self.limit:
            ids = [*ids, end]
        return ids or [self.pad]

    def _hide(self, ids: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Hide tokens of one caption, at least one of them behind the mask."""
        special = self.tokenizer.get_special_tokens_mask(ids.tolist(), already_has_special_tokens=True)
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


class Objective(nn.Module):
    """The model with its loss, as one module whose ``forward`` accelerate can wrap.

    Args:
        model: base LM with adapter.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, texts: Texts, features: Tensor, others: Tensor | None = None) -> dict[str, Tensor]:
        """Predict ``labels`` beside pictures, from one reading of the captions.

        Args:
            features: of each caption's own picture, (B, P, C).
            others: of other captions' pictures; where given, everything is measured, otherwise only what trains.

        Returns:
            Summed losses in nats: beside the ``own`` picture, a ``shuffled`` and the ``blank`` one, and by the ``text`` alone.
        """
        reading = self.read(texts)
        beside = {"own": features}
        if others is not None:
            beside |= {"shuffled": others, "blank": self.model.blank_features.expand_as(features)}
        fused = self.model.fuse(reading, torch.stack([*beside.values()], 1).to(reading.hidden.device)).unbind(1)
        states = dict(zip(beside, fused, strict=True))
        if others is not None:
            states["text"] = reading.hidden
        return {name: self.loss(own, texts.labels) for name, own in states.items()}

    def read(self, texts: Texts) -> Reading:
        """Run the base LM over the captions; without gradients where it is frozen."""
        model = self.model
        learns = any(p.requires_grad for p in model.language_model.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            extra = {} if isinstance(model, VLMIGForMaskedLM) else {"use_cache": False}
            states = model.trunk(
                input_ids=texts.input_ids, attention_mask=texts.attention_mask, **extra
            ).last_hidden_state
        return model.prepare(states, texts.attention_mask)

    def loss(self, states: Tensor, labels: Tensor) -> Tensor:
        """Return the summed loss of states (B, T, D); only the rows that count go through the head."""
        rows, wanted = states[labels != IGNORED], labels[labels != IGNORED]
        size = max(1, LOGITS_BUDGET // self.model.get_output_embeddings().weight.shape[0])
        if len(rows) <= size:
            return self._of_rows(rows, wanted)
        parts = zip(rows.split(size), wanted.split(size), strict=True)
        return torch.stack([checkpoint(self._of_rows, *part, use_reentrant=False) for part in parts]).sum()

    def _of_rows(self, rows: Tensor, wanted: Tensor) -> Tensor:
        logits = self.model.head(self.model.language_model, rows)
        return F.cross_entropy(logits.float(), wanted, reduction="sum")
