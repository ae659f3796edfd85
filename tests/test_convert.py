"""Importing published checkpoints: a file in the published layout computes, once converted, what
its weights computed before."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vlmig import VLMIG, VLMIGError
from vlmig.cli.main import main
from vlmig.models.convert.published import map_published, read_published


@pytest.fixture()
def original(parts: Path, tmp_path: Path) -> VLMIG:
    """A model as the published code has it, with random weights."""
    torch.manual_seed(5)
    model = VLMIG.from_base(
        str(parts / "language_model"),
        vision=str(parts / "vision_encoder"),
        generator=str(parts / "generator"),
        store=tmp_path / "store",
        fusion="decoder_layer",
        protocol="reference",
        mix="logit",
        weights="clip",
        projector_width=128,
        imaginer_size=32,
    )
    for name, value in model.model.adapter_state().items():
        if name != "blank_features":
            value.normal_(0, 0.3)
    model.config.trained = True
    return model


def published(model: Any) -> dict[str, torch.Tensor]:
    """Name the weights as the 2024 files do: the whole state under ``module.``, with parts that
    nothing uses."""
    state: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        name = name.removeprefix("language_model.").replace("fusion.block.", "fusion_layer.")
        name = name.replace("projector.layers.0", "mm_proj.linear1").replace(
            "projector.layers.2", "mm_proj.linear2"
        )
        state[f"module.{name}"] = value.clone()
    del state["module.blank_features"]
    state["module.fusion_layer.wte.weight"] = torch.zeros(3, 32)
    state["module.mm_model.vision_model.post_layernorm.weight"] = torch.zeros(24)
    return state


def converted(source: Path, parts: Path, out: Path) -> int:
    names = ["--language-model", parts / "language_model", "--vision", parts / "vision_encoder"]
    return main(
        ["convert", *map(str, [source, *names, "--generator", parts / "generator", "--out", out])]
    )


@torch.no_grad()
def test_a_2024_file(
    original: VLMIG, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save(published(original.model), tmp_path / "gpt2.bin")
    assert converted(tmp_path / "gpt2.bin", parts, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "mapped: 4 weights of the projector, 15 of the fusion layer" in said
    assert "dropped, never used by the published forward pass: fusion_layer.wte.weight" in said
    assert "0 differ" in said and "left to its own checkpoint: 1 weights of mm_model" in said
    loaded = VLMIG.from_pretrained(tmp_path / "out", store=tmp_path / "store")
    assert (loaded.config.protocol, loaded.config.mix, loaded.config.weights) == (
        "reference",
        "logit",
        "clip",
    )
    ids = original.tokenizer("A cat is red", return_tensors="pt").input_ids
    features = torch.randn(1, 3, *original.model.blank_features.shape)
    logits = [m.model(ids, visual_features=features, labels=ids) for m in (original, loaded)]
    assert torch.equal(logits[0].logits, logits[1].logits) and torch.equal(
        logits[0].loss, logits[1].loss
    )


def test_a_2026_folder(original: VLMIG, parts: Path, tmp_path: Path) -> None:
    """The rewrite saves folders without the prefix, and keeps the unused embeddings of its
    one-layer models."""
    folder = tmp_path / "lami"
    folder.mkdir()
    state = {
        name.removeprefix("module."): value.contiguous()
        for name, value in published(original.model).items()
    }
    del state["lm_head.weight"]  # tied
    save_file(state, folder / "model.safetensors")
    assert converted(folder, parts, tmp_path / "out") == 0
    mapping = map_published(read_published(folder))
    assert mapping.dropped == ["fusion_layer.wte.weight"]
    assert set(mapping.adapter) | {"blank_features"} == set(original.model.adapter_state())


def test_files_that_are_no_checkpoint(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return print, ("run",)

    (tmp_path / "code.bin").write_bytes(pickle.dumps({"a": Code()}))
    torch.save({"lm_head.weight": torch.zeros(2)}, tmp_path / "plain.bin")
    for file, message in (
        ("nothing.bin", "no weights at"),
        ("code.bin", "is not a file of tensors only"),
        ("plain.bin", r"holds no projector and fusion layer (found lm_head)"),
    ):
        assert converted(tmp_path / file, parts, tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_lm(
    original: VLMIG, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    state = published(original.model)
    state["module.fusion_layer.ln_f.weight"] = torch.zeros(64)
    torch.save(state, tmp_path / "other.bin")
    assert converted(tmp_path / "other.bin", parts, tmp_path / "out") == 2
    assert "adapter weight fusion.block.ln_f.weight" in capsys.readouterr().err
    with pytest.raises(VLMIGError, match="no weights"):
        read_published(tmp_path / "nowhere")


def test_nothing_is_written_over(
    original: VLMIG, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    torch.save(published(original.model), source / "gpt2.bin")
    (tmp_path / "file").write_text("x")
    for out, message in (
        (source, "is the source itself"),
        (parts / "language_model", "holds files; expected a new folder, or --force"),
        (tmp_path / "file", "is a file; expected a new folder"),
    ):
        assert converted(source, parts, out) == 2
        assert message in capsys.readouterr().err
    state = published(original.model)
    torch.save({name: value * torch.nan for name, value in state.items()}, tmp_path / "nan.bin")
    assert converted(tmp_path / "nan.bin", parts, tmp_path / "new") == 2
    assert "is NaN or infinite" in capsys.readouterr().err and not (tmp_path / "new").exists()
