"""Imagination: from prompts and seeds to pictures.

An imaginer is anything with ``imagine(requests)`` and ``identity()``. Picture i of a prompt depends only on the prompt,
its seed and the imaginer's settings: never on how many pictures are asked for, on their order or on the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from PIL import Image


class Imaginer(Protocol):
    """Draw pictures from prompts."""

    def imagine(self, requests: Sequence[tuple[str, int]]) -> list[Image.Image]:
        """Draw one picture for each (prompt, seed)."""
        ...

    def identity(self) -> dict[str, str | int | float]:
        """Name everything beside prompt and seed that decides a picture."""
        ...


def image_seed(prompt: str, index: int, seed: int = 0) -> int:
    """Derive the seed of picture ``index`` of a prompt: stable across processes, machines and batches."""
    digest = hashlib.sha256(f"{seed}\x1f{index}\x1f{prompt}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
