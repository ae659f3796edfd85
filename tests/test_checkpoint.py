"""Checkpoints: small, strict, and equal after a round trip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import aligned, open_gates
from families import build
from safetensors.torch import load_file, save_file

from vlmig import VLMIG, VLMIGConfig, VLMIGError, VLMIGForCausalLM
from vlmig.models.checkpoint import WEIGHTS


@pytest.fixture()
def saved(tiny: VLMIG, parts: Path, tmp_path: Path) -> Path:
    """A self-contained checkpoint: adapter, and the components as sub-folders."""
    folder = tmp_path / "checkpoint"
    config = tiny.config
    for field, name in (
        ("language_model", "language_model"),
        ("vision_encoder", "vision_encoder"),
        ("imaginer", "generator"),
    ):
        setattr(config, field, f"./{name}")
        shutil.copytree(parts / name, folder / name)
    tiny.model.save_pretrained(folder)
    tiny.folder = tiny.imagination.folder = folder
    return folder


def test_round_trip_gives_equal_answers(tiny: VLMIG, saved: Path, tmp_path: Path) -> None:
    loaded = VLMIG.from_pretrained(saved, store=tmp_path / "store")
    pairs = [("The color of a cat is", " red"), ("A dog", " and a cat")]
    assert loaded.loglikelihood(pairs, k=2) == tiny.loglikelihood(pairs, k=2)
    assert loaded.config.trained


def test_a_base_lm_given_in_memory_is_saved_with_its_adapter(tmp_path: Path) -> None:
    base = build("llama")
    shape = {"vision_patches": 5, "vision_width": 12, "fusion_heads": 4}
    model = VLMIGForCausalLM(VLMIGConfig(text_config=base.config, **shape), base).eval()
    model.save_pretrained(tmp_path / "model")
    again = VLMIGForCausalLM.from_pretrained(tmp_path / "model")
    ids, features = torch.arange(3, 10)[None], torch.randn(1, 2, 5, 12)
    with torch.no_grad():
        logits = [own(ids, visual_features=features).logits for own in (model, aligned(again))]
    assert torch.equal(*logits)


def test_only_the_adapter_is_saved(tiny: VLMIG, saved: Path) -> None:
    names = set(load_file(saved / WEIGHTS))
    assert names == set(tiny.model.adapter_state())
    assert not any(name.startswith("language_model") for name in names)
    described = (saved / "config.json").read_text()
    assert json.loads(described)["model_type"] == "vlmig"
    assert "_name_or_path" not in json.loads(described)["text_config"], (
        "the config names a place on this machine"
    )
    assert "The adapter is trained." in (saved / "README.md").read_text()


def test_a_card_follows_the_model_until_somebody_writes_one(tiny: VLMIG, saved: Path) -> None:
    tiny.config.trained = False
    tiny.model.save_pretrained(saved)
    assert "untrained" in (saved / "README.md").read_text()
    (saved / "README.md").write_text("# My adapter\n")
    tiny.model.save_pretrained(saved)
    assert (saved / "README.md").read_text() == "# My adapter\n"


def test_missing_and_unknown_weights_are_errors(saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    gate = weights.pop("fusion.attention_gate")
    save_file({**weights, "fusion.gate": gate}, saved / WEIGHTS)
    with pytest.raises(
        VLMIGError, match=r"missing \['fusion.attention_gate'\], unknown \['fusion.gate'\]"
    ):
        VLMIG.from_pretrained(saved)


def test_weights_of_another_shape_are_errors(saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    save_file({**weights, "blank_features": torch.zeros(2, 2)}, saved / WEIGHTS)
    with pytest.raises(VLMIGError, match=r"blank_features .* has shape \(2, 2\)"):
        VLMIG.from_pretrained(saved)


def test_a_folder_without_weights_is_no_checkpoint(saved: Path) -> None:
    (saved / WEIGHTS).unlink()
    with pytest.raises(VLMIGError, match="has no model.safetensors; expected a vlmig checkpoint"):
        VLMIG.from_pretrained(saved)


def test_an_unknown_name_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(VLMIGError, match="no checkpoint nowhere/nothing"):
        VLMIG.from_pretrained("nowhere/nothing")


def test_an_untrained_adapter_starts_as_the_text_model(parts: Path, tmp_path: Path) -> None:
    names = {"vision": str(parts / "vision_encoder"), "generator": str(parts / "generator")}
    fresh = VLMIG.from_base(
        str(parts / "language_model"), **names, store=tmp_path, imaginer_size=32
    )
    pair = [("A cat is", " red")]
    assert fresh.loglikelihood(pair, k=1)[0] == pytest.approx(
        fresh.loglikelihood(pair, k=0)[0], abs=1e-5
    )
    open_gates(fresh)
    assert fresh.loglikelihood(pair, k=1)[0] != pytest.approx(
        fresh.loglikelihood(pair, k=0)[0], abs=1e-4
    )
