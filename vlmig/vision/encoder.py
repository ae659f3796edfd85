"""The vision encoder: image features and embedding from one pass, by any library."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vlmig.errors import VLMIGError
from vlmig.io.hashing import content_of
from vlmig.io.hub import settle_hub
from vlmig.io.weights import check_weights, why_damaged
from vlmig.runtime import deterministic_map
from vlmig.vision.files import opened

BLANK = (128, 128, 128)
"""Color of the blank image."""
CAPTION_WORDS = "caption_words.txt"
"""In an encoder's folder: every word of the captions it was trained on, a line each."""
BATCH = 4
"""Images per pass on an accelerator: a fixed number, since rounding may depend on it."""


class Tower(Protocol):
    """A vision model with its preprocessing, and a text side if it has one."""

    vision: nn.Module
    """The module whose weights decide a feature."""
    preprocessing: str
    """The preprocessing as text, for the identity."""
    has_text: bool
    """Whether there is a text side."""
    scale: float | None
    """The factor of cosines in the softmax that the model was trained with; None without one."""

    def prepare(self, images: Sequence[Tensor]) -> Tensor:
        """Resize, crop and normalize images, uint8 (3, H, W) each: (n, 3, h, w)."""
        ...

    def encode_images(self, pixels: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return patch features of a block, (n, P, C), and embeddings, (n, E), from one pass."""
        ...

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed texts, (n, E)."""
        ...

    def fits(self, text: str) -> bool:
        """Tell whether the text side reads the text without cutting it."""
        ...


class VisionEncoder:
    """A frozen vision model of open_clip or transformers.

    Args:
        name: for open_clip ``architecture/pretrained-tag`` (``ViT-B-32/openai``),
            ``hf-hub:owner/name`` or a folder in local-dir format; for transformers a hub id
            (``google/siglip-base-patch16-224``) or a folder.
        layer: transformer block whose patch features are returned; -2 is the penultimate.
        features: ``patches``, or ``pooled``: the embedding as the only patch, as image sources
            without pixels give it.

    Raises:
        VLMIGError: no such model, weights that are missing, damaged or not finite, or another
            value of ``features``.
    """

    def __init__(
        self,
        name: str | Path,
        layer: int = -2,
        features: str = "patches",
        device: str | torch.device = "cpu",
    ) -> None:
        if features not in ("patches", "pooled"):
            raise VLMIGError(f"vision_features={features!r}; expected patches or pooled")
        self.name, self.layer, self.features = str(name), layer, features
        self.device = torch.device(device)
        self.tower = load_tower(str(name))
        check_weights(self.tower.vision, str(name))
        self.tower.vision.to(self.device)

    def encode(self, images: Sequence[Image.Image | Tensor]) -> tuple[Tensor, Tensor]:
        """Encode n images, PIL or uint8 (3, H, W): features (n, P, C) in half precision and unit
        embeddings (n, E).

        The bytes of a result do not depend on the other images: every pass has the same size, the
        last one padded. On a CPU a pass has one image, since some libraries round by the position
        in a batch.
        """
        size = self._pass_size()
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        encoded = deterministic_map(self._encode_batch, batches, self.device)
        features, pooled = zip(*encoded, strict=True)
        return torch.cat(features), torch.cat(pooled)

    def _encode_batch(self, images: Sequence[Image.Image | Tensor]) -> tuple[Tensor, Tensor]:
        batch = [as_tensor(image).to(self.device) for image in images]
        padding = batch[:1] * (self._pass_size() - len(batch))
        pixels = self.tower.prepare(batch + padding)
        patches, embeddings = self.tower.encode_images(pixels, self.layer)
        unit = F.normalize(embeddings[: len(batch)].float(), dim=-1)
        features = unit[:, None] if self.features == "pooled" else patches[: len(batch)]
        return features.half().cpu(), unit.cpu()

    def _pass_size(self) -> int:
        return 1 if self.device.type == "cpu" else BATCH

    def encode_text(self, texts: Sequence[str]) -> Tensor | None:
        """Encode texts one by one: unit embeddings (n, E); None without a text side."""
        if not self.tower.has_text:
            return None
        # Tokenizers cannot be shared between threads.
        return torch.cat(deterministic_map(self._encode_text, texts, self.device, together=False))

    def _encode_text(self, text: str) -> Tensor:
        return F.normalize(self.tower.encode_texts([text]).float(), dim=-1).cpu()

    def fits(self, text: str) -> bool:
        """Tell whether the text side, if there is one, reads the text without cutting it."""
        return not self.tower.has_text or self.tower.fits(text)

    @property
    def scale(self) -> float | None:
        """The factor of cosines in the softmax that the encoder was trained with; None without
        one."""
        return self.tower.scale if self.tower.has_text else None

    def unread(self, texts: Iterable[str]) -> list[str]:
        """List the words that the text side never read in training, so that it can name nothing by
        them.

        Known only of an encoder whose folder has a file ``caption_words.txt``; of captions from the
        web every word is taken as read.
        """
        if self._caption_words is None:
            return []
        words = set[str]().union(*map(words_of, texts))
        return sorted(words - self._caption_words)

    @cached_property
    def _caption_words(self) -> frozenset[str] | None:
        file = Path(self.name) / CAPTION_WORDS
        return frozenset(file.read_text(encoding="utf-8").split()) if file.is_file() else None

    def encode_blank(self) -> Tensor:
        """Encode the blank image: (P, C)."""
        return self.encode([Image.new("RGB", (64, 64), BLANK)])[0][0].float()

    def identity(self) -> dict[str, str | int | float]:
        """Return everything that decides a feature: weights, preprocessing, layer, kind."""
        digest = hashlib.sha256(self.tower.preprocessing.encode())
        for name, value in sorted(self.tower.vision.state_dict().items()):
            digest.update(name.encode())
            digest.update(content_of(value))
        return {"encoder": digest.hexdigest()[:16], "layer": self.layer, "features": self.features}


def words_of(text: str) -> list[str]:
    """Split a text into its words, in lower case."""
    return re.findall(r"\w+", text.lower())


def as_tensor(image: Image.Image | Tensor) -> Tensor:
    """Turn an image into uint8 (3, H, W); a tensor is returned as it is."""
    if isinstance(image, Tensor):
        return image
    return torch.from_numpy(np.array(opened(image))).permute(2, 0, 1)


def load_tower(name: str) -> Tower:
    """Load a vision model by the library that its name belongs to; see ``VisionEncoder``.

    Raises:
        VLMIGError: no such model, or a name without weights.
    """
    folder = Path(name)
    settle_hub(name)
    in_open_clip_format = (folder / "open_clip_config.json").is_file() or not (
        folder / "config.json"
    ).is_file()
    try:
        if folder.is_dir() and not in_open_clip_format:
            # Without open_clip, whose import takes a second.
            from vlmig.vision import transformers_tower

            return transformers_tower.load(name)
        from vlmig.vision import openclip, transformers_tower

        if folder.is_dir():
            return openclip.load(f"local-dir:{name}")
        if name.startswith(("hf-hub:", "local-dir:")):
            return openclip.load(name)
        architecture, _, tag = name.partition("/")
        if tag and architecture in openclip.architectures():
            return openclip.load(architecture, tag)
        if tag:
            return transformers_tower.load(name)
    except VLMIGError:
        raise
    except Exception as error:  # damaged files break the libraries in any way
        raise VLMIGError(
            f"cannot load the vision encoder {name}: {why_damaged(Path(name), error)}; expected "
            "the folder or hub id of a CLIP, SigLIP, FLAVA or DINOv2 model of transformers with "
            "its preprocessor_config.json, or for open_clip a folder in local-dir format, "
            "hf-hub:owner/name, or architecture/tag such as ViT-B-32/openai"
        ) from error
    raise VLMIGError(
        f"vision encoder {name!r} names no weights; expected a folder, hf-hub:owner/name, "
        "architecture/tag such as ViT-B-32/openai, or a transformers hub id such as "
        "google/siglip-base-patch16-224"
    )
