"""Conversion of published checkpoints: the 2024 ``.bin`` files (whole state dicts, prefixed
``module.``), the 2026 folders.

Only projector and fusion layer were trained. The base LM is compared with the one named; everything
else is dropped and reported. The result is an ordinary checkpoint that computes as the published
code does (``protocol="reference"``).
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from vlmig.errors import VLMIGError, one_line
from vlmig.models.checkpoint import (
    absolute,
    describe_language_model,
    load_adapter,
    load_language_model,
)
from vlmig.models.config import REFERENCE, VLMIGConfig
from vlmig.models.convert.llava import convert_llava, is_llava
from vlmig.models.modeling import class_for
from vlmig.vision import VisionEncoder

logger = logging.getLogger(__name__)
PUBLISHED: dict[str, Any] = {
    **REFERENCE,
    "fusion": "decoder_layer",
    "vision_layer": -2,
    "imaginer_steps": 1,
    "imaginer_guidance": 0.0,
}
"""Settings that are fixed in the published code."""
PUBLISHED_VISION = "ViT-B-32/openai"
_PROJECTOR = re.compile(
    r"^(?:\w+\.)*(?:mm_|visual_|vision_)?proj(?:ector|ection)?"
    r"\.(linear_?1|linear_?2|fc1|fc2|0|2)\.(weight|bias)$"
)
_FIRST = ("linear1", "linear_1", "fc1", "0")
_FUSION = re.compile(r"^(?:\w+\.)*?fusion(?:_layer|_attention_layer)?\.(.+)$")
_UNUSED = re.compile(
    r"(embed_tokens|wte|word_embeddings|project_(in|out)|pooler\.dense)\.(weight|bias)$"
    r"|(rotary_emb\.inv_freq|\battn\.(masked_)?bias|position_ids|token_type_ids)$"
)
_LLAMA_BIAS = re.compile(r"mlp\.(gate|up|down)_proj\.bias$")


@dataclass
class Mapping:
    """Where each weight of a published checkpoint went."""

    adapter: dict[str, Tensor] = field(default_factory=dict)
    base: dict[str, Tensor] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    """Weights of the published fusion layer that no forward pass used."""


def read_published(source: Path) -> dict[str, Tensor]:
    """Read a ``.bin``, ``.pt`` or ``.safetensors`` file, or all files of a folder, without running
    code in them.

    Raises:
        VLMIGError: nothing to read, or a file with more than tensors.
    """
    if source.is_dir():
        files = sorted(source.glob("*.safetensors")) or sorted(source.glob("*.bin"))
    else:
        files = [source] if source.is_file() else []
    if not files:
        raise VLMIGError(
            f"no weights at {source}; expected a .bin, .pt or .safetensors file, or a folder of "
            "them"
        )
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                loaded = load_file(file)
            else:
                loaded = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
            raise VLMIGError(
                f"{file} is not a file of tensors only: {one_line(error)}; download it again"
            ) from error
        state |= {name.removeprefix("module."): value for name, value in loaded.items()}
    return state


def map_published(state: dict[str, Tensor]) -> Mapping:
    """Separate the weights of a published checkpoint, and rename the adapter's."""
    mapping = Mapping()
    for name, value in state.items():
        if match := _PROJECTOR.match(name):
            layer = 0 if match[1] in _FIRST else 2
            mapping.adapter[f"projector.layers.{layer}.{match[2]}"] = value
        elif match := _FUSION.match(name):
            if _UNUSED.search(match[1]) and "position_embeddings" not in name:
                mapping.dropped.append(name)
            else:
                mapping.adapter[f"fusion.block.{match[1]}"] = value
        else:
            mapping.base[name] = value
    return mapping


