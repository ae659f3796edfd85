"""A training loop that survives: the same call goes on where an interrupted one was."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

LOG_EVERY = 50
SAVE_SECONDS = 300


@dataclass
class Schedule:
    """How long to train and how the learning rates go: constant, then linearly to zero."""

    steps: int
    decay_from: float = 0.5
    """The share of the steps after which the rates fall."""
    average: float = 0.998
    """Decay of the moving average of the weights."""

    def rate(self, step: int) -> float:
        """Return the factor of every learning rate at a step."""
        left = (self.steps - step) / max(1.0, self.steps * (1 - self.decay_from))
        return min(1.0, max(0.0, left), (step + 1) / 50)


def train(
    module: nn.Module,
    loss_at: Callable[[int], Tensor],
    optimisers: Sequence[torch.optim.Optimizer],
    schedule: Schedule,
    path: Path,
) -> dict[str, Tensor]:
    """Minimise ``loss_at(step)`` and return the moving average of the weights.

    All chance comes from the step's number: data by what ``loss_at`` seeds with it, noise by torch's generator, which
    is seeded anew at every step. So a resumed run sees what an uninterrupted one would have seen.

    Args:
        path: the checkpoint, replaced about every five minutes.
    """
    average = {name: value.detach().clone().float() for name, value in module.state_dict().items()}
    first = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        module.load_state_dict(state["module"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        average, first = state["average"], state["step"]
        logger.info("%s: going on at step %d", path.stem, first)
    rates = [[group["lr"] for group in o.param_groups] for o in optimisers]
    if first:
        rates = state["rates"]

    def save(step: int) -> None:
        save_atomically(
            {
                "module": module.state_dict(),
                "optimisers": [o.state_dict() for o in optimisers],
                "average": average,
                "rates": rates,
                "step": step,
            },
            path,
        )

    losses: list[float] = []
    saved_at = began = time.monotonic()
    for step in range(first, schedule.steps):
        for optimiser, base in zip(optimisers, rates, strict=True):
            for group, rate in zip(optimiser.param_groups, base, strict=True):
                group["lr"] = rate * schedule.rate(step)
        torch.manual_seed(step)
        loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        follow(average, module, min(schedule.average, (step + 1) / (step + 10)))
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY == 0:
            logger.info(
                "%s: step %d loss %.4f, %.2f s a step",
                path.stem,
                step + 1,
                sum(losses) / len(losses),
                (time.monotonic() - began) / len(losses),
            )
            losses, began = [], time.monotonic()
        if time.monotonic() - saved_at > SAVE_SECONDS:
            save(step + 1)
            saved_at = time.monotonic()
    save(schedule.steps)
    return average


@torch.no_grad()
def follow(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    """Move the average a little towards the weights."""
    values = module.state_dict()
    moving = [name for name, value in values.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[n] for n in moving], [values[n].float() for n in moving], 1 - decay)


def save_atomically(state: object, path: Path) -> None:
    """Write a torch file so that a reader sees the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)
