"""Training of single components of the pocket world, by the package's loop on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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
