"""Nothing runs on weights that were not loaded: missing, renamed, cut off, or not finite."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmig import VLMIG
from vlmig.errors import VLMIGError
from vlmig.models.checkpoint import POCKET

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
