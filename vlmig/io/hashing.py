"""Numbers that stand for texts: the same on every machine, whatever the order of what is numbered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def number_of(text: str, seed: int = 0) -> int:
    """Return 64 bits that depend on a text and a seed; texts that differ have different ones, but for rare chance."""
    digest = hashlib.blake2b(
        text.encode("utf-8", "surrogatepass"),
        digest_size=8,
        salt=seed.to_bytes(16, "big", signed=True),
    )
    return int.from_bytes(digest.digest(), "big")


def share_of(text: str, seed: int = 0) -> float:
    """Return a number from 0 to 1 that is evenly spread over texts."""
    return number_of(text, seed) / 2**64


def numbers_of(texts: Iterable[str], seed: int = 0) -> np.ndarray:
    """Return the numbers of many texts, uint64 (n,)."""
    return np.fromiter((number_of(text, seed) for text in texts), np.uint64)


def source_of(name: str, revision: str | None = None) -> str:
    """Name weights by their content where they lie in a folder, else by id and revision."""
    return digest_folder(Path(name)) if Path(name).is_dir() else f"{name}@{revision or 'main'}"


def digest_folder(folder: Path) -> str:
    """Hash names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
