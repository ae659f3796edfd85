"""What is installed, on which devices it would run, and where each component of a checkpoint comes from."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import torch

from vlmig.imagination.sources.build import kind_and_place, sampling_of
from vlmig.imagination.store import default_store
from vlmig.models.checkpoint import resolve_checkpoint
from vlmig.models.config import VLMIGConfig

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "diffusers",
    "open_clip_torch",
    "datasets",
    "accelerate",
    "safetensors",
)


def diagnose(name: str) -> str:
    """Describe this installation and one checkpoint, a line per fact; missing things say how to get them."""
    lines = [f"python            {platform.python_version()}"]
    for package in PACKAGES:
        try:
            lines.append(f"{package:<18}{metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package:<18}missing: pip install {package}")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines.append(f"devices           cpu ({torch.get_num_threads()} threads){''.join(', ' + d for d in devices)}")
    lines.append(f"feature store     {default_store()}")
    folder = resolve_checkpoint(name)
    config = VLMIGConfig.from_pretrained(folder)
    lines.append(f"checkpoint        {folder}{'' if config.trained else ' (adapter untrained: not to be evaluated)'}")
    parts = {
        "language model": config.language_model,
        "vision encoder": config.vision_encoder,
        "generator": config.imaginer,
    }
    for role, where in parts.items():
        lines.append(f"{role:<18}{_place(where, folder)}")
    if kind_and_place(config.imaginer, folder)[0] in ("diffusion", "prior"):
        sampling = sampling_of(config, folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        lines.append(
            f"sampling          {sampling.steps} steps, guidance {sampling.guidance}, {sampling.size} pixels, {sampling.batch} at a time"
        )
    lines.append(
        f"mixture           {config.mix}, weights {config.weights}, strength {config.strength}, doubt {config.doubt}"
    )
    return "\n".join(lines)


def _place(where: str, folder: Path) -> str:
    """Say where a component comes from, and whether it is there."""
    kind, place = kind_and_place(where, folder)
    if kind in ("text", "blank"):
        return f"{where} (built in)"
    if Path(place).is_dir():
        return f"{VLMIGConfig.locate(where, folder)} (local folder)"
    inside = where.rpartition(":")[2].startswith("./")
    return f"{where} ({'missing: fetch the checkpoint again' if inside else 'from the hub or its cache'})"
