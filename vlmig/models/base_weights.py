"""The base LM's weights: a digest that tells whether they are still those that were loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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

    A hash of the exact integer sums over rows and over columns: on a GPU they take one pass, and
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


def _sums(value: Tensor) -> tuple[Tensor, Tensor]:
    """Sum a tensor's bits, read as integers, over rows and over columns."""
    table = value.flatten(0, -2) if value.ndim > 1 else value.reshape(1, -1)
    bits = table.contiguous().view(INTEGERS[value.element_size()])
    return bits.sum(0), bits.sum(1)
