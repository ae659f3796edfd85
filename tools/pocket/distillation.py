"""Few steps without guidance: a student walks a quarter of the way at once (progressive
distillation; Salimans and Ho, 2202.00512), where its teacher took two guided steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tools.pocket.autoencoder import encode_pool
from tools.pocket.groups import load_groups
from tools.pocket.loop import Schedule, train
from tools.pocket.transformer import (
    BATCH,
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
    latents, grouped = encode_pool(out, work), load_groups(out, work, groups)
    concepts = load_concepts()
    teacher, tokenizer = build_model(work)
    student, _ = build_model(work)
    trained = torch.load(work / "transformer.pt", weights_only=True)["average"]
    for model in (teacher, student):
        model.load_state_dict(trained)
    teacher.requires_grad_(False)
    student["text"].requires_grad_(False)
    old, new = velocity_of(teacher["transformer"]), velocity_of(student["transformer"])

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((41, step))
        clean, captions = training_batch(latents, concepts, rng, 0.0, grouped)
        begin = torch.from_numpy(rng.integers(0, STEPS, BATCH)).float() / STEPS
        noisy = torch.lerp(torch.randn_like(clean), clean, begin.view(-1, 1, 1, 1))
        with cpu_autocast():
            with torch.no_grad():
                told = read_texts(teacher["text"], tokenizer, captions)
                untold = read_texts(teacher["text"], tokenizer, [""] * len(captions))
                target = guided_velocity(old, noisy, begin, told, untold)
            predicted = new(noisy, begin, *told)
        return F.mse_loss(predicted.float(), target)

    optimizers = build_optimizers(student, RATE)
    averaged = train(student, loss_at, optimizers, student_schedule(steps), work / "distilled.pt")
    student.load_state_dict(averaged)
    tokenizer.model_max_length = 256
    save_pipeline(out, student, tokenizer, scheduler_steps=STEPS)


def student_schedule(steps: int) -> Schedule:
    """Return how a student's learning rate goes."""
    return Schedule(steps, decay_from=0.3, average=0.99)


def guided_velocity(
    velocity: Velocity,
    noisy: Tensor,
    begin: Tensor,
    told: tuple[Tensor, Tensor],
    untold: tuple[Tensor, Tensor],
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
