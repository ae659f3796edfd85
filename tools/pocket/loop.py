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
    optimizers: Sequence[torch.optim.Optimizer],
    schedule: Schedule,
    path: Path,
) -> dict[str, Tensor]:
    """Minimize ``loss_at(step)`` and return the moving average of the weights.

    All chance comes from the step's number: data by what ``loss_at`` seeds with it, noise by
    torch's generator, which is seeded anew at every step. So a resumed run sees what an
    uninterrupted one would have seen.

    Args:
        path: the checkpoint, replaced about every five minutes.
    """
    run = _Run(module, optimizers, path)
    run.resume()
    losses: list[float] = []
    saved_at = began = time.monotonic()
    for step in range(run.step, schedule.steps):
        run.set_rates(schedule.rate(step))
        torch.manual_seed(step)
        loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        follow(run.average, module, min(schedule.average, (step + 1) / (step + 10)))
        run.step = step + 1
        losses.append(loss.item())
        if run.step % LOG_EVERY == 0:
            mean, pace = sum(losses) / len(losses), (time.monotonic() - began) / len(losses)
            logger.info("%s: step %d loss %.4f, %.2f s a step", path.stem, run.step, mean, pace)
            losses, began = [], time.monotonic()
        if time.monotonic() - saved_at > SAVE_SECONDS or run.step == schedule.steps:
            run.save()
            saved_at = time.monotonic()
    return run.average


class _Run:
    """Everything of a run that outlives an interruption."""

    def __init__(
        self, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], path: Path
    ) -> None:
        self.module, self.optimizers, self.path = module, optimizers, path
        self.average = {
            name: value.detach().clone().float() for name, value in module.state_dict().items()
        }
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self.step = 0

    def resume(self) -> None:
        """Take up the checkpoint if there is one; rates stay those of the recipe."""
        if not self.path.exists():
            return
        state = torch.load(self.path, weights_only=True)
        self.module.load_state_dict(state["module"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.average, self.step = state["average"], state["step"]
        logger.info("%s: going on at step %d", self.path.stem, self.step)

    def set_rates(self, factor: float) -> None:
        """Set every learning rate to its base times a factor."""
        for optimizer, bases in zip(self.optimizers, self.rates, strict=True):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * factor

    def save(self) -> None:
        """Replace the checkpoint."""
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        state = {
            "module": self.module.state_dict(),
            "optimizers": states,
            "average": self.average,
            "step": self.step,
        }
        save_atomically(state, self.path)


@torch.no_grad()
def follow(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    """Move the average a little towards the weights."""
    values = module.state_dict()
    moving = [name for name, value in values.items() if value.is_floating_point()]
    torch._foreach_lerp_(
        [average[n] for n in moving], [values[n].float() for n in moving], 1 - decay
    )


def save_atomically(state: object, path: Path) -> None:
    """Write a torch file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)
