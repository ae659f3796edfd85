"""VLMIGForCausalLM on a tiny GPT-2: text-only is the base LM bit for bit, and every way to compute
pictures agrees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from vlmig import VLMIGConfig, VLMIGForCausalLM
from vlmig.models.heads import causal_logits, check_head

# Two orders of the same fp32 sums differ by rounding only; pictures move logits by more than 1e-2
# here.
SAME = 5e-6


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=97,
            n_positions=64,
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, **settings
        )
    )


@pytest.fixture(params=[gpt2, llama], ids=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> VLMIGForCausalLM:
    base = request.param().eval()
    for parameter in base.parameters():
        parameter.data.mul_(3.0)
    config = VLMIGConfig(
        text_config=base.config.to_dict(), vision_width=12, vision_patches=5, fusion_heads=4
    )
    built = VLMIGForCausalLM(config, base).eval()
    torch.nn.init.constant_(built.fusion.attention_gate, 1.0)
    torch.nn.init.constant_(built.fusion.feed_gate, 1.0)
    built.blank_features.normal_()
    built.generation_config.pad_token_id = 0
    return built


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    return {"input_ids": torch.randint(1, 97, (2, 7), generator=generator), "attention_mask": mask}


def pictures(k: int = 3) -> torch.Tensor:
    return torch.randn(2, k, 5, 12, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_without_pictures_it_is_the_base_lm_bit_for_bit(model: VLMIGForCausalLM) -> None:
    base = model.language_model
    for none in (None, pictures()[:, :0]):
        assert torch.equal(model(**inputs(), visual_features=none).logits, base(**inputs()).logits)
    assert torch.equal(
        model.generate(**inputs(), max_new_tokens=5),
        base.generate(**inputs(), max_new_tokens=5, pad_token_id=0),
    )


@torch.no_grad()
def test_texts_end_where_the_base_lm_ends_them(model: VLMIGForCausalLM) -> None:
    """Chat models name what ends a turn in their generation settings only; how they sample by
    default is not taken over."""
    base = model.language_model
    likeliest = base.generate(**inputs(), max_new_tokens=3, min_new_tokens=3, pad_token_id=0)[
        0, -3
    ].item()
    base.generation_config.update(
        eos_token_id=[96, likeliest], pad_token_id=0, do_sample=True, temperature=0.5
    )
    built = VLMIGForCausalLM(model.config, base)
    written = built.generate(
        **{name: value[:1] for name, value in inputs().items()}, max_new_tokens=3
    )
    assert written[0, 7:].tolist() == [likeliest]
    assert not built.generation_config.do_sample


@torch.no_grad()
def test_closed_gates_predict_as_the_text_alone(model: VLMIGForCausalLM) -> None:
    torch.nn.init.zeros_(model.fusion.attention_gate)
    torch.nn.init.zeros_(model.fusion.feed_gate)
    fused = model(**inputs(), visual_features=pictures()).logits
    assert torch.allclose(fused, model(**inputs()).logits.log_softmax(-1), atol=SAME)


@torch.no_grad()
def test_order_of_pictures_and_copies_do_not_matter(model: VLMIGForCausalLM) -> None:
    features, weights = pictures(), torch.rand(2, 3)
    logits = model(**inputs(), visual_features=features, image_weights=weights).logits
    turned = model(
        **inputs(), visual_features=features.flip(1), image_weights=weights.flip(1)
    ).logits
    assert torch.allclose(logits, turned, atol=SAME)
    doubled = model(
        **inputs(), visual_features=features.repeat(1, 2, 1, 1), image_weights=weights.repeat(1, 2)
    ).logits
    assert torch.allclose(logits, doubled, atol=SAME)


@torch.no_grad()
def test_only_kept_positions_are_predicted(model: VLMIGForCausalLM) -> None:
    every = model(**inputs(), visual_features=pictures()).logits
    assert torch.allclose(
        model(**inputs(), visual_features=pictures(), logits_to_keep=2).logits,
        every[:, -2:],
        atol=SAME,
    )


@torch.no_grad()
def test_budgets_do_not_change_predictions(
    model: VLMIGForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = model(**inputs(), visual_features=pictures()).logits
    monkeypatch.setattr("vlmig.models.base.HEAD_SHARE", 1000)  # one row of one image at a time
    monkeypatch.setattr("vlmig.models.fusion.base.FUSION_BUDGET", 1)
    with torch.enable_grad():
        assert torch.allclose(
            model(**inputs(), visual_features=pictures()).logits, together, atol=SAME
        )
    assert torch.allclose(model(**inputs(), visual_features=pictures()).logits, together, atol=SAME)


def test_only_the_adapter_learns(model: VLMIGForCausalLM) -> None:
    model.freeze_base()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name in model.adapter_state() if name != "blank_features"}
    loss = model(**inputs(), visual_features=pictures(), labels=inputs()["input_ids"]).loss
    loss.backward()
    assert all(p.grad is None for p in model.language_model.parameters())
    assert model.projector.layers[0].weight.grad.abs().sum() > 0


def test_an_lm_that_changes_its_logits_is_refused() -> None:
    base = gpt2().eval()
    check_head(base, base.transformer, causal_logits)
    base.forward = lambda ids, plain=base.forward: type(
        "Output", (), {"logits": plain(ids).logits.tanh() * 0.1}
    )()  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="post-processes its logits"):
        check_head(base, base.transformer, causal_logits)


def test_wrong_configuration_says_what_was_expected() -> None:
    with pytest.raises(ValueError, match="mix is 'mean'; expected 'prob', 'logit', 'geometric'"):
        VLMIGConfig(mix="mean")
