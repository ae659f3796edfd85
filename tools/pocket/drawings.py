"""Drawings of the pocket world's things in several sets, and the scenes made of them."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.scenes import SIZE, glyph, scene

logger = logging.getLogger(__name__)
SCENES = 24
"""Scenes per concept and set."""
FLUENT = "@lobehub/fluent-emoji-3d@1.1.0"
SETS = ("noto", "fluent")


def fetch_fluent(work: Path) -> Path:
    """Fetch the Fluent 3D drawings by npm, once, and return the folder of their pictures."""
    folder = work / "drawings" / "fluent"
    if not folder.exists():
        part = folder.with_name("fluent.part")
        part.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", FLUENT], cwd=part, check=True)
        subprocess.run(["tar", "xzf", next(part.glob("*.tgz")).name], cwd=part, check=True)
        part.rename(folder)
    return folder / "package" / "assets"


def drawing(concept: Concept, kind: str, fluent: Path) -> Image.Image | None:
    """Return a concept's drawing as RGBA, square, cropped to its ink; None where the set has
    none."""
    if kind == "noto":
        return glyph(concept.glyph)
    code = "-".join(f"{ord(character):x}" for character in concept.glyph if character != "\ufe0f")
    for name in (code, f"{code}-fe0f"):
        path = fluent / f"{name}.webp"
        if path.exists():
            return squared(Image.open(path).convert("RGBA"))
    return None


def squared(picture: Image.Image) -> Image.Image:
    """Crop a transparent picture to its ink and centre it on a square."""
    ink = picture.crop(picture.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox())
    side = max(ink.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return square


def render_scenes(work: Path) -> np.ndarray:
    """Draw the pool of scenes once.

    Returns:
        uint8 (sets, concepts, SCENES, SIZE, SIZE, 3), read from disk when needed; a set that lacks
        a concept
        shows the first set's drawing.
    """
    path = work / "scenes.npy"
    if not path.exists():
        fluent, concepts = fetch_fluent(work), load_concepts()
        shape = (len(SETS), len(concepts), SCENES, SIZE, SIZE, 3)
        part = path.with_suffix(".part")
        pool = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        for s, kind in enumerate(SETS):
            for c, concept in enumerate(concepts):
                rng = np.random.default_rng((11, s, c))
                ink = drawing(concept, kind, fluent) or glyph(concept.glyph)
                for n in range(SCENES):
                    pool[s, c, n] = np.asarray(scene(ink, rng))
            logger.info("scenes: %s drawn", kind)
        pool.flush()
        part.rename(path)
    return np.load(path, mmap_mode="r")
