"""The one training loop: AdamW, cosine schedule, checkpoints, exact resume.

Data are a function of the step (``loss_at(step)`` seeds itself), so an interrupted run continues with the very batch it
would have seen.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from vlmig.data.pairs import CaptionedFeatures
from vlmig.modeling import VLMIGForCausalLM

logger = logging.getLogger(__name__)


def fit(
    module: nn.Module,
    loss_at: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    checkpoint: Path,
    weight_decay: float = 0.01,
    ema_decay: float | None = None,
    checkpoint_seconds: float = 120.0,
) -> list[float]:
    """Minimise ``loss_at(step)`` over the parameters of ``module`` that require gradients.

    Args:
        loss_at: returns the scalar loss of one step; must draw its data from the step number alone.
        checkpoint: file to resume from and to save to; written atomically every ``checkpoint_seconds``.
        ema_decay: keep an exponential moving average and leave it in ``module`` at the end.

    Returns:
        The loss of every step run so far, interrupted ones included.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay)
    average = [p.detach().clone() for p in trained] if ema_decay else []
    losses: list[float] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for p, value in zip(trained, state["trained"], strict=True):
            p.data.copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        average, losses = state["average"], state["losses"]
        logger.info("%s: resumed at step %d of %d", checkpoint.stem, len(losses), steps)
    saved = time.monotonic()
    for step in range(len(losses), steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule(step, steps)
        torch.manual_seed(step)
        loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if ema_decay:
            decay = min(ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [p.detach() for p in trained], 1 - decay)
        if step % 100 == 99:
            logger.info("%s: step %d of %d, loss %.4f", checkpoint.stem, step + 1, steps, sum(losses[-100:]) / 100)
        if time.monotonic() - saved > checkpoint_seconds or step == steps - 1:
            state = {"trained": trained, "optimizer": optimizer.state_dict(), "average": average, "losses": losses}
            save_atomically(state, checkpoint)
            saved = time.monotonic()
    for p, value in zip(trained, average, strict=False):
        p.data.copy_(value)
    return losses


def cpu_autocast() -> torch.autocast:
    """Compute in bf16 where this CPU can; emulated bf16 takes ten times as long as fp32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())


def schedule(step: int, steps: int, warmup: float = 0.03) -> float:
    """Return the learning-rate factor: linear warm-up, then half a cosine down to 2 %."""
    ramp = max(1, int(steps * warmup))
    if step < ramp:
        return (step + 1) / ramp
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def save_atomically(state: object, path: Path) -> None:
    """Write a torch file so that a reader sees the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def train_adapter(
    model: VLMIGForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    pairs: CaptionedFeatures,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    checkpoint: Path,
    blank_share: float = 0.15,
) -> list[float]:
    """Train projector and fusion layer to predict captions beside their pictures (paper, equation 1).

    Args:
        blank_share: share of captions read beside the empty picture, so that the model learns what it says without
            evidence; ``mix="evidence"`` compares with it.
    """
    model.freeze_base()
    model.language_model.eval()
    end = tokenizer.eos_token or ""

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((17, step))
        features, captions = pairs.draw(rng, batch)
        features[torch.from_numpy(rng.random(batch) < blank_share)] = model.blank_features
        rows = tokenizer([caption + end for caption in captions], padding=True, return_tensors="pt")
        with torch.no_grad():
            base = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask, "use_cache": False}
            states = model.trunk(**base).last_hidden_state
        reading = model.prepare(states, rows.attention_mask)
        log_probs = next(model.image_log_probs(reading, features[:, None]))
        labels = rows.input_ids.masked_fill(rows.attention_mask == 0, -100)
        return F.nll_loss(log_probs[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    losses = fit(model, loss_at, steps=steps, learning_rate=learning_rate, checkpoint=checkpoint)
    model.config.trained = True
    return losses
