"""What every loaded model is held to: no weight is missing, none is NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vlmig.errors import VLMIGError, one_line

POINTER = b"version https://git-lfs"
"""How a file begins whose content git-lfs has not fetched."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        VLMIGError: there is none, or it is cut off, damaged, or a pointer of git-lfs.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise VLMIGError(
            f"cannot read the weights {path}: {why_damaged(path, error)}; expected a whole "
            "safetensors file; fetch it again"
        ) from None


def why_damaged(path: Path, error: Exception) -> str:
    """Say why a file of weights, or the first such file in a folder, cannot be read."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    for file in files:
        is_small = file.is_file() and file.stat().st_size < 1024
        if is_small and file.read_bytes().startswith(POINTER):
            return f"{file.name} is a git-lfs pointer, not the file; run git lfs pull"
    return one_line(error)


def check_weights(model: Any, name: str, missing: Iterable[str] = ()) -> Any:
    """Return a model whose weights were all loaded, and are finite.

    Args:
        name: its folder or hub id, for errors.
        missing: weights that were not in its file, so that they are random.

    Raises:
        VLMIGError: there are some, or a weight is NaN or infinite.
    """
    state = model.state_dict()
    absent = sorted(missing)
    if not hasattr(model, "hf_device_map"):  # diffusers leaves what it did not find without memory
        absent += [weight for weight, value in state.items() if value.is_meta]
    if absent:
        raise VLMIGError(
            f"{name} lacks {len(absent)} weights, the first {absent[0]}: they would be random; "
            "expected a complete model of this architecture; download it again"
        )
    for weight, value in state.items():
        if value.is_floating_point() and value.numel() and not value.is_meta:
            low, high = value.detach().float().aminmax() if value.itemsize == 1 else value.aminmax()
            if not (low.isfinite() and high.isfinite()):
                raise VLMIGError(
                    f"weight {weight} of {name} is NaN or infinite; expected finite numbers; "
                    "download or train it again"
                )
    return model
