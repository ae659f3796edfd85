"""Scenes of two or three things to scale, which generator and encoder may learn beside those of
one.

There are some 150,000 pairs of concepts, so chance draws them: ``GROUPS`` scenes in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tools.pocket.autoencoder import load_autoencoder
from tools.pocket.drawings import drawers, kept_images
from tools.pocket.loop import save_atomically
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.scene_source import decode_latents, encode_scenes
from vlmig.pocket.scenes import SIZE
from vlmig.pocket.side_by_side import draw_group, side_by_side
from vlmig.pocket.size_text import group_captions

GROUPS = 8000
"""Each concept is in about 30 of them."""
THREE = 0.2
"""Share of scenes with three things."""
CHUNK = 500


def group_of(number: int) -> tuple[list[Concept], np.random.Generator]:
    """Return the things of a scene, and its generator."""
    rng = np.random.default_rng((51, number))
    return draw_group(load_concepts(), 3 if rng.random() < THREE else 2, rng), rng


def draw_group_caption(number: int, rng: np.random.Generator) -> str:
    """Draw a caption of a scene: its things in any order, each by any name of that size."""
    group, _ = group_of(number)
    nouns = [str(rng.choice(concept.sized_names)) for concept in group]
    captions = group_captions([nouns[i] for i in rng.permutation(len(nouns))])
    return captions[rng.integers(0, len(captions))]


@dataclass(frozen=True)
class Groups:
    """Scenes of several things among those of one."""

    latents: Tensor
    """From ``encode_groups``."""
    share: float
    """Of a batch."""

    def draw(self, batch: int, rng: np.random.Generator) -> list[int]:
        """Draw the numbers of a batch's scenes."""
        return rng.integers(0, GROUPS, round(self.share * batch)).tolist()


def load_groups(out: Path, work: Path, share: float) -> Groups | None:
    """Draw and encode the scenes, once, unless there is no share of them."""
    return Groups(encode_groups(out, work), share) if share else None


def render_groups(work: Path) -> np.ndarray:
    """Draw every scene once, at true scale, the sets of drawings in turn.

    Returns:
        uint8 (GROUPS, SIZE, SIZE, 3), read from disk when needed.
    """

    def draw(pool: np.ndarray) -> None:
        sets = drawers(work)
        for number in range(GROUPS):
            group, rng = group_of(number)
            inks = [sets[number % len(sets)](concept) for concept in group]
            sizes = [concept.size_m or 0.0 for concept in group]
            pool[number] = np.asarray(side_by_side(inks, sizes, rng))

    return kept_images(work / "groups.npy", (GROUPS, SIZE, SIZE, 3), draw)


def encode_groups(out: Path, work: Path) -> Tensor:
    """Encode every scene once, scaled: half precision (GROUPS, 8, H/8, W/8)."""
    path = work / "group_latents.pt"
    if not path.exists():
        model, scenes = load_autoencoder(out), render_groups(work)
        rows = []
        for start in range(0, GROUPS, CHUNK):
            rows.append(encode_scenes(model, np.asarray(scenes[start : start + CHUNK])))
        save_atomically(torch.cat(rows) * model.config.scaling_factor, path)
    return torch.load(path, weights_only=True)


def group_pools(out: Path, work: Path) -> list[np.ndarray]:
    """Return plain and decoded scenes, (GROUPS, SIZE, SIZE, 3) each."""

    def draw(pool: np.ndarray) -> None:
        model = load_autoencoder(out)
        latents = encode_groups(out, work) / model.config.scaling_factor
        for start in range(0, GROUPS, CHUNK):
            pool[start : start + CHUNK] = decode_latents(model, latents[start : start + CHUNK])

    scenes = render_groups(work)
    return [scenes, kept_images(work / "groups_decoded.npy", scenes.shape, draw)]
