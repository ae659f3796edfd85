"""The one training loop: accelerate, a schedule, a log, and exact resume.

A step's batch depends on its number alone, so an interrupted run continues with the batch it would
have had. The state is a folder that appears only when it is complete.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm
from transformers import get_scheduler

from vlmig.errors import VLMIGError, one_line
from vlmig.io.atomic import write_text
from vlmig.io.weights import written
from vlmig.training.recipe import Optimization

logger = logging.getLogger(__name__)

STATE = "state"
LOG, TIMES = "log.jsonl", "times.jsonl"
Losses = Callable[[nn.Module, int], Sequence[Callable[[], Tensor]]]
"""(prepared module, step) -> a function for each micro-batch; their losses add up to the
batch's."""


def fit(
    module: nn.Module,
    losses: Losses,
    settings: Optimization,
    folder: Path,
    *,
    accelerator: Accelerator | None = None,
    measure: Callable[[nn.Module, int], dict[str, Any]] | None = None,
    save_seconds: float = 120.0,
    log_every: int = 1,
) -> tuple[list[dict[str, Any]], nn.Module]:
    """Minimize a loss over the parameters of ``module`` that require gradients.

    Args:
        losses: makes the losses of one step; its randomness, dropout included, must depend on the
            step's number alone.
        folder: for ``log.jsonl`` (a line per logged step) and the state to resume from.
        accelerator: this process alone, on the CPU, when None.
        measure: called with the prepared module and the number of steps run, before the first and
            after every step; its result is logged.

    Returns:
        The log, interrupted parts included, and the prepared module.

    Raises:
        VLMIGError: the loss is not finite; no such schedule.
        KeyboardInterrupt: the process got a signal to stop; its state is saved.
    """
    accelerator = accelerator or Accelerator(cpu=True)
    run = Loop(module, settings, folder, accelerator)
    run.resume()
    quiet = not accelerator.is_main_process
    bar = tqdm(initial=run.step, total=run.total, desc=folder.name, unit=" steps", disable=quiet)
    with bar, _signals() as signals:
        if run.step == 0 and measure is not None:
            run.note({"step": 0, **measure(run.module, 0)})
        saved = time.monotonic()
        while run.step < run.total:
            rate = run.rate
            due = time.monotonic() - saved > save_seconds
            loss, norm, stop, save = run.advance(losses, bool(signals), due)
            line = {"step": run.step, "loss": loss, "gradient_norm": norm, "learning_rate": rate}
            measured = measure(run.module, run.step) if measure is not None else {}
            if measured or run.step % log_every == 0 or run.step == run.total:
                run.note(line | measured)
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()
            if save or stop or run.step == run.total:
                run.save()
                saved = time.monotonic()
            if stop:
                raise KeyboardInterrupt
    run.finish()
    return run.log, run.module


