"""The images of one text: prompts, features and origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlmig.imagination.guards import diversity
from vlmig.imagination.store import Imagined
from vlmig.models.config import VLMIGConfig
from vlmig.vision import BLANK


@dataclass
class Visuals:
    """The images of one text: those beside it (imagined or given), and those inside it."""

    prompts: list[str]
    """The prompt of each image; they differ only for the policy ``sentences`` and split prompts."""
    features: Tensor
    """(K, P, C)."""
    alignment: Tensor
    """CLIP similarity of each image and its prompt, (K,); NaN if the encoder has no text side."""
    items: list[Imagined]
    keys: list[str]
    """The key of each image in the store; empty for an image that is not stored."""
    shown: Tensor = field(default_factory=partial(torch.zeros, 0))
    """Features of the images inside the text, in their order, (M, P, C)."""
    given: bool = False
    """Whether the images beside the text were given, not imagined."""

    @classmethod
    def none(cls, config: VLMIGConfig, prompts: Sequence[str] = ()) -> Visuals:
        """Return no images: text alone."""
        features = torch.zeros(0, config.vision_patches, config.vision_width)
        return cls(list(prompts), features, torch.zeros(0), [], [])

    def first(self, k: int) -> Visuals:
        """Return the first k images beside the text, and all of those in it."""
        return self.between(0, k)

    def between(self, start: int, end: int) -> Visuals:
        """Return images ``start`` to ``end`` beside the text, and all of those in it."""
        cut = slice(start, end)
        lists = (self.prompts[cut], self.features[cut], self.alignment[cut], self.items[cut])
        return Visuals(*lists, self.keys[cut], self.shown, self.given)

    def chosen(self, indices: Sequence[int]) -> Visuals:
        """Return the images beside the text at these indices, and all of those in it."""
        rows = list(indices)
        prompts, keys = [self.prompts[row] for row in rows], [self.keys[row] for row in rows]
        items = [self.items[row] for row in rows]
        features, alignment = self.features[rows], self.alignment[rows]
        return Visuals(prompts, features, alignment, items, keys, self.shown, self.given)

    @property
    def fit(self) -> Tensor:
        """How well each image fits its prompt, as a mixture reads it, (K,): the alignment, or
        infinity for a given image, which is what it shows, whatever the words."""
        return torch.full_like(self.alignment, torch.inf) if self.given else self.alignment

    @property
    def prompt(self) -> str:
        """The prompt of the first image."""
        return self.prompts[0]

    @property
    def images(self) -> list[Image.Image]:
        """The images; blank ones for embeddings, and from a store that holds no images."""
        return [item.image or Image.new("RGB", (64, 64), BLANK) for item in self.items]

    @property
    def diversity(self) -> float:
        """How different the images are; see ``vlmig.imagination.guards.diversity``."""
        return diversity(torch.stack([item.pooled for item in self.items]))

    def described(self) -> dict[str, Any]:
        """Return the figures of the images, for a report."""
        return {
            "prompts": self.prompts,
            "alignment": [None if a != a else round(a, 4) for a in self.alignment.tolist()],
            "diversity": round(self.diversity, 4),
            "redraws": [item.redraws for item in self.items],
        }
