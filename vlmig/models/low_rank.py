"""Low-rank layers (LoRA) of a base LM, by PEFT and in its format.

Not by transformers' ``add_adapter``: transformers 5.24 refuses every PEFT up to 0.21.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from vlmig.errors import VLMIGError, one_line
from vlmig.io.weights import read_weights

NAME = "default"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Prefix of the names of weights in PEFT's files."""


def has_low_rank(model: nn.Module) -> bool:
    """Tell whether a base LM has low-rank layers."""
    return any("lora_" in name for name, _ in model.named_parameters())


def add_low_rank(model: Any, arguments: dict[str, Any]) -> None:
    """Add low-rank layers to a base LM; only these are trainable.

    Args:
        arguments: of ``peft.LoraConfig``.

    Raises:
        VLMIGError: PEFT is not installed, or arguments that do not fit.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise VLMIGError("trains: lora needs peft; install it with pip install peft") from None
    try:
        config = LoraConfig(**arguments, base_model_name_or_path=model.name_or_path)
        inject_adapter_in_model(config, model, NAME)
    except (TypeError, ValueError) as error:
        raise VLMIGError(
            f"lora: {arguments} does not fit {type(model).__name__}: {one_line(error)}; "
            "expected arguments of peft.LoraConfig, such as {r: 8, target_modules: all-linear}"
        ) from error


def save_low_rank(model: Any, folder: Path) -> None:
    """Save only the low-rank layers; their configuration names the base LM.

    Raises:
        VLMIGError: they belong to a ``PeftModel`` around the whole model.
    """
    from peft import get_peft_model_state_dict

    if NAME not in getattr(model, "peft_config", {}):
        raise VLMIGError(
            "the base LM has low-rank layers of a PeftModel; expected merge_and_unload() before "
            "save_pretrained, or the PeftModel's own save_pretrained"
        )
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, value in get_peft_model_state_dict(model, adapter_name=NAME).items():
        weights[PREFIX + name] = value.detach().contiguous().cpu()
    save_file(weights, folder / WEIGHTS)
    model.peft_config[NAME].save_pretrained(folder)


def base_of(folder: str | Path) -> str | None:
    """Return the base LM of the low-rank layers in a folder; None if there are none."""
    if not (Path(folder) / CONFIG).is_file():
        return None
    from peft import PeftConfig

    return PeftConfig.from_pretrained(str(folder)).base_model_name_or_path


def load_low_rank(model: Any, folder: Path) -> None:
    """Load a folder's low-rank layers into their base LM, strictly and frozen.

    Raises:
        VLMIGError: missing or unknown weights.
    """
    from peft import (
        PeftConfig,
        get_peft_model_state_dict,
        inject_adapter_in_model,
        set_peft_model_state_dict,
    )

    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    inject_adapter_in_model(config, model, NAME)
    weights = {}
    for name, value in read_weights(folder / WEIGHTS).items():
        weights[name.removeprefix(PREFIX)] = value
    expected = get_peft_model_state_dict(model, adapter_name=NAME).keys()
    if missing := sorted(expected ^ weights.keys()):
        raise VLMIGError(
            f"{folder / WEIGHTS}: weights missing or unknown: {', '.join(missing[:3])}; "
            f"expected those of {CONFIG} beside it"
        )
    set_peft_model_state_dict(model, weights, adapter_name=NAME)
