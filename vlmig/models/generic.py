"""Generic images of a checkpoint: other objects' images, with which the rule ``contrast`` compares
what an image says."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.io.weights import read_weights

FILE = "generic.safetensors"
COUNT = 8
"""How many are kept."""
NO_GENERIC = (
    "mix='contrast' compares with generic images, and this checkpoint has none; expected "
    "vlmig calibrate RUN --model FOLDER, which keeps some, or mix='evidence'"
)


def save_generic(folder: Path, features: Tensor) -> None:
    """Write the features of generic images, (M, P, C), into a checkpoint, whole or not at all."""
    partial = folder / (FILE + ".part")
    save_file({"features": features.detach().half().contiguous().cpu()}, partial)
    os.replace(partial, folder / FILE)


def load_generic(folder: Path, patches: int, width: int) -> Tensor:
    """Read the features of a checkpoint's generic images, (M, P, C); M is 0 where it has none.

    Raises:
        VLMIGError: they come from another encoder.
    """
    if not (folder / FILE).is_file():
        return torch.zeros(0, patches, width)
    features = read_weights(folder / FILE)["features"].float()
    if tuple(features.shape[1:]) != (patches, width):
        raise VLMIGError(
            f"{folder / FILE} has images of shape {tuple(features.shape[1:])}, the config asks for "
            f"{(patches, width)}; calibrate the checkpoint again"
        )
    return features
