"""A checkpoint is checked when it is loaded: fields of another type or out of range, and weights that
are missing, renamed, cut off, or not finite."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmig import VLMIG
from vlmig.errors import VLMIGError
from vlmig.models.checkpoint import POCKET, resolve_checkpoint
from vlmig.models.config import VLMIGConfig

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"
COMPONENTS = {
    "adapter": "model.safetensors",
    "LM": "language_model/model.safetensors",
    "vision encoder": "vision_encoder/open_clip_model.safetensors",
    "generator": "generator/vae/diffusion_pytorch_model.safetensors",
}
Harm = Callable[[Path], object]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_finite(path: Path) -> None:
    weights = load_file(path)
    floating = [name for name, value in weights.items() if value.is_floating_point()]
    weights[floating[0]].view(-1)[0] = torch.inf
    weights[floating[-1]].view(-1)[-1] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})


def lacking(path: Path) -> None:
    weights = load_file(path)
    weights.pop(next(name for name in weights if name.endswith("weight")))
    save_file(weights, path, metadata={"format": "pt"})


HARMS: dict[str, Harm] = {
    "cut off": cut,
    "empty": lambda path: path.write_bytes(b""),
    "git-lfs pointer": lambda path: path.write_text(POINTER),
    "not finite": not_finite,
    "gone": Path.unlink,
    "of another name": lambda path: path.rename(path.with_name("other.weights")),
    "lacking one": lacking,
}


@pytest.fixture(scope="module")
def copy_of_pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(POCKET, tmp_path_factory.mktemp("harmed") / "pocket"))


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("component", COMPONENTS)
def test_harmed_weights_are_refused(
    copy_of_pocket: Path, tmp_path: Path, component: str, harm: str
) -> None:
    path = copy_of_pocket / COMPONENTS[component]
    whole = path.read_bytes()
    try:
        HARMS[harm](path)
        with pytest.raises(VLMIGError) as error:
            model = VLMIG.from_pretrained(copy_of_pocket, store=tmp_path)
            if component in ("vision encoder", "generator"):
                model.imagine(["a banana"], 1)
    finally:
        path.write_bytes(whole)
        path.with_name("other.weights").unlink(missing_ok=True)
    told = str(error.value)
    assert "\n" not in told and str(copy_of_pocket) in told
    if harm == "git-lfs pointer":
        assert "is a git-lfs pointer" in told
    if harm == "not finite":
        assert "is NaN or infinite" in told


WRONG: list[tuple[str, list[Any]]] = [
    ("vision_layer", ["x", 1.5, None, [], 10**9, True]),
    ("vision_width", [0, -1, "768", 2**40, 1.0, None]),
    ("vision_patches", [0, None, {}]),
    ("fusion_heads", [-1, 0, "8", None, 10**6]),
    ("fusion_width", [0, "x"]),
    ("projector_queries", [0, [32]]),
    ("projector_width", [-8, "wide"]),
    ("imaginer_steps", [0, -1, 2.5, "4", 10**9]),
    ("imaginer_size", [0, -64, "64"]),
    ("imaginer_batch", [0, True]),
    ("imaginer_guidance", [-1, "x", float("nan"), float("inf")]),
    ("strength", [None, "1", float("nan"), float("inf"), -1, True]),
    ("doubt", [None, [], -0.5, float("nan")]),
    ("alignment_floor", [None, "0.2", 2, float("-inf")]),
    ("language_model", [None, 3, "", ["gpt2"], "./../..", "./a/../../b"]),
    ("vision_encoder", [None, {}, " ", "./.."]),
    ("imaginer", [None, 1, "folder:./../x"]),
    ("imaginer_vae", [3]),
    ("chat_template", [None, 3]),
    ("mix", [None, 3, ["prob"], "unifrom"]),
    ("weights", [{}, "unifrom"]),
    ("projector", [None, []]),
    ("fusion", [0]),
    ("imaginer_dtype", [16, ["float32"]]),
    ("trained", ["yes", 1, None]),
    ("imaginer_compile", ["no", 0]),
    ("auto", ["0.1", [], 3]),
    ("training", ["x", []]),
    ("learned", ["x", [], 3]),
    ("image_token_id", [-1, "x"]),
    ("text_config", ["gpt2", 3, [], {}, {"model_type": "no such"}, {"model_type": 3}]),
    ("text_config", [{"model_type": "gpt2", "dtype": value} for value in ([], "x", ["float32"])]),
    ("dtype", [[], "", "x", "nn", 3, True, ["float32"]]),
    ("torch_dtype", [[], "x", 3]),
    ("weigths", ["uniform"]),
]


@pytest.mark.parametrize(("field", "values"), WRONG, ids=[field for field, _ in WRONG])
def test_a_wrong_field_is_named(tmp_path: Path, field: str, values: list[Any]) -> None:
    fields = json.loads((POCKET / "config.json").read_text())
    for value in values:
        (tmp_path / "config.json").write_text(json.dumps({**fields, field: value}))
        with pytest.raises(VLMIGError, match=field) as error:
            VLMIGConfig.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("\xff", "is damaged"),
        ("[]", "holds nothing"),
        ("[3]", "holds a list"),
        ("null", "holds a NoneType"),
        ("{}", "holds nothing"),
        ('{"a": 1}', "has the model_type None"),
        ('{"model_type": "gpt2"}', "has the model_type 'gpt2'"),
    ],
)
def test_a_damaged_configuration_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(VLMIGError, match=message) as error:
        resolve_checkpoint(tmp_path)
    assert "\n" not in str(error.value)