class Loop:
    """A module with its optimizer, schedule, moving average and log."""

    def __init__(
        self, module: nn.Module, settings: Optimization, folder: Path, accelerator: Accelerator
    ) -> None:
        self.settings, self.folder, self.accelerator = settings, folder, accelerator
        self.step, self.total = 0, settings.steps or 0
        self.log: list[dict[str, Any]] = []
        optimizer, schedule = optimizer_for(list(trainable(module).values()), settings)
        accelerator.free_memory()  # of an earlier stage
        accelerator._custom_objects.clear()
        self.module, self.optimizer = accelerator.prepare(module, optimizer)
        self.trained = list(trainable(self.module).values())  # sharding replaces them
        self.average = [p.detach().clone() for p in self.trained] if settings.average else []
        self.schedule = schedule  # not prepared: accelerate would advance it once per process
        self._hooks = (
            accelerator.register_save_state_pre_hook(self._save_trained),
            accelerator.register_load_state_pre_hook(self._load_trained),
        )
        accelerator.register_for_checkpointing(self)

    @property
    def rate(self) -> float:
        """Return the learning rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def advance(self, losses: Losses, stop: bool, save: bool) -> tuple[float, float, bool, bool]:
        """Run one step.

        Args:
            stop: whether this process should stop.
            save: whether this process should save its state.

        Returns:
            The loss, the norm of the gradients, and whether any process should stop or save.
        """
        micro_losses = losses(self.module, self.step)
        total = torch.zeros((), device=self.accelerator.device)
        for i, micro_loss in enumerate(micro_losses):
            last = i == len(micro_losses) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.module):
                loss = micro_loss()
                self.accelerator.backward(loss)
            total += loss.detach()
        flags = torch.tensor([float(stop), float(save)], device=self.accelerator.device)
        figures = torch.cat([total[None].float(), flags])
        mean, stops, saves = self.accelerator.reduce(figures, "mean").tolist()
        clip = self.settings.clip or math.inf
        norm = float(whole(self.accelerator.clip_grad_norm_(self.trained, clip)))
        # fp16 detects infinite gradients and skips the step.
        scaled = self.accelerator.scaler is not None
        if not math.isfinite(mean) or not (math.isfinite(norm) or scaled):
            raise VLMIGError(
                f"the loss of step {self.step + 1} is {mean}, its gradient {norm}; lower "
                "learning_rate or clip, or use precision: bf16 or fp32, with another --out"
            )
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        if self.settings.average:
            decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.trained], 1 - decay)
        self.step += 1
        return mean, norm, stops > 0, saves > 0

    def note(self, line: dict[str, Any]) -> None:
        """Add a line to the log."""
        self.log.append(line)
        figures = {name: value for name, value in line.items() if name != "step"}
        self.accelerator.log(flat(figures, f"{self.folder.name}/"), step=line["step"])
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                print(json.dumps(line), file=file)
            # Apart from the log, which a resumed run writes again to the letter.
            with (self.folder / TIMES).open("a", encoding="utf-8") as file:
                print(json.dumps({"step": line["step"], "time": time.time()}), file=file)

    def save(self) -> None:
        """Write the state to a new folder, then remove the old one."""
        new = self.folder / f"{STATE}-{self.step}"
        partial = new.with_suffix(".part")
        if self.accelerator.is_main_process:
            for unfinished in self.folder.glob(f"{STATE}-*.part"):  # a kill left them
                shutil.rmtree(unfinished)
            with (self.folder / LOG).open("rb") as file:  # the log must reach as far as the state
                os.fsync(file.fileno())
        self.accelerator.wait_for_everyone()
        try:
            with written(new):
                self.accelerator.save_state(str(partial))
        except VLMIGError:
            shutil.rmtree(partial, ignore_errors=True)  # it would take the room that there is
            raise
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(new, ignore_errors=True)
            partial.replace(new)
            for _, old in _states(self.folder)[:-1]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Continue from the newest state, and drop what was logged after it."""
        states, log = _states(self.folder), self.folder / LOG
        if states:
            self.accelerator.load_state(str(states[-1][1]))
            logger.info("%s: resumed at step %d of %d", self.folder.name, self.step, self.total)
            self.log = [line for line in _logged(log) if line["step"] <= self.step]
        if self.accelerator.is_main_process and log.exists():
            write_text(log, (json.dumps(line) + "\n" for line in self.log))
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """Put the moving average into the module, and remove the hooks from the accelerator."""
        for p, value in zip(self.trained, self.average, strict=False):
            p.data.copy_(value)
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that accelerate does not keep."""
        return {"step": self.step, "average": self.average, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.step = state["step"]
        for average, value in zip(self.average, state["average"], strict=True):
            average.copy_(value)
        self.schedule.load_state_dict(state["schedule"])

    def _save_trained(
        self, models: list[nn.Module], weights: list[dict[str, Tensor]], _: str
    ) -> None:
        """Save only what is trained: the frozen LM is large and can be loaded again."""
        for model, state in zip(models, weights, strict=False):
            for name in state.keys() - trainable(model).keys():
                del state[name]

    def _load_trained(self, models: list[nn.Module], folder: str) -> None:
        from safetensors.torch import load_file

        path = Path(folder) / "model.safetensors"
        if not path.exists():  # sharded: FSDP and DeepSpeed load their shards
            return
        saved = load_file(path)
        for name, parameter in trainable(models.pop()).items():
            parameter.data.copy_(saved[name])


def optimizer_for(
    parameters: list[nn.Parameter], settings: Optimization
) -> tuple[torch.optim.Optimizer, Any]:
    """Make AdamW and its schedule.

    Raises:
        VLMIGError: values that they do not take.
    """
    options = dict(settings.schedule_options)
    if settings.schedule == "cosine_with_min_lr" and not options:
        options = {"min_lr_rate": 0.02}
    steps = settings.steps or 1
    try:
        first, second = settings.betas
        rate, decay = settings.learning_rate, settings.weight_decay
        optimizer = torch.optim.AdamW(parameters, rate, (first, second), weight_decay=decay)
        schedule = get_scheduler(
            settings.schedule, optimizer, int(steps * settings.warmup), steps, options
        )
        if not isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
            raise ValueError("it needs more than the step's number")
    except (TypeError, ValueError) as error:
        reason = one_line(error, whole=True)
        raise VLMIGError(
            f"schedule {settings.schedule} with learning_rate={settings.learning_rate}, "
            f"betas={settings.betas}, options {settings.schedule_options or 'none'}: {reason}; "
            "expected a schedule of transformers.get_scheduler, such as linear, cosine or "
            "constant_with_warmup"
        ) from error
    return optimizer, schedule


def flat(line: dict[str, Any], prefix: str) -> dict[str, float]:
    """Flatten a line for trackers, with names such as ``stage/validation/own``."""
    figures: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, dict):
            figures |= flat(value, f"{prefix}{name}/")
        else:
            figures[prefix + name] = value
    return figures


def whole(value: Any) -> Any:
    """Return a number or tensor whole, if FSDP has sharded it."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that train, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _states(folder: Path) -> list[tuple[int, Path]]:
    """List complete states by step, oldest first."""
    states = []
    for path in folder.glob(f"{STATE}-*"):
        if path.suffix != ".part":
            states.append((int(path.name.rpartition("-")[2]), path))
    return sorted(states)


def _logged(path: Path) -> Iterator[dict[str, Any]]:
    """Read a log up to a line that a kill cut off."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect signals to stop, so that the step can be finished and saved; a second one stops at
    once."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread can listen
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
