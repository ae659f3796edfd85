"""The vision encoder: pictures to patch features and an embedding, in one pass, whichever library the tower comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vlmig.errors import VLMIGError
from vlmig.runtime import spread

BLANK = (128, 128, 128)
"""Colour of the empty picture."""


BATCH = 4
"""Pictures per pass on an accelerator, always: a feature's last bit may depend on how many others are computed beside it."""


class Tower(Protocol):
    """A vision model with its preprocessing and, where it has one, its text side."""

    vision: nn.Module
    """What decides a feature beside the preprocessing."""
    preprocessing: str
    """The preprocessing in words, for the identity."""
    reads: bool
    """Whether there is a text side."""

    def prepare(self, pictures: Sequence[Tensor]) -> Tensor:
        """Resize, crop and normalise pictures, uint8 (3, H, W) each: (n, 3, h, w)."""
        ...

    def see(self, pixels: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return the patch features of a block, (n, P, C), and the embeddings, (n, E), from one pass."""
        ...

    def read(self, texts: list[str]) -> Tensor:
        """Embed texts, (n, E)."""
        ...

    def fits(self, text: str) -> bool:
        """Tell whether the text side reads the whole text."""
        ...


class VisionEncoder:
    """A frozen vision model of open_clip or transformers.

    Args:
        name: for open_clip ``architecture/pretrained-tag`` (``ViT-B-32/openai``), ``hf-hub:owner/name`` or a folder in
            local-dir format; for transformers a hub id (``google/siglip-base-patch16-224``) or a folder.
        layer: transformer block whose patch features are returned; -2 is the penultimate.
        features: ``patches``, or ``pooled``: the embedding as the only patch, which imaginers without pixels also give.

    Raises:
        VLMIGError: no such model, one without pretrained weights, or another ``features``.
    """

    def __init__(
        self, name: str | Path, layer: int = -2, features: str = "patches", device: str | torch.device = "cpu"
    ) -> None:
        if features not in ("patches", "pooled"):
            raise VLMIGError(f"vision_features={features!r}; expected patches or pooled")
        self.name, self.layer, self.features, self.device = str(name), layer, features, torch.device(device)
        self.tower = _tower(str(name))
        self.tower.vision.to(self.device)

    def encode(self, pictures: Sequence[Image.Image | Tensor]) -> tuple[Tensor, Tensor]:
        """Encode n pictures, PIL or uint8 (3, H, W): features (n, P, C) in half precision and unit embeddings (n, E).

        A picture's bytes do not depend on the others: every pass has the same size, the last one filled up. On a CPU it has one
        picture, since there some libraries round by the place in a batch.
        """
        size = self._pass_size()
        parts = [pictures[start : start + size] for start in range(0, len(pictures), size)]
        seen = spread(self._pass, parts, self.device)
        features, pooled = zip(*seen, strict=True)
        return torch.cat(features), torch.cat(pooled)

    def _pass(self, pictures: Sequence[Image.Image | Tensor]) -> tuple[Tensor, Tensor]:
        batch = [as_tensor(picture).to(self.device) for picture in pictures]
        pixels = self.tower.prepare(batch + batch[:1] * (self._pass_size() - len(batch)))
        patches, embeddings = (part[: len(batch)] for part in self.tower.see(pixels, self.layer))
        unit = F.normalize(embeddings.float(), dim=-1)
        features = unit[:, None] if self.features == "pooled" else patches
        return features.half().cpu(), unit.cpu()

    def _pass_size(self) -> int:
        return 1 if self.device.type == "cpu" else BATCH

    def encode_text(self, texts: Sequence[str]) -> Tensor | None:
        """Encode texts: unit embeddings (n, E), each on its own, or None where the tower has no text side."""
        if not self.tower.reads:
            return None
        return torch.cat(spread(self._read, texts, self.device, together=False))  # tokenizers cannot be shared

    def _read(self, text: str) -> Tensor:
        return F.normalize(self.tower.read([text]).float(), dim=-1).cpu()

    def fits(self, text: str) -> bool:
        """Tell whether the text side, if there is one, reads the whole text."""
        return not self.tower.reads or self.tower.fits(text)

    def encode_blank(self) -> Tensor:
        """Encode the empty picture: (P, C)."""
        return self.encode([Image.new("RGB", (64, 64), BLANK)])[0][0].float()

    def identity(self) -> dict[str, str | int | float]:
        """Name everything that decides a feature: weights, preprocessing, layer, kind."""
        digest = hashlib.sha256(self.tower.preprocessing.encode())
        for name, value in sorted(self.tower.vision.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        return {"encoder": digest.hexdigest()[:16], "layer": self.layer, "features": self.features}


def as_tensor(picture: Image.Image | Tensor) -> Tensor:
    """Turn a picture into uint8 (3, H, W); a tensor is one already."""
    if isinstance(picture, Tensor):
        return picture
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def _tower(name: str) -> Tower:
    """Choose the library by what the name names."""
    folder = Path(name)
    if folder.is_dir() and not (folder / "open_clip_config.json").is_file() and (folder / "config.json").is_file():
        from vlmig.vision import towers  # without open_clip, which takes a second

        return towers.load(name)
    from vlmig.vision import openclip, towers

    if folder.is_dir():
        return openclip.load(name)
    if name.startswith(("hf-hub:", "local-dir:")) or name.partition("/")[0] in openclip.architectures():
        return openclip.load(name)
    if "/" not in name:
        raise VLMIGError(
            f"vision encoder {name!r} names no weights; expected a folder, hf-hub:owner/name, architecture/tag such as "
            "ViT-B-32/openai, or a transformers hub id such as google/siglip-base-patch16-224"
        )
    return towers.load(name)
