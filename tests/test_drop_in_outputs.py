"""What a forward returns, and where it runs: states, tuples, other machines, other compilers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from test_families import SAME, left_padded, pictures, steps, visual
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, CompileConfig

from vlmig.models.cache import NAME
from vlmig.models.mixture import Mixture

FUSIONS = ("cross_attention", "decoder_layer", "prefix")
SEEN: dict[str, Any] = {"visual_features": pictures(), "use_cache": False}


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_states_and_attention_beside_pictures(fusion: str) -> None:
    model, batch = visual("llama", fusion), left_padded()
    model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    text, seen = model(**batch, **asked), model(**batch, **asked, visual_features=pictures())
    for name in ("hidden_states", "attentions"):
        for one, other in zip(text[name], seen[name], strict=True):
            assert torch.equal(one, other), "the LM reads the text without images"
    assert seen.fused_hidden_states.shape == (2, 3, 7, 32)
    # The states after images, through the head, are what is mixed.
    each = model.head(model.language_model, seen.fused_hidden_states).log_softmax(-1)
    mixture = Mixture.of(model.config).combine(
        text.logits.log_softmax(-1), each.unbind(1), torch.ones(2, 1, 3), None
    )
    assert torch.allclose(seen.logits, mixture, atol=SAME)
    for name in asked:
        setattr(model.config, name, True)
    assert model(**batch, visual_features=pictures()).fused_hidden_states is not None
    grown = model.generate(
        **batch, visual_features=pictures(), max_new_tokens=2, return_dict_in_generate=True, **asked
    )
    assert len(grown.hidden_states) == len(grown.attentions) == 2


@torch.no_grad()
def test_tuples_as_of_the_base() -> None:
    model, batch = visual("llama", "cross_attention"), left_padded()
    for seen in ({}, SEEN):
        output = model(**batch, **seen, labels=batch["input_ids"])
        assert (NAME in output) == (not seen), "SEEN asks for no cache"
        pair = model(**batch, **seen, labels=batch["input_ids"], return_dict=False)
        assert isinstance(pair, tuple)
        assert torch.equal(pair[0], output.loss) and torch.equal(pair[1], output.logits)
    bert = visual("bert", "cross_attention", True)
    kinds = torch.ones(2, 7, dtype=torch.long)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    # The third argument is BERT's kinds of tokens, with images and without.
    assert torch.equal(bert(ids, mask, kinds).logits, bert.language_model(ids, mask, kinds).logits)
    named = bert(ids, mask, token_type_ids=kinds, visual_features=pictures()).logits
    assert torch.equal(bert(ids, mask, kinds, visual_features=pictures()).logits, named)
    assert bert(ids, mask, visual_features=pictures(), return_dict=False)[0].shape == named.shape


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_offloaded_weights(fusion: str, tmp_path: Path) -> None:
    expected = visual("llama", fusion)(**left_padded(), **SEEN).logits
    offloaded = cpu_offload(visual("llama", fusion), execution_device="cpu")
    assert torch.equal(offloaded(**left_padded(), **SEEN).logits, expected)
    on_disk = disk_offload(visual("llama", fusion), tmp_path, execution_device="cpu")
    assert torch.equal(on_disk(**left_padded(), **SEEN).logits, expected)


@pytest.mark.proof
@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_compiled_and_exported_whole(fusion: str) -> None:
    model, batch = visual("llama", fusion), left_padded()
    model.requires_grad_(False)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for seen in ({"use_cache": False}, SEEN):
        expected = model(**batch, **seen).logits
        assert torch.allclose(compiled(**batch, **seen).logits, expected, atol=SAME)
    exported = torch.export.export(model, (), {**batch, **SEEN}, strict=False).module()
    assert torch.allclose(exported(**batch, **SEEN).logits, expected, atol=SAME)


@torch.no_grad()
@pytest.mark.skipif(torch.__version__.startswith("2.8."), reason="it traces no generators of ours")
@pytest.mark.parametrize(
    "fusion", [FUSIONS[0], *(pytest.param(kind, marks=pytest.mark.proof) for kind in FUSIONS[1:])]
)
def test_one_graph_serves_every_step_of_a_static_cache(fusion: str) -> None:
    model, batch = visual("llama", fusion), left_padded()
    static = {"cache_implementation": "static"}
    expected = steps(model, batch, pictures(), **static)
    whole = CompileConfig(backend="eager", fullgraph=True, mode=None)
    whole._compile_all_devices = True  # transformers compiles on GPUs only by itself
    torch.compiler.reset()
    counters.clear()
    compiled = steps(model, batch, pictures(), **static, compile_config=whole)
    assert counters["stats"]["unique_graphs"] == 1
    assert torch.allclose(compiled, expected, atol=SAME)


@torch.no_grad()
def test_shown_images_compile() -> None:
    model = visual("llama", "prefix")
    ids = torch.tensor([[3, *[model.config.placeholder_id] * 5, 4, 5]])
    seen = {"shown_features": pictures(1)[:1], "use_cache": False}
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(ids, **seen).logits, model(ids, **seen).logits, atol=SAME)


def test_the_family_block_follows_precision_and_attention() -> None:
    config = visual("llama", "decoder_layer").config
    rough = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    assert {weight.dtype for weight in rough.fusion.parameters()} == {torch.bfloat16}
    assert rough(**left_padded(), visual_features=pictures().bfloat16()).logits.isfinite().all()
    rough.set_attn_implementation("eager")
    assert rough.fusion.block.config._attn_implementation == "eager"
    eager = AutoModelForCausalLM.from_config(rough.config)
    assert eager.fusion.block.config._attn_implementation == "eager"


@torch.no_grad()
@pytest.mark.parametrize("projector", ["pooled", "resampler"])
def test_weights_are_drawn_after_meta(projector: str) -> None:
    """A model built without memory, and then given some: every weight is drawn."""
    config = visual("llama", "cross_attention").config
    config.projector, config.projector_width, config.vision_patches = projector, 16, 4
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.to_empty(device="cpu")
    for weight in model.parameters():
        weight.fill_(float("nan"))
    model.blank_features.fill_(float("nan"))
    model.init_weights()
    for name, value in model.state_dict().items():
        assert not value.isnan().any(), name
