"""What the pocket adapter learns from: recoloured scenes of supervised concepts, and captions that say their colour.

The colour is drawn anew for every scene and its label read from the pixels, so the text alone cannot know it; with
natural colours the layer would learn to ignore the pictures. ``configs/pocket.yaml`` trains on them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer

from vlmig.checkpoint import POCKET, load_language_model, write_text
from vlmig.config import VLMIGConfig
from vlmig.data.pairs import Bad, Pair
from vlmig.errors import VLMIGError
from vlmig.imagination.diffusion import digest_folder
from vlmig.modeling import VLMIGForCausalLM
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.scenes import FONT, glyph, read_color, recolored, scene
from vlmig.pocket.text import invented_noun, look_sentence, plain_sentence
from vlmig.store import FeatureStore
from vlmig.vision import VisionEncoder

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

SCENES = 200
VISION_LAYER = -3
"""The second block of four: later ones know more of names and less of colours."""
CLEAR = 0.45
"""Least share of the dominant colour for a scene to be captioned with it."""
CAPTIONS = 5
"""Of each scene."""
GENERIC = ("object", "thing", "item")


class RecoloredScenes:
    """Source of training pairs: scenes in random colours, every other one seen through the generator's autoencoder.

    Args:
        scenes: of each concept.
        generator: folder of the pipeline whose autoencoder is used.

    Raises:
        VLMIGError: the font that draws the scenes is not installed.
    """

    def __init__(self, scenes: int = SCENES, generator: str = str(POCKET / "generator")) -> None:
        if not FONT.exists():
            raise VLMIGError(
                f"the source pocket draws with {FONT}, which is missing; apt-get install fonts-noto-color-emoji"
            )
        self.name, self.scenes, self.vae, self._loading = "pocket", scenes, Path(generator) / "vae", Lock()
        self.concepts = [c for c in load_concepts() if c.split == "supervised"]

    def __len__(self) -> int:
        """Count the pairs without drawing any."""
        return CAPTIONS * self.scenes * len(self.concepts)

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield five captions of each scene."""
        places = [(i, j) for i in range(len(self.concepts)) for j in range(self.scenes)]
        facts = ((self.concepts[i].name, self._colored(i, j)[1]) for i, j in places)
        version = digest_folder(self.vae)
        for number, caption in captions(facts):
            i, j = places[number]
            yield Pair(caption, f"{i}/{j}", group=f"{i}/{j}", version=f"{version} {self.concepts[i].name}")

    def open(self, pair: Pair) -> Image.Image:
        """Draw a scene."""
        i, j = map(int, pair.picture.split("/"))
        tinted, _, rng = self._colored(i, j)
        picture = scene(tinted, rng)
        if j % 2:
            return picture
        from vlmig.pocket.generator import decode_latents, encode_scenes  # with diffusers, which a plan does not need

        with self._loading:  # pictures are opened side by side
            vae = _autoencoder(self.vae)
        return Image.fromarray(decode_latents(vae, encode_scenes(vae, np.asarray(picture)[None, None])[0])[0])

    def _colored(self, concept: int, number: int) -> tuple[Image.Image, str, np.random.Generator]:
        """Colour a glyph until one colour is clear: the glyph, the colour, and the source of what is random further on."""
        rng = np.random.default_rng((9, concept, number))
        while True:
            tinted = recolored(glyph(self.concepts[concept].glyph), rng)
            color, share = read_color(tinted.resize((40, 40)))
            if share >= CLEAR:
                return tinted, color, rng


@cache
def _autoencoder(folder: Path) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder).to(memory_format=torch.channels_last)


def captions(facts: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> Iterator[tuple[int, str]]:
    """Write five captions for each scene (its concept and colour): three of its colour, one of its shape, one that tells no looks."""
    rng = random.Random(10)
    concepts: dict[str, Concept] = {c.name: c for c in load_concepts()}
    for i, (name, color) in enumerate(facts):
        concept = concepts[name]
        for _ in range(3):
            yield i, look_sentence(any_noun(concept, rng), "color", color, rng)
        yield i, look_sentence(any_noun(concept, rng), "shape", str(concept.shape), rng)
        yield i, plain_sentence(concept.names, rng)


def any_noun(concept: Concept, rng: random.Random) -> str:
    """Call a thing by its name, or half of the time by an invented or generic one, which says nothing of its look."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(concept.names)
    return invented_noun(rng) if kind < 0.85 else rng.choice(GENERIC)


def train_pocket_adapter(model: Path, work: Path, *, recipe: str) -> None:
    """Train the adapter of a pocket world by a recipe, as ``vlmig train`` does, and put it into the world's folder."""
    from vlmig.training import load_recipe, train  # with accelerate, which the sources above do not need

    if not (model / "config.json").exists():
        begin_checkpoint(model)
    changes = [f"model.from={model}", f"stages.0.data.0.generator={model / 'generator'}"]
    chosen = load_recipe(Path(recipe), changes)
    trained = train(
        chosen, work / Path(recipe).stem, store=FeatureStore(work / "store"), own={"pocket": RecoloredScenes}
    )
    trained.model.save_pretrained(model)


def begin_checkpoint(out: Path) -> None:
    """Write the checkpoint of a world whose parts are there, with an untrained adapter."""
    base = load_language_model(VLMIGForCausalLM.auto_class, str(out / "language_model"))
    AutoTokenizer.from_pretrained(out / "language_model")  # or the folder would be of no use
    blank = VisionEncoder(out / "vision_encoder", VISION_LAYER).encode_blank()
    config = VLMIGConfig(
        text_config=base.config.to_dict(),
        vision_width=blank.shape[1],
        vision_patches=blank.shape[0],
        vision_layer=VISION_LAYER,
        imaginer_steps=8,
        imaginer_guidance=3.0,
        imaginer_size=64,
        imaginer_batch=3,
        projector_width=256,
        fusion_heads=6,
    )
    write_text(out / "README.md", (Path(__file__).parent / "card.md").read_text())
    VLMIGForCausalLM(config, base).save_pretrained(out)
