"""Thirty causal and seven masked families of transformers, each with both kinds of fusion where
its block allows it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import families
import pytest
import torch

from vlmig import VLMIGConfig, VLMIGForCausalLM, VLMIGForMaskedLM
from vlmig.models.base import VLMIGPreTrainedModel

# Two orders of the same fp32 sums; logits are log-probabilities of order 5, pictures move them by
# more than 0.01.
SAME = 1e-5
ALIBI = ("bloom", "mpt")  # attention that takes no positions: decoder_layer refuses them
CAUSAL = [
    (family, fusion)
    for family in families.CAUSAL
    for fusion in ("cross_attention", "decoder_layer")
    if not (family in ALIBI and fusion == "decoder_layer")
]
MASKED = [
    (family, fusion)
    for family in families.MASKED
    for fusion in ("cross_attention", "decoder_layer")
]


def visual(family: str, fusion: str, masked: bool = False) -> VLMIGPreTrainedModel:
    """Make a family's tiny LM visual, with an adapter that matters."""
    base = families.build(family, masked)
    config = VLMIGConfig(
        text_config=base.config,
        vision_width=12,
        vision_patches=5,
        fusion_heads=4,
        fusion=fusion,
        mix="prob",
    )
    model = (VLMIGForMaskedLM if masked else VLMIGForCausalLM)(config, base).eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if name.startswith(("fusion", "projector")) and parameter.ndim > 1:
            parameter.data.normal_(0, (2.0 / parameter.shape[-1]) ** 0.5, generator=generator)
        if name.endswith("_gate"):
            parameter.data.fill_(1.0)
    return model


def pictures(k: int = 3) -> torch.Tensor:
    return torch.randn(2, k, 5, 12, generator=torch.Generator().manual_seed(2))


def left_padded() -> dict[str, torch.Tensor]:
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    ids = torch.randint(3, families.VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def steps(
    model: Any, batch: dict[str, torch.Tensor], features: torch.Tensor, **settings: Any
) -> torch.Tensor:
    """Log-probabilities of four generated steps, (4, B, V)."""
    output = model.generate(
        **batch,
        visual_features=features,
        max_new_tokens=4,
        min_new_tokens=4,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
        **settings,
    )
    return torch.stack(output.logits)


@pytest.mark.parametrize(("family", "fusion"), CAUSAL)
def test_causal_family(family: str, fusion: str, tmp_path: Path) -> None:
    model, batch, features = visual(family, fusion), left_padded(), pictures()
    with torch.no_grad():  # without pictures it is the base LM, bit for bit
        assert torch.equal(
            model(**batch, visual_features=features[:, :0]).logits,
            model.language_model(**batch).logits,
        )
    cached = steps(model, batch, features)
    assert torch.allclose(cached, steps(model, batch, features, use_cache=False), atol=SAME)
    for row, start in enumerate((3, 0)):
        alone = {"input_ids": batch["input_ids"][row : row + 1, start:]}
        assert torch.allclose(
            cached[:, row : row + 1], steps(model, alone, features[row : row + 1]), atol=SAME
        )
    unpadded = {"input_ids": batch["input_ids"]}
    # In transformers 5.20 even plain Bloom refuses a text without padding in a static cache.
    old_bloom = family == "bloom" and version("transformers").startswith("5.20.")
    for rows in (batch,) if old_bloom else (batch, unpadded):
        # A static cache, longer than any sliding window.
        long = {**rows, "input_ids": rows["input_ids"]}
        expected = cached if rows is batch else steps(model, unpadded, features)
        static = steps(
            model, long, features, cache_implementation="static", cache_config={"max_cache_len": 40}
        )
        assert torch.allclose(static, expected, atol=SAME)
    # Other pictures change every step: the first comes from the prefill, the others from decoding.
    others = steps(model, batch, features.roll(1, 0) * 2)
    assert ((cached - others).abs().amax((1, 2)) > 1e-2).all()
    check_round_trip(model, batch, tmp_path)


@pytest.mark.parametrize(("family", "fusion"), MASKED)
@torch.no_grad()
def test_masked_family(family: str, fusion: str, tmp_path: Path) -> None:
    model, features = visual(family, fusion, masked=True), pictures()
    # Masked LMs are padded on the right.
    batch = {name: value.flip(1) for name, value in left_padded().items()}
    assert torch.equal(
        model(**batch, visual_features=features[:, :0]).logits, model.language_model(**batch).logits
    )
    together = model(**batch, visual_features=features).logits
    alone = model(batch["input_ids"][:1, :4], visual_features=features[:1]).logits
    assert torch.allclose(together[:1, :4], alone, atol=SAME)
    others = model(**batch, visual_features=features.roll(1, 0) * 2).logits
    assert (together - others).abs().max() > 1e-2
    check_round_trip(model, batch, tmp_path)


@torch.no_grad()
def check_round_trip(
    model: VLMIGPreTrainedModel, batch: dict[str, torch.Tensor], folder: Path
) -> None:
    """Saved with its base LM and loaded again, a model gives the same bits."""
    model.save_pretrained(folder, save_base=True)
    loaded = type(model).from_pretrained(folder)
    features = pictures()
    assert torch.equal(
        loaded(**batch, visual_features=features).logits,
        model(**batch, visual_features=features).logits,
    )


@pytest.mark.parametrize("family", ALIBI)
def test_a_block_that_takes_no_positions_is_refused(family: str) -> None:
    with pytest.raises(
        ValueError, match="decoder_layer' does not fit .* use fusion='cross_attention'"
    ):
        visual(family, "decoder_layer")


def test_the_family_layer_equals_one_run_over_the_whole_sequence() -> None:
    """Keys and values kept per text and per image, against the block run over [visual ; text]
    image by image."""
    for family in ("gpt2", "opt", "llama", "qwen3", "phi"):
        model = visual(family, "decoder_layer")
        tokens, hidden = (
            torch.randn(2, 3, 5, model.state_width()),
            torch.randn(2, 6, model.state_width()),
        )
        places = torch.arange(6).expand(2, -1)
        mask = torch.ones(2, 6, 6, dtype=torch.bool).tril()
        with torch.no_grad():
            fused = model.fusion(
                hidden,
                model.fusion.read_images(tokens),
                model.fusion.read_text(hidden, places),
                mask,
                places,
            )
            for image in range(3):
                whole = model.fusion.block(
                    inputs_embeds=torch.cat([tokens[:, image], hidden], 1)
                ).last_hidden_state
                assert torch.allclose(fused[:, image], whole[:, 5:], atol=SAME), family
