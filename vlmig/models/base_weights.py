"""The base LM's weights: a digest that tells whether they are still those that were loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

COLUMNS = 1024
"""Width of the table of integers whose rows and columns are summed."""


@dataclass(frozen=True)
class Loaded:
    """Where a base LM was loaded from, and what it was then."""

    name: str
    revision: str | None
    dtype: torch.dtype
    digest: str


def remember(model: Any, name: str, revision: str | None) -> None:
    """Note on a base LM that its weights are, now, those of ``name``."""
    digest = weights_digest(model.state_dict())
    model.vlmig_loaded = Loaded(str(name), revision, model.dtype, digest)


def loaded(model: Any) -> Loaded | None:
    """Return what ``remember`` noted; None for a base LM that was given in memory."""
    return getattr(model, "vlmig_loaded", None)


def weights_digest(state: Mapping[str, Any]) -> str:
    """Digest names, shapes and every bit of weights, whatever their device.

    A hash of exact sums over rows and over columns of the bits, read as 64-bit integers: on a GPU
    nothing but the sums leaves it. Weights that are offloaded (``meta``) are left out: they cannot
    have been trained.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if isinstance(value, Tensor) and value.device.type != "meta":
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            for sums in _sums(value.detach()):
                digest.update(sums.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _sums(value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum a tensor's bits over rows and over columns; what fills no row is returned as it is."""
    bits = value.contiguous().reshape(-1).view(torch.uint8)
    if bits.storage_offset() % 8:  # 64-bit integers begin at multiples of 8 bytes
        bits = bits.clone()
    whole = len(bits) // (8 * COLUMNS) * 8 * COLUMNS
    table = bits[:whole].view(torch.int64).view(-1, COLUMNS)
    return table.sum(0), table.sum(1), bits[whole:]
