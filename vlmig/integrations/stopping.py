"""Generation up to a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


class Until(StoppingCriteria):
    """Stop a row as soon as its new text contains one of the stop texts."""

    def __init__(self, tokenizer: Any, until: Sequence[str]) -> None:
        self.tokenizer, self.until, self.start = tokenizer, until, 0

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self.start = self.start or input_ids.shape[1] - 1  # first called after the first new token
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        done = [any(stop in text for stop in self.until) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def before_stop(text: str, until: Sequence[str]) -> str:
    """Return a text up to the first of the stop texts."""
    positions = [text.find(stop) for stop in until if stop in text]
    return text[: min(positions, default=len(text))]
