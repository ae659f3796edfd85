"""Hashes of texts and folders, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def number_of(text: str, seed: int = 0) -> int:
    """Hash a text and a seed to 64 bits."""
    digest = hashlib.blake2b(
        text.encode("utf-8", "surrogatepass"),
        digest_size=8,
        salt=seed.to_bytes(16, "big", signed=True),
    )
    return int.from_bytes(digest.digest(), "big")


def share_of(text: str, seed: int = 0) -> float:
    """Hash a text to a number from 0 to 1, uniformly."""
    return number_of(text, seed) / 2**64


def numbers_of(texts: Iterable[str], seed: int = 0) -> np.ndarray:
    """Hash many texts, uint64 (n,)."""
    return np.fromiter((number_of(text, seed) for text in texts), np.uint64)


def content_of(tensor: Tensor) -> memoryview:
    """Return a tensor's bytes."""
    import torch  # takes a second, which reading rows need not spend

    return tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy().data


def source_of(name: str, revision: str | None = None) -> str:
    """Name weights by the content of their folder or file, or by id and revision."""
    return digest_folder(Path(name)) if Path(name).exists() else f"{name}@{revision or 'main'}"


def sha256(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(folder: Path) -> str:
    """Hash names and contents of a folder's files; of a file its content alone."""
    digest = hashlib.sha256()
    for path in [folder] if folder.is_file() else sorted(folder.rglob("*")):
        if path.is_file():
            if path != folder:
                digest.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                while chunk := file.read(2**24):  # weights may be larger than memory
                    digest.update(chunk)
    return digest.hexdigest()[:16]
