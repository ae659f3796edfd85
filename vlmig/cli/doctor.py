"""``vlmig doctor``: installed versions, devices, and where each component comes from."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

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


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [options]"
    text = "pocket, smollm2, a checkpoint folder or a hub id (default: %(default)s)"
    parser.add_argument("--model", default="pocket", help=text)


def run(arguments: argparse.Namespace) -> None:
    import torch

    from vlmig.imagination.store import default_store
    from vlmig.report.text_table import text_table
    from vlmig.runtime import installed

    cores = f"cpu ({torch.get_num_threads()} threads)"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows = [("python", platform.python_version())]
    for package in PACKAGES:
        rows.append((package, installed(package) or f"missing: pip install {package}"))
    rows += [("devices", ", ".join([cores, *gpus])), ("feature store", str(default_store()))]
    print(text_table([*rows, *_checkpoint(arguments.model)], "<<"))


def _checkpoint(name: str) -> list[tuple[str, str]]:
    """Describe a checkpoint: its components, the image source's sampling, the mixture."""
    import torch

    from vlmig.imagination.sources.build import kind_and_place, sampling_of
    from vlmig.models.checkpoint import resolve_checkpoint
    from vlmig.models.config import VLMIGConfig

    folder = resolve_checkpoint(name)
    config = VLMIGConfig.from_pretrained(folder)
    untrained = "" if config.trained else " (adapter untrained: not to be evaluated)"
    rows = [
        ("checkpoint", f"{folder}{untrained}"),
        ("language model", _origin(config.language_model, folder)),
        ("vision encoder", _origin(config.vision_encoder, folder)),
        ("generator", _origin(config.imaginer, folder)),
    ]
    if kind_and_place(config.imaginer, folder)[0] in ("diffusion", "prior"):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        sampling = sampling_of(config, folder, device)
        text = f"{sampling.steps} steps, guidance {sampling.guidance}, {sampling.size} pixels, "
        rows.append(("sampling", f"{text}batches of {sampling.batch}"))
    text = f"{config.mix}, weights {config.weights}, "
    rows.append(("mixture", f"{text}strength {config.strength}, doubt {config.doubt}"))
    return rows


def _origin(component: str, folder: Path) -> str:
    """Say where a component comes from, and whether it is there."""
    from vlmig.imagination.sources.build import kind_and_place
    from vlmig.models.config import VLMIGConfig

    kind, location = kind_and_place(component, folder)
    if kind in ("text", "blank"):
        return f"{component} (built in)"
    if kind == "http":
        return f"{component} (a server)"
    if Path(location).exists():
        form = "folder" if Path(location).is_dir() else "file"
        return f"{VLMIGConfig.locate(component, folder)} (local {form})"
    inside = component.rpartition(":")[2].startswith("./")
    state = "missing: fetch the checkpoint again" if inside else "from the hub or its cache"
    return f"{component} ({state})"
