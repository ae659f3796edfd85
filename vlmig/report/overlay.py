"""What moved an answer, drawn over its image: warm for it, cool against it."""

from __future__ import annotations

import numpy as np
from PIL import Image

FOR, AGAINST = (255, 140, 0), (30, 90, 255)
"""Colors that readers who tell few colors apart tell apart too."""
STRONGEST = 0.85
"""Opacity of the largest effect; others have the square root of their share of it, which an eye can
still see."""
PALE = 0.8
"""How far the image itself is brought to gray beneath."""


def overlay(image: Image.Image, effects: np.ndarray, scale: float) -> Image.Image:
    """Draw effects of patches, (rows, columns), over an image, RGB of its size.

    Orange speaks for the answer, blue against it, and the more the farther; the image beneath is
    pale, so that its own colors are not taken for effects.

    Args:
        scale: the effect that is drawn strongest, ``Attribution.scale``, so that the images of an
            answer can be compared.
    """
    picture = image.convert("RGB")
    gray = np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    pale = (1 - PALE) * np.asarray(picture, dtype=np.float32) + PALE * gray
    relative = np.clip(np.asarray(effects, dtype=np.float32) / max(scale, 1e-12), -1, 1)
    smooth = Image.fromarray(relative).resize(picture.size, Image.Resampling.BICUBIC)
    strength = np.asarray(smooth)[..., None]
    color = np.where(strength > 0, FOR, AGAINST)
    opacity = STRONGEST * np.sqrt(np.clip(np.abs(strength), 0, 1))
    return Image.fromarray(((1 - opacity) * pale + opacity * color).round().astype(np.uint8))
