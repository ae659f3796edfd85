"""What moved an answer, drawn over its image: orange for it, blue against it."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

FOR, AGAINST = (255, 140, 0), (30, 90, 255)
"""Colors that readers who tell few colors apart tell apart too."""
STRONGEST = 0.85
"""Opacity of the largest effect; others have the square root of their share of it, which an eye can
still see."""
PALE = 0.8
"""How far the image beneath is brought to gray, so that its own colors are not taken for effects;
``page.css`` does the same."""
CELLS = 12
"""Most rows and columns of a layer in a page: of more patches, several share a cell."""


def overlay(image: Image.Image, effects: np.ndarray, scale: float) -> Image.Image:
    """Draw effects of patches, (rows, columns), over an image, RGB of its size.

    Args:
        scale: the effect that is drawn strongest, ``Attribution.scale``, so that the images of an
            answer can be compared.
    """
    beneath = image.convert("RGB")
    pale = Image.blend(beneath, beneath.convert("L").convert("RGB"), PALE)
    drawn = layer(effects, scale).resize(image.size, Image.Resampling.BICUBIC)
    return Image.alpha_composite(pale.convert("RGBA"), drawn).convert("RGB")


def layer(effects: np.ndarray, scale: float) -> Image.Image:
    """Return the colors alone, RGBA with a pixel for each patch."""
    relative = np.clip(np.asarray(effects, dtype=float) / max(scale, 1e-12), -1, 1)
    colors = np.where(relative[..., None] > 0, FOR, AGAINST)
    opacity = 255 * STRONGEST * np.sqrt(np.abs(relative[..., None]))
    return Image.fromarray(np.concatenate([colors, opacity], -1).round().astype(np.uint8))


def encoded(effects: np.ndarray, scale: float) -> str:
    """Return a layer of at most ``CELLS`` rows and columns as a PNG in base64, for a page."""
    drawn, buffer = layer(effects, scale), io.BytesIO()
    drawn.thumbnail((CELLS, CELLS), Image.Resampling.BOX)
    drawn.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
