"""The pocket vision encoder: a small CLIP in open_clip's local-dir format, trained on (scene, name)
pairs."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTokenizer

from tools.pocket.captions import (
    MAX_TOKENS,
    all_captions,
    build_tokenizer,
    draw_caption,
    tokenize,
)
from tools.pocket.fitting import fit_alone
from tools.pocket.groups import GROUPS, draw_group_caption
from vlmig.pocket.concepts import load_concepts
from vlmig.runtime import cpu_autocast
from vlmig.vision.encoder import CAPTION_WORDS, words_of

logger = logging.getLogger(__name__)
MEAN_STD = (0.5, 0.25)
SIZE = 64
"""Side of an image for the encoder, in pixels; scenes are larger."""


def model_config(tokenizer: CLIPTokenizer) -> dict:
    """Return open_clip's ``model_cfg``: a four-layer ViT on 8 x 8 patches and a two-layer text
    tower."""
    return {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": SIZE,
            "patch_size": 8,
            "layers": 4,
            "width": 192,
            "head_width": 48,
        },
        "text_cfg": {
            "context_length": MAX_TOKENS,
            "vocab_size": len(tokenizer),
            "hf_tokenizer_name": ".",
            "width": 128,
            "heads": 4,
            "layers": 2,
        },
    }


def train_encoder(
    out: Path,
    work: Path,
    *,
    pools: Sequence[np.ndarray],
    grouped: Sequence[np.ndarray] = (),
    steps: int,
    batch: int,
    groups: float = 0.0,
) -> None:
    """Train contrastively on scenes and save.

    Args:
        pools: scenes of every concept, (concepts, n, H, W, 3) each, taken in turn: plain ones, and
            ones passed through the generator's autoencoder.
        grouped: plain and decoded scenes of several things, (GROUPS, H, W, 3) each, in turn too.
        groups: share of each batch that they are.
    """
    tokenizer = build_tokenizer(work / "tokenizer", groups > 0)
    config = model_config(tokenizer)
    torch.manual_seed(4)
    model = CLIP(**config)
    loss_function = open_clip.ClipLoss()

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((5, step))
        scenes, captions = named_scenes(pools[step % len(pools)], batch, rng)
        for row in range(round(groups * batch)):
            number = int(rng.integers(GROUPS))
            scenes[row] = grouped[step % len(grouped)][number]
            captions[row] = draw_group_caption(number, rng)
        pictures, texts = normalized(scenes, rng), tokenize(tokenizer, captions)
        with cpu_autocast():
            image, text, scale = model(pictures, texts)[:3]
        return loss_function(image.float(), text.float(), scale.float())

    fit_alone(model, loss_at, work / "encoder", steps=steps, learning_rate=1e-3, weight_decay=0.05)
    save_open_clip(model, config, tokenizer, out)
    (out / CAPTION_WORDS).write_text("\n".join(caption_words(groups > 0)) + "\n")
    log_naming(model, tokenizer, pools)


def named_scenes(
    pool: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Draw scenes of different concepts from a pool, (count, H, W, 3), and a caption of each."""
    concepts = load_concepts()
    which = rng.permutation(len(concepts))[:count]
    scenes = pool[which, rng.integers(0, pool.shape[1], len(which))]
    return scenes, [draw_caption(concepts[i], rng) for i in which]


def caption_words(groups: bool) -> list[str]:
    """List every word of the captions, which are all that the text side reads."""
    return sorted({word for text in all_captions(groups) for word in words_of(text)})


def normalized(pixels: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
    """Turn uint8 images (B, H, W, 3) of any size into model input (B, 3, SIZE, SIZE), with a little
    noise if ``rng`` is given."""
    values = torch.from_numpy(pixels.astype(np.float32) / 255).permute(0, 3, 1, 2)
    if values.shape[-1] != SIZE:
        values = F.interpolate(values, (SIZE, SIZE), mode="bicubic", antialias=True)
    if rng is not None:
        values = values + torch.from_numpy(rng.normal(0, 0.03, values.shape).astype(np.float32))
    return (values - MEAN_STD[0]) / MEAN_STD[1]


def log_naming(model: CLIP, tokenizer: CLIPTokenizer, pools: Sequence[np.ndarray]) -> None:
    """Log how often the first scene of each concept is named right."""
    for number, pool in enumerate(pools):
        share = naming_accuracy(model, tokenizer, pool[:, 0])
        logger.info("encoder names %.3f of the scenes of pool %d", share, number)


@torch.no_grad()
def naming_accuracy(model: CLIP, tokenizer: CLIPTokenizer, pictures: np.ndarray) -> float:
    """Return how often an image, one per concept in their order, is nearest to its name."""
    names = F.normalize(
        model.encode_text(tokenize(tokenizer, [c.name for c in load_concepts()])), dim=-1
    )
    images = F.normalize(model.encode_image(normalized(pictures)), dim=-1)
    return ((images @ names.T).argmax(1) == torch.arange(len(names))).float().mean().item()


def save_open_clip(model: CLIP, config: dict, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save in open_clip's ``local-dir:`` format, with weights in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [MEAN_STD[0]] * 3, "std": [MEAN_STD[1]] * 3, "interpolation": "bicubic"}
    card = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(card, indent=2) + "\n")
