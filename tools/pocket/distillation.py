"""Few steps without guidance: a student walks a quarter of the way at once (progressive
distillation; Salimans and Ho, 2202.00512), where its teacher took two guided steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTokenizer

from tools.pocket.autoencoder import encode_pool
from tools.pocket.groups import Groups, load_groups
from tools.pocket.loop import Schedule, train
from tools.pocket.transformer import (
    BATCH,
    Texts,
    Velocity,
    build_model,
    build_optimizers,
    read_texts,
    save_pipeline,
    training_batch,
    velocity_of,
)
from vlmig.pocket.concepts import load_concepts
from vlmig.runtime import cpu_autocast

STEPS = 4
"""Steps of the student."""
TEACHER_STEPS = 2
"""Steps of the teacher for one of the student."""
GUIDANCE = 2.5
RATE = 0.2
"""Of the learning rates of training: the student begins as its teacher."""


def train_student(out: Path, work: Path, *, steps: int, groups: float = 0.0) -> None:
    """Train the student of the transformer's last checkpoint and save it as a pipeline.

    The text encoder stays as it is.

    Args:
        groups: as the generator was trained, see ``train_generator``.
    """
    teacher, tokenizer = build_model(work)
    student, _ = build_model(work)
    trained = torch.load(work / "transformer.pt", weights_only=True)["average"]
    for model in (teacher, student):
        model.load_state_dict(trained)
    velocity = velocity_of(teacher["transformer"])

    def target_of(noisy: Tensor, begin: Tensor, captions: list[str], told: Texts) -> Tensor:
        untold = read_texts(teacher["text"], tokenizer, [""] * len(captions))
        return guided_velocity(velocity, noisy, begin, told, untold)

    batches = Batches(encode_pool(out, work), load_groups(out, work, groups))
    fit_student(student, tokenizer, target_of, batches, steps=steps, path=work / "distilled.pt")
    tokenizer.model_max_length = 256
    save_pipeline(out, student, tokenizer, scheduler_steps=STEPS)


class Batches(NamedTuple):
    """What a student is taught with."""

    latents: Tensor
    """From ``encode_pool``."""
    groups: Groups | None


Target = Callable[[Tensor, Tensor, list[str], Texts], Tensor]
"""(noisy latents, their times, captions, the captions as the student reads them) -> velocities."""


def fit_student(
    student: nn.ModuleDict,
    tokenizer: CLIPTokenizer,
    target_of: Target,
    batches: Batches,
    *,
    steps: int,
    path: Path,
) -> None:
    """Train a student to predict its targets, and give it the average of its weights. Its text
    encoder stays.

    Args:
        path: the checkpoint.
    """
    student["text"].requires_grad_(False)
    velocity, concepts = velocity_of(student["transformer"]), load_concepts()

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((41, step))
        clean, captions = training_batch(batches.latents, concepts, rng, 0.0, batches.groups)
        begin = torch.from_numpy(rng.integers(0, STEPS, BATCH)).float() / STEPS
        noisy = torch.lerp(torch.randn_like(clean), clean, begin.view(-1, 1, 1, 1))
        with cpu_autocast():
            with torch.no_grad():
                told = read_texts(student["text"], tokenizer, captions)
                target = target_of(noisy, begin, captions, told)
            predicted = velocity(noisy, begin, *told)
        return F.mse_loss(predicted.float(), target)

    schedule = Schedule(steps, decay_from=0.3, average=0.99)
    student.load_state_dict(
        train(student, loss_at, build_optimizers(student, RATE), schedule, path)
    )


def guided_velocity(
    velocity: Velocity,
    noisy: Tensor,
    begin: Tensor,
    told: Texts,
    untold: Texts,
) -> Tensor:
    """Walk one step of the student in the teacher's guided steps and return the mean velocity.

    Args:
        velocity: the teacher's, as ``velocity_of`` returns it.
        noisy: (B, 8, H, W) at the times ``begin``, (B,).
        told, untold: states and mask of the captions and of empty ones.
    """
    length = 1 / (STEPS * TEACHER_STEPS)
    here, time = noisy, begin
    for _ in range(TEACHER_STEPS):
        empty = velocity(here, time, *untold).float()
        full = velocity(here, time, *told).float()
        here = here + length * (empty + GUIDANCE * (full - empty))
        time = time + length
    return (here - noisy) * STEPS
