"""The losses of each step, and what is measured between steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlmig.data.index import check_share
from vlmig.training.batches import Batch
from vlmig.training.material import Material
from vlmig.training.parts import choose_trained
from vlmig.training.recipe import Stage
from vlmig.training.session import Session

SEEN = 100
"""Pictures that are read live before their share of bad ones is judged."""


class Steps:
    """The losses of each step, and what is measured between steps."""

    def __init__(self, session: Session, data: Material, stage: Stage) -> None:
        self.session, self.data, self.stage = session, data, stage
        self.device = session.accelerator.device
        self._coming: Any = None
        self._next = -1
        self.seen, self.bad = 0, Counter[str]()

    def _drawn(self, step: int) -> list[Batch]:
        """Return this process's micro-batches of a step; with workers, read ahead by them."""
        if self.session.recipe.workers == 0:
            return self.data.batches[step]
        if step != self._next:
            coming = range(step, self.data.steps)
            self._coming = iter(
                DataLoader(
                    self.data.batches,
                    None,
                    sampler=coming,  # type: ignore[arg-type]
                    num_workers=self.session.recipe.workers,
                    worker_init_fn=lambda _: self.session.model.imagination.store.open(),
                )
            )
        self._next = step + 1
        return next(self._coming)

    def losses(self, module: nn.Module, step: int) -> list[Callable[[], Tensor]]:
        """Return each micro-batch's part of the mean loss per token of the whole batch, over all processes."""
        with self.session.stopwatch("data"):
            batches = self._drawn(step)
        self._judge(batches)
        counts = torch.tensor(sum(batch.texts.count for batch in batches), device=self.device)
        processes = self.session.accelerator.num_processes  # gradients are averaged over them
        scale = processes / max(1, int(self.session.accelerator.reduce(counts).item()))

        def loss(batch: Batch) -> Tensor:
            with self.session.stopwatch("pictures"):
                features = self.session.pictures.see(batch.looked).to(self.device)
            return module(batch.texts.to(self.device), features)["own"] * scale

        return [lambda batch=batch: loss(batch) for batch in batches]  # type: ignore[misc]

    def _judge(self, batches: Sequence[Batch]) -> None:
        """Count pictures that could not be read, and stop where they are too many."""
        bad = [one for batch in batches for one in batch.bad]
        self.seen += sum(len(batch.looked) for batch in batches) + len(bad)
        self.bad.update(one.reason for one in bad)
        if bad and not self.session.pictures.stored:
            self.data.note_bad(bad)
            if self.seen >= SEEN:
                check_share(
                    self.bad, self.seen, self.session.recipe.max_bad, f"pictures (listed in {self.data.bad_list})"
                )

    def measure(self, module: nn.Module, step: int) -> dict[str, Any]:
        """Measure held-out losses and probe tasks where it is time to; nothing otherwise."""
        if step % self.session.recipe.validation.every and step != self.data.steps:
            return {}
        network = self.session.model.model
        network.eval()
        measured: dict[str, Any] = {}
        if self.data.aside is not None:
            measured["validation"] = self._validation(module)
        if self.session.probe is not None:
            measured["probe"] = self.session.probe(self.session.model)
        choose_trained(network, self.stage.trains, self.stage.lora)
        return measured

    @torch.no_grad()
    def _validation(self, module: nn.Module) -> dict[str, float]:
        """Return the held-out loss per token: text alone, beside the own, a shuffled and the empty picture."""
        accelerator = self.session.accelerator
        order, batches = self.data.held_out, self.data.aside
        own = range(accelerator.process_index, len(order), accelerator.num_processes)  # type: ignore[arg-type]
        sums: dict[str, Tensor] = {}
        count = torch.zeros((), device=self.device)
        for start_ in range(0, len(own), batches.micro):  # type: ignore[union-attr]
            batch = batches.batch(own[start_ : start_ + batches.micro])  # type: ignore[union-attr]
            features = self.session.pictures.see(batch.looked).to(self.device)
            losses = module(batch.texts.to(self.device), features, features.roll(1, 0))
            sums = {name: sums.get(name, 0.0) + loss.float() for name, loss in losses.items()}
            count += batch.texts.count
        total = accelerator.reduce(torch.stack([*sums.values(), count]))
        return {name: round(float(loss / total[-1]), 6) for name, loss in zip(sums, total[:-1], strict=True)}
