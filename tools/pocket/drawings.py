"""Drawings of the pocket world's things in several sets, and the scenes made of them."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.scene_source import draw_glyph
from vlmig.pocket.scenes import GLYPH, SIZE, cropped, read_color, read_shape, scene

logger = logging.getLogger(__name__)
SCENES = 24
"""Scenes per concept and set."""
FLUENT = "@lobehub/fluent-emoji-3d@1.1.0"


def fetch_fluent(work: Path) -> Path:
    """Fetch the Fluent 3D drawings by npm, once, and return the folder of their files."""
    folder = work / "drawings" / "fluent"
    if not folder.exists():
        part = folder.with_name("fluent.part")
        part.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", FLUENT], cwd=part, check=True)
        subprocess.run(["tar", "xzf", next(part.glob("*.tgz")).name], cwd=part, check=True)
        part.rename(folder)
    return folder / "package" / "assets"


def drawers(work: Path) -> list[Callable[[Concept], Image.Image]]:
    """Return a function for each set that draws a concept as RGBA, square, cropped to its ink."""
    return [draw_glyph, partial(draw_fluent, fetch_fluent(work))]


@cache
def draw_fluent(folder: Path, concept: Concept) -> Image.Image:
    """Open a concept's Fluent drawing; where the set lacks it, the font's."""
    code = "-".join(f"{ord(character):x}" for character in concept.glyph if character != "\ufe0f")
    for name in (code, f"{code}-fe0f"):
        path = folder / f"{name}.webp"
        if path.exists():
            return squared(Image.open(path).convert("RGBA"))
    return draw_glyph(concept)


def squared(image: Image.Image) -> Image.Image:
    """Crop a transparent image to its ink and center it on a square."""
    ink = cropped(image)
    side = max(ink.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return square


def render_scenes(work: Path) -> np.ndarray:
    """Draw the pool of scenes once.

    Returns:
        uint8 (sets, concepts, SCENES, SIZE, SIZE, 3), read from disk when needed.
    """
    sets, concepts = drawers(work), load_concepts()

    def draw_all(pool: np.ndarray) -> None:
        for s, draw in enumerate(sets):
            for c, concept in enumerate(concepts):
                rng = np.random.default_rng((11, s, c))
                ink = draw(concept)
                for n in range(SCENES):
                    pool[s, c, n] = np.asarray(scene(ink, rng))
            logger.info("scenes: set %d of %d drawn", s + 1, len(sets))

    shape = (len(sets), len(concepts), SCENES, SIZE, SIZE, 3)
    return kept_images(work / "scenes.npy", shape, draw_all)


def kept_images(
    path: Path, shape: tuple[int, ...], draw: Callable[[np.ndarray], None]
) -> np.ndarray:
    """Fill an array of images once, whole or not at all, and read it from disk when needed.

    Args:
        path: the array's file, uint8.
        draw: fills an empty array of this shape.
    """
    if not path.exists():
        part = path.with_suffix(".part")
        images = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        draw(images)
        images.flush()
        part.rename(path)
    return np.load(path, mmap_mode="r")


def agreeing(work: Path, look: str) -> list[Concept]:
    """Return the concepts whose ``color`` or ``shape``, read from the drawing, is the same in all
    sets."""
    read = {"color": read_color, "shape": read_shape}[look]
    sets, found = drawers(work), []
    for concept in load_concepts():
        names = {read(draw(concept).resize((GLYPH, GLYPH)))[0] for draw in sets}
        if len(names) == 1:
            found.append(concept)
    return found


if __name__ == "__main__":
    for name in ("color", "shape"):
        share = len(agreeing(Path("runs/pocket"), name)) / len(load_concepts())
        print(f"the sets agree on the {name}s of {100 * share:.1f} % of things")
