"""What we compute against what the published code computed, for every family of the golden set and
all its cases.

The golden files hold the published code's own weights, inputs and outputs
(``../shared/reference/forward.md``). Its weights
go through ``vlmig.models.convert.published``, so the import is checked with them. Published logits
include visual positions and stand in
the order [visual ; text]; ours are the text's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from vlmig import VLMIGConfig
from vlmig.models.checkpoint import load_adapter
from vlmig.models.convert.published import PUBLISHED, map_published
from vlmig.models.modeling import VLMIGForCausalLM, VLMIGForMaskedLM

GOLDEN = Path(os.environ.get("VLMIG_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
FILES = sorted(p for p in GOLDEN.glob("*.safetensors")) if GOLDEN.is_dir() else []
pytestmark = pytest.mark.skipif(
    not FILES, reason=f"no golden numbers at {GOLDEN}; set VLMIG_GOLDEN"
)

# fp32 sums in another order: attention kernels alone differ by 3.9e-6 on these models, and logits
# are of order 1.
TOLERANCE = 2e-5
Model = VLMIGForCausalLM | VLMIGForMaskedLM


class Golden:
    """One file of the golden set with our model on its weights."""

    def __init__(self, path: Path) -> None:
        self.spec: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        self.tensors = load_file(path)
        weights = {
            n.removeprefix("weights."): v
            for n, v in self.tensors.items()
            if n.startswith("weights.")
        }
        self.model = build(self.spec, weights, self["case_b.clip_features"])

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def text(self, case: str) -> dict[str, torch.Tensor]:
        return {
            "input_ids": self[f"{case}.input_ids"],
            "attention_mask": self[f"{case}.attention_mask"],
        }

    def features(self, case: str) -> torch.Tensor:
        """The vision tower's features as (B, K, P, C): one image per text, or several beside one
        text."""
        seen = self[f"{case}.clip_features"]
        return seen[:, None] if len(self[f"{case}.input_ids"]) == len(seen) else seen[None]

    def read(self, case: str) -> Any:
        base = self.text(case)
        return self.model.read(
            base if isinstance(self.model, VLMIGForMaskedLM) else {**base, "use_cache": False}
        )

    def comparable(self, case: str) -> torch.Tensor:
        """Mark the text positions (B, T) whose published logits are defined: real tokens.

        In Gemma's rows the image stands in the place of BOS, whose row is the last visual token's,
        in ours too.
        """
        return self[f"{case}.attention_mask"].bool()

    def fused(self, case: str) -> torch.Tensor:
        """Published logits at the text's positions, (rows, T, V)."""
        logits = self[f"{case}.logits"]
        return logits[:, -self[f"{case}.input_ids"].shape[1] :]


def build(spec: dict[str, Any], weights: dict[str, torch.Tensor], features: torch.Tensor) -> Model:
    settings = dict(spec["lm_config"])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    if spec.get("lm_mlp_bias") or "model.layers.0.mlp.gate_proj.bias" in weights:
        config.mlp_bias = True  # the published Llama has biases in its MLPs
    kind = VLMIGForMaskedLM if "cls.predictions.bias" in weights else VLMIGForCausalLM
    base = kind.auto_class.from_config(config, attn_implementation="eager").eval()
    mapping = map_published(weights)
    missing, unknown = base.load_state_dict(mapping.base, strict=False)
    assert not [n for n in missing if not n.endswith(("attn.bias", "masked_bias"))], missing
    assert all(n.startswith("mm_model") for n in unknown), unknown
    described = VLMIGConfig(
        text_config=config,
        vision_patches=features.shape[1],
        vision_width=features.shape[2],
        projector_width=mapping.adapter["projector.layers.0.weight"].shape[0],
        **PUBLISHED,
    )
    model = kind(described, base).eval()
    load_adapter(model, {**mapping.adapter, "blank_features": model.blank_features}, GOLDEN)
    return model


@pytest.fixture(scope="module", params=FILES, ids=lambda p: p.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def close(ours: torch.Tensor, published: torch.Tensor) -> bool:
    assert ours.shape == published.shape
    return bool((ours - published).abs().max() < TOLERANCE)


def cases(golden: Golden, names: str) -> list[str]:
    return [name for name in names.split() if f"{name}.input_ids" in golden]


@torch.no_grad()
def test_text_only_logits_and_losses(golden: Golden) -> None:
    for case in cases(golden, "case_a case_e_text_left case_e_text_right"):
        output = golden.model(**golden.text(case), labels=golden[f"{case}.labels"])
        valid = golden[f"{case}.valid"]
        assert close(output.logits[valid], golden[f"{case}.logits"][valid]), case
        assert close(output.loss[None], golden[f"{case}.loss"]), case


@torch.no_grad()
def test_projected_visual_tokens(golden: Golden) -> None:
    for case in cases(golden, "case_b case_c case_e_left case_e_right"):
        assert close(
            golden.model.projector(golden[f"{case}.clip_features"]), golden[f"{case}.projected"]
        ), case


@torch.no_grad()
def test_fused_logits_beside_each_image(golden: Golden) -> None:
    for case in cases(golden, "case_b case_c case_e_left case_e_right"):
        features = golden.features(case)
        images = torch.stack(
            list(golden.model.image_logits(golden.read(case), features)), 1
        ).flatten(0, 1)
        valid = golden.comparable(case).repeat_interleave(features.shape[1], 0)
        assert close(images[valid], golden.fused(case)[valid]), case


@torch.no_grad()
def test_text_logits_beside_images(golden: Golden) -> None:
    ours, valid = golden.model.text_logits(golden.read("case_c")), golden.comparable("case_c")
    assert close(ours[valid], golden["case_c.text_logits"][valid])


@torch.no_grad()
def test_losses_beside_images(golden: Golden) -> None:
    compared = 0
    for case in cases(golden, "case_b case_c case_e_left case_e_right"):
        if f"{case}.loss" in golden:
            features, labels = golden.features(case), golden[f"{case}.labels"]
            loss = golden.model(**golden.text(case), visual_features=features, labels=labels).loss
            assert close(loss[None], golden[f"{case}.loss"]), case
            compared += 1
    assert compared


@torch.no_grad()
def test_logits_and_loss_mixed_by_scores(golden: Golden) -> None:
    if "case_d.logits" not in golden:
        pytest.skip("the published BERT does not mix")
    output = golden.model(
        **golden.text("case_d"),
        visual_features=golden.features("case_c"),
        image_weights=golden["case_d.scores"][None],
        labels=golden["case_d.labels"],
    )
    valid = golden.comparable("case_d")
    # The published mixture is unnormalised, ours is its log-softmax: the same distribution.
    assert close(output.logits[valid], golden["case_d.logits"].log_softmax(-1)[valid])
    assert close(output.loss[None], golden["case_d.loss"])


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "recomputed"])
def test_generated_tokens_and_step_logits(golden: Golden, use_cache: bool) -> None:
    if "case_g.input_ids" not in golden:
        pytest.skip("not a causal LM")
    expected = golden["case_g.tokens_full_recompute"]
    output = golden.model.generate(
        **golden.text("case_g"),
        visual_features=golden.features("case_c"),
        image_weights=golden["case_g.scores"][None],
        max_new_tokens=expected.shape[1],
        min_new_tokens=expected.shape[1],
        do_sample=False,
        use_cache=use_cache,
        pad_token_id=0,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    steps = torch.cat(output.logits)
    assert torch.equal(output.sequences[:, -expected.shape[1] :], expected)
    assert close(steps, golden["case_g.step_logits_full_recompute"].log_softmax(-1))
