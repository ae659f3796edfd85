"""What a stage trains, and proof that nothing else moved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vlmig.errors import VLMIGError
from vlmig.low_rank import add_low_rank, has_low_rank
from vlmig.scoring import Model


def choose_trained(model: Model, parts: Sequence[str], lora: dict[str, Any]) -> None:
    """Let only the named parts train.

    Args:
        parts: of ``projector``, ``fusion``, ``language_model``, ``lora``.
        lora: arguments of ``peft.LoraConfig``; low-rank layers of an earlier stage stay, and train on where named again.

    Raises:
        VLMIGError: ``fusion`` where there is no such layer; ``lora`` without peft, or arguments that it does not take.
    """
    if "fusion" in parts and model.config.fusion == "prefix":
        raise VLMIGError(
            f"trains: {list(parts)} with fusion prefix, which has no layer of its own; expected projector, language_model or lora"
        )
    if "lora" in parts and not has_low_rank(model.language_model):
        add_low_rank(model.language_model, lora)
    model.requires_grad_(False)
    for part in set(parts) - {"lora"}:
        getattr(model, part).requires_grad_(True)
    for name, parameter in model.language_model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_("lora" in parts)
    set_modes(model, parts)


def set_modes(model: Model, parts: Sequence[str]) -> None:
    """Switch dropout on in what trains, and off in what only reads."""
    model.train()
    if not {"language_model", "lora"} & set(parts):
        model.language_model.eval()


def count_parameters(model: Model) -> dict[str, tuple[int, int]]:
    """Count the trained and the frozen parameters of projector, fusion layer and base LM."""
    counts = {}
    for part in ("projector", "fusion", "language_model"):
        parameters = list(getattr(model, part).parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        counts[part] = (trained, sum(p.numel() for p in parameters) - trained)
    return counts


def frozen_digest(module: nn.Module) -> str:
    """Digest every parameter that does not train, and every buffer."""
    digest = hashlib.sha256()
    # By place, not by name: a tied head trains with its embeddings.
    trained = {parameter.data_ptr() for parameter in module.parameters() if parameter.requires_grad}
    for name, value in module.state_dict().items():
        if value.device.type != "meta" and value.data_ptr() not in trained:
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