def convert(
    source: Path, out: Path, *, language_model: str | None, vision: str | None, generator: str
) -> list[str]:
    """Convert a published checkpoint.

    Args:
        source: the published file or folder; or a LLaVA of transformers, folder or hub id, which
            has all components.
        out: folder to write.
        language_model: hub id or folder of the base LM it was trained around; None for a LLaVA.
        vision: open_clip encoder; when None ViT-B-32/openai, as published, or the LLaVA's.
        generator: text-to-image pipeline; published results used stabilityai/sdxl-turbo.

    Returns:
        Lines on what was mapped, kept and dropped.

    Raises:
        VLMIGError: unreadable weights; no projector or fusion layer among them; weights that do not
            fit the base LM; components named for a LLaVA.
    """
    if is_llava(source):
        if language_model or vision:
            raise VLMIGError(
                f"--language-model and --vision for {source}; expected neither: a LLaVA has its own"
            )
        return convert_llava(source, out, generator)
    if language_model is None:
        raise VLMIGError(
            f"no --language-model for {source}; expected the LM it was trained around, such as "
            "openai-community/gpt2 (only transformers' own format of LLaVA needs none)"
        )
    mapping = map_published(read_published(source))
    _check_adapter(mapping, source)
    language_model, vision = absolute(language_model), absolute(vision or PUBLISHED_VISION)
    model_class = class_for(describe_language_model(language_model))
    base = load_language_model(model_class.auto_class, language_model)
    protocol = PUBLISHED["protocol"]
    # The 2026 rewrite saves whole one-layer models; its Gemma has our default layout, the image
    # before BOS.
    rewritten = any(name.endswith("embed_tokens.weight") for name in mapping.dropped)
    if rewritten and base.config.model_type == "gemma":
        protocol = "default"
    blank = VisionEncoder(vision, PUBLISHED["vision_layer"]).encode_blank()
    config = VLMIGConfig(
        text_config=base.config.to_dict(),
        language_model=language_model,
        vision_encoder=vision,
        vision_patches=blank.shape[0],
        vision_width=blank.shape[1],
        imaginer=absolute(generator),
        projector_width=mapping.adapter["projector.layers.0.weight"].shape[0],
        trained=True,
        **PUBLISHED | {"protocol": protocol},
    )
    model = model_class(config, base)
    mapping.adapter["blank_features"] = blank
    absent = _add_biases(mapping, model.adapter_state())
    load_adapter(model, mapping.adapter, source)
    model.save_pretrained(out)
    return list(describe(mapping, absent, base))


def _check_adapter(mapping: Mapping, source: Path) -> None:
    if _modules(mapping.adapter) != ["fusion", "projector"]:
        modules = ", ".join(_modules(mapping.base)[:6])
        raise VLMIGError(
            f"{source} holds no projector and fusion layer (found {modules}); expected a published "
            "vLMIG or LaMI checkpoint"
        )


def _modules(names: Iterable[str]) -> list[str]:
    """Return the first component of each name, sorted."""
    return sorted({name.split(".")[0] for name in names})


def _add_biases(mapping: Mapping, state: dict[str, Tensor]) -> list[str]:
    """Add zeros for biases that the 2026 Llama block does not have; return their names."""
    absent = []
    for name in state.keys() - mapping.adapter.keys():
        if _LLAMA_BIAS.search(name):
            mapping.adapter[name] = torch.zeros_like(state[name])
            absent.append(name)
    return absent


def describe(mapping: Mapping, absent: list[str], base: PreTrainedModel) -> Iterable[str]:
    """Yield lines on what became of the weights."""
    projector = sum(name.startswith("projector") for name in mapping.adapter)
    fusion = sum(name.startswith("fusion") for name in mapping.adapter)
    yield f"mapped: {projector} weights of the projector, {fusion} of the fusion layer"
    if absent:
        yield f"set to zero, absent from this block: {len(absent)} MLP biases"
    if mapping.dropped:
        dropped = ", ".join(sorted(mapping.dropped))
        yield f"dropped, never used by the published forward pass: {dropped}"
    state, shared, different, unmatched = base.state_dict(), 0, [], []
    for name, value in mapping.base.items():
        if name not in state or state[name].shape != value.shape:
            unmatched.append(name)
            continue
        shared += 1
        if not torch.allclose(state[name].float(), value.float(), atol=1e-2):
            different.append(name)
    doubt = f" (first: {different[0]}); is it the right LM?" if different else ""
    yield f"base LM: {shared} weights are the named LM's own, {len(different)} differ{doubt}"
    if unmatched:
        modules = ", ".join(_modules(unmatched))
        yield f"left to its own checkpoint: {len(unmatched)} weights of {modules}"
