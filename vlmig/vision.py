"""The vision encoder: pictures to patch features and a pooled embedding, in one pass. The only file that knows open_clip."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vlmig.errors import VLMIGError

logger = logging.getLogger(__name__)

BLANK = (128, 128, 128)
"""Colour of the empty picture."""


class VisionEncoder:
    """A frozen open_clip model.

    Args:
        name: ``architecture/pretrained-tag`` (``ViT-B-32/openai``), ``hf-hub:...`` or a folder in local-dir format.
        layer: transformer block whose patch features are returned; -2 is the penultimate.

    Raises:
        VLMIGError: no such model, or one without pretrained weights.
    """

    def __init__(self, name: str | Path, layer: int = -2, device: str | torch.device = "cpu") -> None:
        source, pretrained = _source(str(name))
        self.name, self.layer, self.device = str(name), layer, torch.device(device)
        try:
            # Some weights were trained with another activation than their architecture's: open_clip only warns.
            tagged = open_clip.get_pretrained_cfg(source, pretrained) if pretrained else {}
            self.model, _, self.preprocess = open_clip.create_model_and_transforms(
                source, pretrained=pretrained, force_quick_gelu=bool(tagged.get("quick_gelu"))
            )
        except (RuntimeError, OSError, ValueError) as error:
            cure = "a folder in open_clip's local-dir format, hf-hub:owner/name, or architecture/tag such as ViT-B-32/openai"
            raise VLMIGError(f"cannot load the vision encoder {name}: {_first_line(error)}; expected {cure}") from error
        self.model = self.model.eval().requires_grad_(False).to(self.device)
        self.tokenizer = open_clip.get_tokenizer(source)

    @torch.inference_mode()
    def encode(self, images: list[Image.Image], batch: int = 64) -> tuple[Tensor, Tensor]:
        """Encode n pictures: patch features (n, P, C) in half precision and unit embeddings (n, E)."""
        patches, pooled = [], []
        for start in range(0, len(images), batch):
            pixels = torch.stack([self.preprocess(image.convert("RGB")) for image in images[start : start + batch]])
            seen = self.model.visual.forward_intermediates(
                pixels.to(self.device), indices=[self.layer], output_fmt="NLC"
            )
            patches.append(seen["image_intermediates"][0].half().cpu())
            pooled.append(F.normalize(seen["image_features"].float(), dim=-1).cpu())
        return torch.cat(patches), torch.cat(pooled)

    @torch.inference_mode()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Encode texts: unit embeddings (n, E)."""
        return F.normalize(self.model.encode_text(self.tokenizer(texts).to(self.device)).float(), dim=-1).cpu()

    def encode_blank(self) -> Tensor:
        """Encode the empty picture: (P, C)."""
        return self.encode([Image.new("RGB", (64, 64), BLANK)])[0][0].float()

    def identity(self) -> dict[str, str | int]:
        """Name everything that decides a feature: weights, preprocessing and layer."""
        digest = hashlib.sha256(str(self.preprocess).encode())
        for name, value in sorted(self.model.visual.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return {"encoder": digest.hexdigest()[:16], "layer": self.layer}


def _source(name: str) -> tuple[str, str | None]:
    """Turn our one name into open_clip's pair of model name and pretrained tag."""
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    if Path(name).is_dir():
        return f"local-dir:{name}", None
    architecture, _, tag = name.partition("/")
    if not tag:
        raise VLMIGError(
            f"vision encoder {name!r} names no weights; expected a folder, hf-hub:owner/name or architecture/tag such as ViT-B-32/openai"
        )
    return architecture, tag


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
