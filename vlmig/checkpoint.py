"""Saving and loading: a checkpoint is a folder with ``config.json`` and the adapter's weights, and nothing else twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from vlmig.config import VLMIGConfig
from vlmig.errors import VLMIGError
from vlmig.modeling import VLMIGForCausalLM, check_head

WEIGHTS = "model.safetensors"
POCKET = Path(__file__).parent / "pocket" / "model"


def resolve_checkpoint(name: str | Path) -> Path:
    """Find a checkpoint's folder: ``pocket``, a folder, or a hub id.

    Raises:
        VLMIGError: nothing of that name, or a folder that is no checkpoint.
    """
    folder = POCKET if str(name) == "pocket" else Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(name)))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise VLMIGError(
                f"no checkpoint {name}: not 'pocket', not a folder, not reachable as a hub id; check the name, or pass a folder"
            ) from error
    for file in ("config.json", WEIGHTS):
        if not (folder / file).is_file():
            raise VLMIGError(
                f"{folder} has no {file}; expected a vlmig checkpoint: config.json and {WEIGHTS} with projector and fusion"
            )
    return folder


def load_model(folder: Path, **kwargs: Any) -> VLMIGForCausalLM:
    """Load base LM and adapter; ``kwargs`` (dtype, device_map, ...) go to the base LM.

    Raises:
        VLMIGError: weights are missing, superfluous or of another shape; the base LM cannot be loaded.
    """
    config = VLMIGConfig.from_pretrained(folder)
    language_model = load_language_model(
        config.locate(config.language_model, folder), config.language_model_revision, **kwargs
    )
    model = VLMIGForCausalLM(config, language_model)
    load_adapter(model, load_file(folder / WEIGHTS), folder)
    return model.to(language_model.dtype).eval()


def load_language_model(name: str, revision: str | None = None, **kwargs: Any) -> Any:
    """Load a causal LM of transformers in fp32 unless ``dtype`` says otherwise, and check that late fusion fits it."""
    try:
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision, **{"dtype": torch.float32, **kwargs})
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise VLMIGError(
            f"cannot load the language model {name}: {reason}; expected a hub id or folder of a causal LM"
        ) from error
    check_head(model)
    return model.eval()


def load_adapter(model: VLMIGForCausalLM, weights: dict[str, Tensor], source: Path) -> None:
    """Put adapter weights into a model, strictly.

    Raises:
        VLMIGError: names or shapes differ.
    """
    own = model.adapter_state()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        raise VLMIGError(
            f"adapter weights of {source} do not fit: missing {missing or 'none'}, unknown {extra or 'none'}; load the checkpoint with the config it was saved with"
        )
    for name, value in weights.items():
        if own[name].shape != value.shape:
            raise VLMIGError(
                f"adapter weight {name} of {source} has shape {tuple(value.shape)}, the config asks for {tuple(own[name].shape)}; load it with its own config"
            )
        own[name].copy_(value)


def save_checkpoint(model: VLMIGForCausalLM, folder: Path, card: str) -> None:
    """Write config, adapter weights and model card; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().float().contiguous().cpu() for name, value in model.adapter_state().items()}
    part = folder / (WEIGHTS + ".part")
    save_file(weights, part, metadata={"format": "pt"})
    os.replace(part, folder / WEIGHTS)
    model.config.save_pretrained(folder)
    write_text(folder / "README.md", card)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
