"""Imagination: from prompts and seeds to pictures.

An imaginer is anything with the members of ``Imaginer``. Picture i of a prompt depends only on the prompt, i, its
seed and the imaginer's settings: never on how many pictures are asked for, on their order or on the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Request:
    """One picture to imagine."""

    prompt: str
    index: int
    """Which of the prompt's pictures, from 0."""
    seed: int
    """Where its random numbers begin."""


class Imaginer(Protocol):
    """A source of pictures, or of embeddings in their place."""

    embeds: bool
    """Whether it gives embeddings in the encoder's space, (E,) each, instead of pictures, uint8 (3, H, W) each."""
    seeded: bool
    """Whether another seed gives another picture."""

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Give one picture, or embedding, for each request."""
        ...

    def fits(self, prompt: str) -> bool:
        """Tell whether the whole prompt is read."""
        ...

    def identity(self) -> dict[str, str | int | float]:
        """Name everything beside the request that decides a picture."""
        ...


def request(prompt: str, index: int, seed: int = 0) -> Request:
    """Ask for picture ``index`` of a prompt; the same for every run, machine and batch that has the same base seed."""
    return Request(prompt, index, image_seed(prompt, index, seed))


def image_seed(prompt: str, index: int, seed: int = 0) -> int:
    """Derive the seed of picture ``index`` of a prompt: stable across processes, machines and batches."""
    return _number(f"{seed}\x1f{index}\x1f{prompt}")


def next_seed(seed: int) -> int:
    """Derive the seed with which a faulty picture is drawn again."""
    return _number(f"again\x1f{seed}")


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
