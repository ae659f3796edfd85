"""Imagination: from prompts and seeds to images.

Image i of a prompt depends only on the prompt, i, its seed and the source's settings, and never on
the number of images, their order or the batch.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Request:
    """A request for one image."""

    prompt: str
    index: int
    """Number of the image among those of its prompt, from 0."""
    seed: int


class ImageSource(Protocol):
    """Gives an image for each request, or an embedding in place of an image."""

    embeds: bool = False
    """Whether it gives embeddings, (E,) each, and not images, uint8 (3, H, W) each."""
    seeded: bool = False
    """Whether another seed gives another image."""

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Return one image, or embedding, for each request."""
        ...

    def fits(self, prompt: str) -> bool:
        """Tell whether the prompt is read without cutting it."""
        return True

    def identity(self) -> dict[str, str | int | float]:
        """Return everything beside the request that decides an image."""
        ...


def request(prompt: str, index: int, seed: int = 0) -> Request:
    """Return the request for image ``index`` of a prompt, the same in every process and batch."""
    return Request(prompt, index, _number(f"{seed}\x1f{index}\x1f{prompt}"))


def requests_for(prompts: Sequence[str], seed: int) -> tuple[Request, ...]:
    """Return a request for each prompt; a prompt that occurs again gets its next image."""
    requests, counts = [], Counter[str]()
    for prompt in prompts:
        requests.append(request(prompt, counts[prompt], seed))
        counts[prompt] += 1
    return tuple(requests)


def next_seed(seed: int) -> int:
    """Derive the seed with which a faulty image is drawn again."""
    return _number(f"again\x1f{seed}")


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
