"""The pocket adapter: trained by the ordinary code on recoloured scenes of supervised concepts.

The colour is drawn anew for every scene and its label read from the pixels, so the text alone cannot know it; with
natural colours the layer would learn to ignore the pictures.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import AutoTokenizer

from vlmig.checkpoint import load_language_model, write_text
from vlmig.config import VLMIGConfig
from vlmig.data.pairs import CaptionedFeatures
from vlmig.modeling import VLMIGForCausalLM
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.generator import decode_latents, encode_scenes
from vlmig.pocket.scenes import glyph, read_color, recolored, scene
from vlmig.pocket.text import invented_noun, look_sentence, plain_sentence
from vlmig.training import train_adapter
from vlmig.vision import VisionEncoder

logger = logging.getLogger(__name__)

SCENES = 200
VISION_LAYER = -3
"""The second block of four: later ones know more of names and less of colours."""
CLEAR = 0.45
"""Least share of the dominant colour for a scene to be captioned with it."""
GENERIC = ("object", "thing", "item")


def train_pocket_adapter(out: Path, work: Path, *, steps: int, batch: int, fusion: str = "cross_attention") -> None:
    """Train an adapter of one kind of fusion on (recoloured scene, caption) pairs and save the checkpoint."""
    base = load_language_model(VLMIGForCausalLM.auto_class, str(out / "language_model"))
    tokenizer = AutoTokenizer.from_pretrained(out / "language_model")
    encoder = VisionEncoder(out / "vision_encoder", VISION_LAYER)
    blank = encoder.encode_blank()
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
        fusion=fusion,
        fusion_heads=6,
    )
    torch.manual_seed(8)
    model = VLMIGForCausalLM(config, base).train()
    model.blank_features.copy_(blank)
    pairs = captioned_scenes(encoder, out, work)
    checkpoint = work / f"adapter_{fusion}.pt"
    train_adapter(model, tokenizer, pairs, steps=steps, batch=batch, learning_rate=1e-3, checkpoint=checkpoint)
    write_text(out / "README.md", (Path(__file__).parent / "card.md").read_text())
    model.save_pretrained(out)


def captioned_scenes(encoder: VisionEncoder, out: Path, work: Path) -> CaptionedFeatures:
    """Draw recoloured scenes, every other one seen through the generator's autoencoder, and caption them."""
    path = work / "recolored.pt"
    if not path.exists():
        pictures, facts = draw_recolored()
        vae = AutoencoderKL.from_pretrained(out / "generator" / "vae").to(memory_format=torch.channels_last)
        array = np.stack([np.asarray(p) for p in pictures])
        latents = encode_scenes(vae, array[::2].reshape(-1, 20, *array.shape[1:]))
        array[::2] = np.concatenate([decode_latents(vae, row) for row in latents])
        features, _ = encoder.encode([Image.fromarray(row) for row in array])
        torch.save({"features": features, "facts": facts}, path)
    loaded = torch.load(path, weights_only=True)
    return CaptionedFeatures(loaded["features"], captions(loaded["facts"]))


def draw_recolored() -> tuple[list[Image.Image], list[tuple[str, str]]]:
    """Draw scenes of every supervised concept in random colours: pictures and their (name, colour) facts."""
    pictures, facts = [], []
    for i, concept in enumerate(c for c in load_concepts() if c.split == "supervised"):
        rng = np.random.default_rng((9, i))
        ink = glyph(concept.glyph)
        drawn = 0
        while drawn < SCENES:
            tinted = recolored(ink, rng)
            color, share = read_color(tinted.resize((40, 40)))
            if share >= CLEAR:
                pictures.append(scene(tinted, rng))
                facts.append((concept.name, color))
                drawn += 1
    return pictures, facts


def captions(facts: list[tuple[str, str]]) -> list[tuple[int, str]]:
    """Write five captions for each scene: three of its colour, one of its shape, one that tells no looks.

    Half of them call the thing by an invented or a generic name, so that its name says nothing of its look.
    """
    rng = random.Random(10)
    concepts: dict[str, Concept] = {c.name: c for c in load_concepts()}
    rows = []
    for i, (name, color) in enumerate(facts):
        concept = concepts[name]

        def noun(concept: Concept = concept) -> str:
            kind = rng.random()
            if kind < 0.5:
                return rng.choice(concept.names)
            return invented_noun(rng) if kind < 0.85 else rng.choice(GENERIC)

        rows += [(i, look_sentence(noun(), "color", color, rng)) for _ in range(3)]
        rows.append((i, look_sentence(noun(), "shape", str(concept.shape), rng)))
        rows.append((i, plain_sentence(concept.names, rng)))
    return rows
