"""What imagination returns for one prompt: pictures, features, and where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """The pictures of one text, as the model sees them: those beside it (imagined, or given in their place), and those in it."""

    prompts: list[str]
    """What each picture shows: the same for all, but under the policy ``sentences`` and for split prompts."""
    features: Tensor
    """(K, P, C)."""
    alignment: Tensor
    """Cosine of each picture with its prompt, (K,); NaN where the encoder has no text side."""
    items: list[Imagined]
    keys: list[str]
    """Where the store keeps each of them; empty where it does not."""
    shown: Tensor = field(default_factory=lambda: torch.zeros(0))
    """Features of the pictures that are shown in the text, in their order, (M, P, C)."""

    @classmethod
    def none(cls, config: VLMIGConfig, prompts: Sequence[str] = ()) -> Visuals:
        """Return no pictures: text alone."""
        return cls(list(prompts), torch.zeros(0, config.vision_patches, config.vision_width), torch.zeros(0), [], [])

    def first(self, k: int) -> Visuals:
        """Keep the first k pictures beside the text, and all of those in it."""
        return self.between(0, k)

    def between(self, start: int, end: int) -> Visuals:
        """Keep some of the pictures beside the text, and all of those in it."""
        own = slice(start, end)
        parts = (self.prompts[own], self.features[own], self.alignment[own], self.items[own], self.keys[own])
        return Visuals(*parts, self.shown)

    @property
    def prompt(self) -> str:
        """What the first picture shows."""
        return self.prompts[0]

    @property
    def images(self) -> list[Image.Image]:
        """The pictures; empty ones where there are none: an embedding, or a store that keeps no pictures."""
        return [item.picture or Image.new("RGB", (64, 64), BLANK) for item in self.items]

    @property
    def diversity(self) -> float:
        """How different the pictures are; see ``vlmig.imagination.guards.diversity``."""
        return diversity(torch.stack([item.pooled for item in self.items]))

    def described(self) -> dict[str, Any]:
        """Return what is worth knowing of the pictures without looking at them."""
        alignment = [None if a != a else round(a, 4) for a in self.alignment.tolist()]
        redraws = [item.redraws for item in self.items]
        return {
            "prompts": self.prompts,
            "alignment": alignment,
            "diversity": round(self.diversity, 4),
            "redraws": redraws,
        }
