"""Image-text pairs whose pictures are already patch features: what the adapter learns from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass
class CaptionedFeatures:
    """Patch features of n pictures and captions that point at them."""

    features: Tensor
    """(n, P, C), half precision."""
    captions: list[tuple[int, str]]
    """Picture number and what is said of it."""

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[Tensor, list[str]]:
        """Draw a batch of pairs: features (batch, P, C) and captions."""
        rows = [self.captions[i] for i in rng.integers(0, len(self.captions), batch)]
        return self.features[[picture for picture, _ in rows]].float(), [caption for _, caption in rows]
