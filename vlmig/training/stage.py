"""One stage: the losses of each step, and the measurements between steps."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlmig.data.index import check_share
from vlmig.io.rows import Bad
from vlmig.predict.predictor import VLMIG
from vlmig.training.batches import Batch, Batches
from vlmig.training.images import Loaded
from vlmig.training.loop import fit, trainable
from vlmig.training.material import Material
from vlmig.training.model import choose_trained, count_parameters, frozen_digest, set_modes, start
from vlmig.training.objective import Objective
from vlmig.training.recipe import Stage
from vlmig.training.session import Session
from vlmig.training.texts import IGNORED

logger = logging.getLogger(__name__)


TRAINED = "trained.safetensors"


def _stage(session: Session, number: int, data: Material) -> dict[str, Any]:
    """Run one stage, or the rest of it; return its entry in the model card."""
    stage, network = session.recipe.stages[number], session.model.model
    if not session.sharded:  # accelerate itself moves what it shards
        network.to(session.accelerator.device)
    choose_trained(network, stage.trains, stage.lora)
    before = frozen_digest(network)
    counts = count_parameters(network)
    parameters = sum(counted[0] for counted in counts.values())
    shares = ", ".join(f"{component} {n[0]:,} of {sum(n):,}" for component, n in counts.items())
    logger.info("stage %s trains %s parameters (%s)", stage.name, f"{parameters:,}", shares)
    steps = Steps(session, number, stage, data)
    log, prepared = fit(
        Objective(network, stage.alignment, stage.among_text),
        steps.losses,
        stage.model_copy(update={"steps": data.steps}),
        session.folder / stage.name,
        accelerator=session.accelerator,
        measure=steps.measure,
        save_seconds=session.recipe.save_seconds,
        log_every=session.recipe.log_every,
    )
    if session.sharded:
        session.model = _gathered(session, number, prepared)
    elif frozen_digest(network) != before:
        raise RuntimeError(
            f"stage {stage.name} changed frozen parameters: expected only {stage.trains} to train"
        )
    measured = [line for line in log if "validation" in line or "probe" in line]
    return {
        "name": stage.name,
        "steps": data.steps,
        "batch": stage.batch,
        "learning_rate": stage.learning_rate,
        "trains": stage.trains,
        "parameters": parameters,
        "data": data.summaries,
        "measured": measured[-1] if measured else {},
    }


def _gathered(session: Session, number: int, prepared: nn.Module) -> VLMIG:
    """Rebuild a model that FSDP has sharded: gather what was trained, load the frozen rest
    again."""
    accelerator, stages = session.accelerator, session.recipe.stages[: number + 1]
    state = accelerator.get_state_dict(prepared)  # whole on the main process
    if accelerator.is_main_process:
        weights = {name: state[name].contiguous() for name in trainable(prepared) if name in state}
        save_file(weights, session.folder / stages[-1].name / TRAINED)
    accelerator.wait_for_everyone()
    model = start(session.recipe, session.model.imagination.store)
    for stage in stages:
        choose_trained(model.model, stage.trains, stage.lora)
        Objective(model.model).load_state_dict(
            load_file(session.folder / stage.name / TRAINED), strict=False
        )
    accelerator.wait_for_everyone()  # the files go when the run is over
    return model


ENOUGH = 100
"""Images that are read in live training before their share of bad ones is judged."""


class Steps:
    """The losses of each step, and the measurements between steps."""

    def __init__(self, session: Session, number: int, stage: Stage, data: Material) -> None:
        self.session, self.number, self.stage, self.data = session, number, stage, data
        self.device = session.accelerator.device
        self._ahead: Any = None
        self._next = -1
        self.count, self.bad = 0, Counter[str]()

    def _drawn(self, step: int) -> list[Batch]:
        """Return this process's micro-batches of a step; worker processes read them ahead."""
        if self.session.recipe.workers == 0:
            return self.data.batches[step]
        if step != self._next:
            steps = range(step, self.data.steps)
            self._ahead = iter(
                DataLoader(
                    self.data.batches,
                    None,
                    sampler=steps,  # type: ignore[arg-type]
                    num_workers=self.session.recipe.workers,
                    generator=torch.Generator(),  # or it would draw from the one that dropout uses
                    worker_init_fn=lambda _: self.session.model.imagination.store.open(),
                )
            )
        self._next = step + 1
        return next(self._ahead)

    def losses(self, module: nn.Module, step: int) -> list[Callable[[], Tensor]]:
        """Return a function for each micro-batch; their losses add up to the batch's mean per
        token.

        The batch is that of all processes.
        """
        process = self.session.accelerator.process_index
        entropy = (self.session.recipe.seed, self.number, step, process)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        with self.session.stopwatch("data"):
            batches = self._drawn(step)
        self._judge(batches)
        counts = torch.tensor(sum(batch.texts.count for batch in batches), device=self.device)
        processes = self.session.accelerator.num_processes  # gradients are averaged over them
        scale = processes / max(1, int(self.session.accelerator.reduce(counts).item()))

        def loss(batch: Batch) -> Tensor:
            with self.session.stopwatch("pictures"):
                features = self.session.images.features(batch.images).to(self.device)
            return module(batch.texts.to(self.device), features)["own"] * scale

        return [partial(loss, batch) for batch in batches]

    def _judge(self, batches: Sequence[Batch]) -> None:
        """Count images that could not be read, and stop if there are too many."""
        bad: list[Bad] = []
        for batch in batches:
            bad += batch.bad
            self.count += len(batch.images) + len(batch.bad)
        self.bad.update(one.reason for one in bad)
        if bad and not self.session.images.stored:
            self.data.note_bad(bad)
            if self.count >= ENOUGH:
                most, listed = self.session.recipe.max_bad, self.data.bad_list
                check_share(self.bad, self.count, most, "images", listed)

    def measure(self, module: nn.Module, step: int) -> dict[str, Any]:
        """Measure held-out losses and probe tasks if they are due; an empty mapping otherwise."""
        if step % self.session.recipe.validation.every and step != self.data.steps:
            return {}
        network = self.session.model.model
        network.eval()
        measured: dict[str, Any] = {}
        if self.data.held_out is not None:
            measured["validation"] = self._validation(module, self.data.held_out)
        if self.session.probe is not None and not self.session.sharded:
            measured["probe"] = self.session.probe(self.session.model)
        set_modes(network, self.stage.trains)
        return measured

    @torch.no_grad()
    def _validation(self, module: nn.Module, held_out: Batches) -> dict[str, float]:
        """Return the held-out losses per token.

        They are: with the pair's images, with the next pair's, with blank ones, and of the text
        alone.
        """
        accelerator, total = self.session.accelerator, len(held_out.order)
        # As many on every process; the excess repeats the first samples and does not count.
        each = math.ceil(total / accelerator.num_processes)
        start = accelerator.process_index * each
        sums, count = torch.zeros(4, device=self.device), torch.zeros((), device=self.device)
        names: tuple[str, ...] = ()
        for first in range(start, start + each, held_out.micro):
            last = min(first + held_out.micro, start + each)
            positions = [position % total for position in range(first, last + 1)]
            batch, shifted = held_out.batch(positions[:-1]), held_out.batch(positions[1:])
            alone = batch.texts
            if held_out.tokens.early:
                alone = held_out.tokens.batch(batch.pairs, alone=True)
            for texts in (batch.texts, alone):
                texts.labels[max(0, total - first) :] = IGNORED
            images, shuffled = self.session.images, exchanged(batch.images, shifted.images)
            losses = module(
                batch.texts.to(self.device),
                images.features(batch.images).to(self.device),
                images.features(shuffled).to(self.device),
                alone.to(self.device),
            )
            names = tuple(losses)
            sums += torch.stack([loss.float() for loss in losses.values()])
            count += batch.texts.count
        sums, count = accelerator.reduce(sums), accelerator.reduce(count)
        return {name: round(float(loss / count), 6) for name, loss in zip(names, sums, strict=True)}


def exchanged(
    rows: Sequence[Sequence[Loaded]], other_rows: Sequence[Sequence[Loaded]]
) -> list[list[Loaded]]:
    """Replace each row's images by as many of another row's; by None where that has none."""
    replaced = []
    for row, other in zip(rows, other_rows, strict=True):
        images = other or [None]
        replaced.append([images[i % len(images)] for i in range(len(row))])
    return replaced
