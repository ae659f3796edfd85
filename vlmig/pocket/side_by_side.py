"""Scenes of two or three things side by side, drawn to scale or to any other.

True sizes differ by more than an image has pixels, so the scale is compressed: a thing's extent
grows with the square root of its size, and no thing is smaller than ``LEAST`` pixels. What is
larger is always drawn larger.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vlmig.pocket.concepts import Concept
from vlmig.pocket.scenes import GLYPH, SIZE, background, cropped

LEAST = 16
"""Least extent of a thing in pixels; the encoder's patches have 12 of a scene's."""
POWER = 0.5
"""The power of the ratio of two sizes that is drawn, above ``LEAST``."""
FILLED = (0.8, 0.94)
"""Share of a scene's side that the extents fill together."""
GAP = 2
"""Least pixels between things."""
RATIOS = (3.0, 100.0)
"""Ratio of a random size to the next smaller one."""


def drawn_extents(sizes: Sequence[float], room: float) -> list[int]:
    """Return the largest extent in pixels of each thing of a scene.

    Args:
        sizes: largest extents in one unit, such as meters.
        room: the sum of the extents in pixels.
    """
    largest = max(sizes)
    shares = [(size / largest) ** POWER for size in sizes]
    spread = (room - LEAST * len(sizes)) / sum(shares)
    return [round(LEAST + spread * share) for share in shares]


def random_sizes(count: int, rng: np.random.Generator) -> list[float]:
    """Draw sizes that no name tells: each at least ``RATIOS[0]`` times the next, in any order."""
    low, high = np.log(RATIOS)
    steps = np.exp(rng.uniform(low, high, count - 1))
    return [float(size) for size in rng.permutation(np.cumprod([1.0, *steps]))]


def side_by_side(
    inks: Sequence[Image.Image], sizes: Sequence[float], rng: np.random.Generator
) -> Image.Image:
    """Place drawings (RGBA, square) on a random background, SIZE x SIZE RGB, in any order from left
    to right; ``drawn_extents`` says how large."""
    extents = drawn_extents(sizes, SIZE * rng.uniform(*FILLED))
    things = [_fitted(ink, extent, rng) for ink, extent in zip(inks, extents, strict=True)]
    image = background(rng)
    spare = SIZE - sum(thing.width for thing in things) - GAP * (len(things) - 1)
    left = 0.0
    margins = spare * rng.dirichlet(np.ones(len(things) + 1))
    for number, margin in zip(rng.permutation(len(things)), margins, strict=False):
        thing = things[number]
        left += margin
        corner = (int(left), int(rng.integers(0, SIZE - thing.height + 1)))
        image.paste(thing, corner, thing)
        left += thing.width + GAP
    return image


def draw_group(concepts: Sequence[Concept], count: int, rng: np.random.Generator) -> list[Concept]:
    """Draw different things of those that have a size."""
    sized = [concept for concept in concepts if concept.size_m is not None]
    return [sized[number] for number in rng.choice(len(sized), count, replace=False)]


def _fitted(ink: Image.Image, extent: int, rng: np.random.Generator) -> Image.Image:
    """Turn a drawing a little, and bring the larger side of its ink to an extent."""
    large = ink.resize((2 * GLYPH, 2 * GLYPH), Image.Resampling.LANCZOS)
    turned = large.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC, expand=True)
    thing = cropped(turned)
    scale = extent / max(thing.size)
    size = (max(1, round(thing.width * scale)), max(1, round(thing.height * scale)))
    return thing.resize(size, Image.Resampling.LANCZOS)
