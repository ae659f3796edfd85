"""Training pairs of the pocket world: scenes of recolored concepts, with captions."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmig.data.pairs import Pair
from vlmig.errors import VLMIGError
from vlmig.io.hashing import digest_folder
from vlmig.io.rows import Bad
from vlmig.models.checkpoint import POCKET
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.scenes import (
    FOCAL_COLORS,
    FONT,
    GLYPH,
    glyph,
    read_color,
    read_shape,
    recolored,
    reshaped,
    scene,
)
from vlmig.pocket.text import invented_noun, look_sentence, plain_sentence
from vlmig.runtime import cpu_autocast

if TYPE_CHECKING:
    from diffusers import AutoencoderDC

BATCH = 48
SCENES = 200
CLEAR = 0.45
"""Least share of the dominant color in a scene."""
CAPTIONS = 6
"""Captions of each scene."""
GENERIC = ("object", "thing", "item")


def draw_glyph(concept: Concept) -> Image.Image:
    """Draw a concept as the font does."""
    return glyph(concept.glyph)


class Drawn(NamedTuple):
    """What a scene shows."""

    ink: Image.Image
    """RGBA."""
    color: str
    shape: str


class RecoloredScenes:
    """Training pairs: scenes in random colors and shapes; every other one passes the generator's
    autoencoder.

    Args:
        scenes: number of scenes of each concept.
        generator: folder of the pipeline whose autoencoder is used.
        sets: functions that draw a concept (RGBA, square), taken in turn; the first is the font.

    Raises:
        VLMIGError: the font that draws the scenes is not installed.
    """

    def __init__(
        self,
        scenes: int = SCENES,
        generator: str = str(POCKET / "generator"),
        *,
        sets: Sequence[Callable[[Concept], Image.Image]] = (draw_glyph,),
    ) -> None:
        if not FONT.exists():
            raise VLMIGError(
                f"the source pocket draws with {FONT}, which is missing; apt-get install "
                "fonts-noto-color-emoji"
            )
        self.name, self.scenes, self.sets = "pocket", scenes, sets
        self.vae, self._loading = Path(generator) / "vae", Lock()
        self.concepts = [c for c in load_concepts() if c.split == "supervised"]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return CAPTIONS * self.scenes * len(self.concepts)

    @property
    def version(self) -> str:
        """What decides the scenes beside their numbers: features of others are not taken for
        theirs."""
        palette = zlib.crc32(repr(FOCAL_COLORS).encode())
        return f"{digest_folder(self.vae)} {len(self.sets)} {palette}"

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every caption of each scene."""
        scenes = list(product(range(len(self.concepts)), range(self.scenes)))
        facts = ((self.concepts[i].name, *self.drawn(i, j)[0][1:]) for i, j in scenes)
        source = self.version
        for number, caption in captions(facts):
            i, j = scenes[number]
            version = f"{source} {self.concepts[i].name}"
            yield Pair(caption, f"{i}/{j}", group=f"{i}/{j}", version=version)

    def open(self, pair: Pair) -> Image.Image:
        """Draw a scene."""
        concept, number = map(int, pair.picture.split("/"))
        return self.drawn_scene(concept, number)[1]

    def drawn_scene(self, concept: int, number: int) -> tuple[Drawn, Image.Image]:
        """Return what a scene shows, and the scene."""
        drawn, rng = self.drawn(concept, number)
        return drawn, self._finished(scene(drawn.ink, rng), number)

    def _finished(self, image: Image.Image, number: int) -> Image.Image:
        """Pass every other scene through the autoencoder."""
        if number % 2:
            return image
        with self._loading:  # several threads open images
            vae = _autoencoder(self.vae)
        return Image.fromarray(decode_latents(vae, encode_scenes(vae, np.asarray(image)[None]))[0])

    def drawn(self, concept: int, number: int) -> tuple[Drawn, np.random.Generator]:
        """Reshape a drawing, and recolor it until one color dominates; return its generator too."""
        rng = np.random.default_rng((9, concept, number))
        draw = self.sets[number // 2 % len(self.sets)]  # every other scene is decoded, of each set
        ink = reshaped(draw(self.concepts[concept]).resize((GLYPH, GLYPH)), rng)
        while True:
            tinted = recolored(ink, rng)
            color, share = read_color(tinted.resize((40, 40)))
            if share >= CLEAR:
                return Drawn(tinted, color, read_shape(ink)[0]), rng


@cache
def _autoencoder(folder: Path) -> AutoencoderDC:
    from diffusers import AutoencoderDC  # slow to import, and a plan opens no image

    return AutoencoderDC.from_pretrained(folder).to(memory_format=torch.channels_last)


def captions(facts: Iterable[tuple[str, str, str]]) -> Iterator[tuple[int, str]]:
    """Yield six captions for each scene (concept, color and shape): three of the color, two of the
    shape, one of neither."""
    rng = random.Random(10)
    concepts: dict[str, Concept] = {c.name: c for c in load_concepts()}
    for i, (name, color, shape) in enumerate(facts):
        concept = concepts[name]
        for _ in range(3):
            yield i, look_sentence(any_noun(concept, rng), "color", color, rng)
        for _ in range(2):
            yield i, look_sentence(any_noun(concept, rng), "shape", shape, rng)
        yield i, plain_sentence(concept.names, rng)


def any_noun(concept: Concept, rng: random.Random) -> str:
    """Return a noun for a thing: half of the time its name, else an invented or generic one."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(concept.names)
    return invented_noun(rng) if kind < 0.85 else rng.choice(GENERIC)


def to_pixels(pictures: list[Image.Image] | np.ndarray) -> Tensor:
    """Stack RGB images as floats in [-1, 1], (B, 3, H, W)."""
    array = np.stack([np.asarray(p) for p in pictures]).astype(np.float32) / 127.5 - 1
    return torch.from_numpy(array).permute(0, 3, 1, 2)


@torch.no_grad()
def encode_scenes(vae: AutoencoderDC, scenes: np.ndarray) -> Tensor:
    """Encode scenes (n, H, W, 3) to unscaled latents (n, 8, H/8, W/8), half precision."""
    rows = []
    for batch in np.array_split(scenes, max(1, len(scenes) // BATCH)):
        with cpu_autocast():
            pixels = to_pixels(batch).contiguous(memory_format=torch.channels_last)
            rows.append(vae.encode(pixels).latent.half())
    return torch.cat(rows)


@torch.no_grad()
def decode_latents(vae: AutoencoderDC, latents: Tensor) -> np.ndarray:
    """Decode unscaled latents (n, 8, H/8, W/8) to images, uint8 (n, H, W, 3)."""
    with cpu_autocast():
        pixels = vae.decode(latents.float().contiguous(memory_format=torch.channels_last)).sample
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
