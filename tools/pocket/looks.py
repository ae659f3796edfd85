"""The encoder's second training: its patches learn what a scene looks like, beside what it is
called.

Names alone teach it little of colors and shapes. Here two linear heads must read them from the
mean of the patches, on recolored and reshaped scenes of supervised concepts, whose looks are
random; names are learned on. The heads are thrown away.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn
from transformers import CLIPTokenizer

from tools.pocket.autoencoder import scene_pools
from tools.pocket.captions import tokenize
from tools.pocket.drawings import drawers
from tools.pocket.encoder import log_naming, named_scenes, normalized, save_open_clip
from tools.pocket.fitting import fit_alone
from vlmig.pocket.scene_source import RecoloredScenes
from vlmig.pocket.scenes import COLORS
from vlmig.pocket.tasks import SHAPES
from vlmig.runtime import cpu_autocast

logger = logging.getLogger(__name__)
LAYER = -1
"""The block whose patches are read; those before it learn with it."""
SCENES = 160
"""Altered scenes of each supervised concept; the last two are for the final count."""
COLOR, SHAPE = 0.5, 1.0
"""Weights of their losses, beside that of the names; shapes are harder."""


class Looks(NamedTuple):
    """Altered scenes and what each shows."""

    scenes: np.ndarray
    """uint8 (n, H, W, 3), concept after concept."""
    colors: np.ndarray
    """Numbers of ``COLORS``, (n,)."""
    shapes: np.ndarray
    """Numbers of ``SHAPES``, (n,)."""


def train_looks(model: Path, work: Path, *, steps: int, batch: int, names: int) -> None:
    """Train the encoder in ``model`` on, by names and looks, and save it in its place.

    Args:
        batch: number of altered scenes in a step.
        names: number of scenes and their names.
    """
    out = model / "vision_encoder"
    tokenizer = CLIPTokenizer.from_pretrained(out)
    config = json.loads((out / "open_clip_config.json").read_text())["model_cfg"]
    clip = open_clip.create_model(f"local-dir:{out}")
    torch.manual_seed(6)
    width = config["vision_cfg"]["width"]
    heads = nn.ModuleDict(
        {"color": nn.Linear(width, len(COLORS)), "shape": nn.Linear(width, len(SHAPES))}
    )
    pools, looks = scene_pools(model / "generator", work), altered_scenes(model, work)
    last_two = np.arange(len(looks.scenes)) % SCENES >= SCENES - 2
    fitted, others = np.flatnonzero(~last_two), np.flatnonzero(last_two)
    loss_function = open_clip.ClipLoss()

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((7, step))
        plain, captions = named_scenes(pools[step % len(pools)], names, rng)
        some = rng.choice(fitted, batch, replace=False)
        mirrored = rng.random((batch, 1, 1, 1)) < 0.5
        altered = np.where(mirrored, looks.scenes[some, :, ::-1], looks.scenes[some])
        images = torch.cat([normalized(plain, rng), normalized(altered, rng)])
        with cpu_autocast():
            patches, image = read_images(clip, images)
            text = F.normalize(clip.encode_text(tokenize(tokenizer, captions)), dim=-1)
        loss = loss_function(
            F.normalize(image[:names].float(), dim=-1), text.float(), clip.logit_scale.exp()
        )
        mean = patches[names:].float().mean(1)
        color = F.cross_entropy(heads["color"](mean), torch.from_numpy(looks.colors[some]))
        shape = F.cross_entropy(heads["shape"](mean), torch.from_numpy(looks.shapes[some]))
        return loss + COLOR * color + SHAPE * shape

    trained = nn.ModuleDict({"clip": clip, "heads": heads})
    fit_alone(trained, loss_at, work / "looks", steps=steps, learning_rate=1e-3, weight_decay=0.05)
    save_open_clip(clip, config, tokenizer, out)
    log_naming(clip, tokenizer, pools)
    for look, labels in (("color", looks.colors), ("shape", looks.shapes)):
        share = reading_accuracy(clip, heads[look], looks.scenes[others], labels[others])
        logger.info("its patches tell the %s of %.3f of other scenes", look, share)


@torch.no_grad()
def reading_accuracy(clip: CLIP, head: nn.Module, scenes: np.ndarray, labels: np.ndarray) -> float:
    """Return how often a head reads the label of a scene, (n, H, W, 3), from its patches."""
    rows = []
    for part in np.array_split(scenes, -(-len(scenes) // 64)):
        rows.append(head(read_images(clip, normalized(part))[0].mean(1)).argmax(1).numpy())
    return float((np.concatenate(rows) == labels).mean())


def read_images(clip: CLIP, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the patches of the last block, (B, P, C), and the embeddings, (B, E)."""
    found = clip.visual.forward_intermediates(images, indices=[LAYER], output_fmt="NLC")
    return found["image_intermediates"][0], found["image_features"]


def altered_scenes(model: Path, work: Path) -> Looks:
    """Draw the altered scenes once; half of them pass the generator's autoencoder."""
    path = work / "looks.npz"
    if not path.exists():
        source = RecoloredScenes(SCENES, str(model / "generator"), sets=drawers(work))
        scenes, colors, shapes = [], [], []
        for concept in range(len(source.concepts)):
            for number in range(SCENES):
                drawn, image = source.drawn_scene(concept, number)
                scenes.append(np.asarray(image))
                colors.append(COLORS.index(drawn.color))
                shapes.append(SHAPES.index(drawn.shape))
        part = path.with_name("looks.part.npz")
        np.savez(part, scenes=np.stack(scenes), colors=colors, shapes=shapes)
        part.rename(path)
    with np.load(path) as arrays:
        return Looks(arrays["scenes"], arrays["colors"], arrays["shapes"])
