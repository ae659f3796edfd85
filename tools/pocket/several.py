"""Teach a finished generator scenes of several things: it goes on from its student, and a student
of that keeps the images of one thing as they were."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import LuminaPipeline
from torch import Tensor, nn
from transformers import CLIPTokenizer

from tools.pocket.autoencoder import encode_pool
from tools.pocket.distillation import STEPS, Batches, fit_student, guided_velocity
from tools.pocket.groups import load_groups
from tools.pocket.loop import Schedule, train
from tools.pocket.transformer import (
    BATCH,
    UNCONDITIONAL,
    Texts,
    Velocity,
    build_optimizers,
    build_text_encoder,
    build_transformer,
    flow_loss,
    read_texts,
    save_pipeline,
    training_batch,
    velocity_of,
)
from vlmig.pocket.concepts import load_concepts

RATE = 0.5
"""Of the learning rates of training: it draws one thing already."""


def teach_several(
    out: Path, work: Path, *, steps: int, groups: float, student_steps: int, student_groups: float
) -> None:
    """Train the pipeline in ``out`` on, then a student of it, and replace the pipeline.

    Args:
        steps, groups: of training: its length, and the share of each batch with several things.
        student_steps, student_groups: of the student.
    """
    teacher = train_on(out, work, steps=steps, groups=groups)
    student = train_student(out, work, teacher, steps=student_steps, groups=student_groups)
    save_pipeline(out, student, load_generator(out)[1], scheduler_steps=STEPS)


def train_on(out: Path, work: Path, *, steps: int, groups: float) -> nn.ModuleDict:
    """Train transformer and text encoder of the pipeline in ``out`` on; return their average."""
    latents, grouped = encode_pool(out, work), load_groups(out, work, groups)
    concepts = load_concepts()
    model, tokenizer = load_generator(out)
    velocity = velocity_of(model["transformer"])

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((31, step))
        clean, captions = training_batch(latents, concepts, rng, UNCONDITIONAL, grouped)
        return flow_loss(velocity, model["text"], tokenizer, clean, captions)

    optimizers = build_optimizers(model, RATE)
    model.load_state_dict(train(model, loss_at, optimizers, Schedule(steps), work / "several.pt"))
    return model


def train_student(
    out: Path, work: Path, teacher: nn.ModuleDict, *, steps: int, groups: float
) -> nn.ModuleDict:
    """Train a student that begins as its teacher; return its average. The text encoder stays."""
    before, tokenizer = load_generator(out)
    student = copy.deepcopy(teacher)
    old, guided = velocity_of(before["transformer"]), velocity_of(teacher["transformer"])
    count = round(groups * BATCH)

    def target_of(noisy: Tensor, begin: Tensor, captions: list[str], told: Texts) -> Tensor:
        untold = read_texts(teacher["text"], tokenizer, [""] * count)
        single = read_texts(before["text"], tokenizer, captions[count:])
        return both_targets(old, guided, noisy, begin, told, untold, single)

    batches = Batches(encode_pool(out, work), load_groups(out, work, groups))
    path = work / "several_distilled.pt"
    fit_student(student, tokenizer, target_of, batches, steps=steps, path=path)
    return student


def load_generator(out: Path) -> tuple[nn.ModuleDict, CLIPTokenizer]:
    """Load transformer and text encoder of a pipeline, in full precision, and its tokenizer."""
    pipeline = LuminaPipeline.from_pretrained(out, torch_dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer", padding_side="right")
    model = nn.ModuleDict(
        {"transformer": build_transformer(), "text": build_text_encoder(tokenizer)}
    )
    model["transformer"].load_state_dict(pipeline.transformer.state_dict())
    model["text"].load_state_dict(pipeline.text_encoder.state_dict())
    return model, tokenizer


def both_targets(
    old: Velocity,
    guided: Velocity,
    noisy: Tensor,
    begin: Tensor,
    told: Texts,
    untold: Texts,
    single: Texts,
) -> Tensor:
    """Return what a student is to predict, (B, 8, H, W): for the first rows, which show several
    things, where two guided steps of the new teacher go; for the others, what the old student does.

    Args:
        old, guided: velocities of the old student and of the new teacher.
        noisy: latents at the times ``begin``, (B,).
        told: all captions, as the teacher reads them.
        untold: empty captions of the first rows.
        single: captions of the others, as the old student reads them.
    """
    count = len(untold[0])
    of_several = (told[0][:count], told[1][:count])
    walked = guided_velocity(guided, noisy[:count], begin[:count], of_several, untold)
    return torch.cat([walked, old(noisy[count:], begin[count:], *single).float()])
