"""What we compute against what the published code computed, for every causal family of the golden set.

So far: the text-only path (the base LM inside ours) and the projector. The published fusion block is a layer of the LM's
own family and comes with its own fusion kind.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from vlmig import VLMIGConfig, VLMIGForCausalLM
from vlmig.projector import VisualTokenProjector

GOLDEN = Path(os.environ.get("VLMIG_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
FILES = sorted(p for p in GOLDEN.glob("*.safetensors")) if GOLDEN.is_dir() else []
pytestmark = pytest.mark.skipif(not FILES, reason=f"no golden numbers at {GOLDEN}; set VLMIG_GOLDEN")

# fp32 sums in another order: attention kernels alone differ by 3.9e-6 on these models.
TOLERANCE = 1e-5


def load(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return json.loads(path.with_suffix(".json").read_text()), load_file(path)


def base_model(spec: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """Build the stock LM of transformers with the golden weights."""
    settings = dict(spec["lm_config"])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    if "weights.model.layers.0.mlp.gate_proj.bias" in tensors and config.model_type == "llama":
        config.mlp_bias = True  # the published Llama has biases in its MLPs
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    missing, _ = model.load_state_dict(weights, strict=False)  # the golden set also holds projector and fusion layer
    assert not [name for name in missing if not name.endswith(("attn.bias", "masked_bias"))], missing
    return model


@pytest.mark.parametrize("path", [p for p in FILES if p.stem != "bert"], ids=lambda p: p.stem)
@torch.no_grad()
def test_text_only_logits(path: Path) -> None:
    spec, tensors = load(path)
    base = base_model(spec, tensors)
    model = VLMIGForCausalLM(
        VLMIGConfig(text_config=base.config.to_dict(), vision_width=8, fusion_heads=2), base
    ).eval()
    logits = model(tensors["case_a.input_ids"], attention_mask=tensors["case_a.attention_mask"]).logits
    valid = tensors["case_a.valid"]
    assert (logits - tensors["case_a.logits"])[valid].abs().max() < TOLERANCE


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
@torch.no_grad()
def test_projected_visual_tokens(path: Path) -> None:
    _, tensors = load(path)
    first, second = tensors["weights.mm_proj.linear1.weight"], tensors["weights.mm_proj.linear2.weight"]
    projector = VisualTokenProjector(first.shape[1], second.shape[0], first.shape[0])
    for layer, name in ((projector.layers[0], "linear1"), (projector.layers[2], "linear2")):
        layer.load_state_dict({part: tensors[f"weights.mm_proj.{name}.{part}"] for part in ("weight", "bias")})
    projected = projector(tensors["case_b.clip_features"])
    assert (projected - tensors["case_b.projected"]).abs().max() < TOLERANCE
