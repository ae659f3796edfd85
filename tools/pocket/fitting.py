"""Training of single components of the pocket world, by the package's loop on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmig.training import Optimization, fit


def fit_alone(
    module: nn.Module, loss_at: Callable[[int], Tensor], folder: Path, **settings: Any
) -> None:
    """Minimize ``loss_at(step)``, which draws its data by the step's number; resumes from
    ``folder``.

    Args:
        settings: fields of ``Optimization``.
    """
    fit(module, lambda _, step: [partial(loss_at, step)], Optimization(**settings), folder)


def save_atomically(state: object, path: Path) -> None:
    """Write a torch file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)
