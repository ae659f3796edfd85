"""The autoencoder: 96 x 96 pixels to 12 x 12 x 8, a small ``AutoencoderDC`` of diffusers without
generative noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from torch import Tensor

from tools.generator.drawings import render_scenes
from tools.generator.loop import Schedule, train
from tools.pocket.generator import reconstruction
from vlmig.pocket.scene_source import to_pixels
from vlmig.runtime import cpu_autocast

CHANNELS = 8
BATCH = 32
NOISE = 0.1
DECODED = 10
"""Decoded scenes of each concept and set that the encoder learns from."""


def build_autoencoder() -> AutoencoderDC:
    """Build it; nothing but one convolution works on whole pixels, so that two cores suffice."""
    return AutoencoderDC(
        latent_channels=CHANNELS,
        attention_head_dim=32,
        encoder_block_out_channels=(32, 48, 96, 128),
        decoder_block_out_channels=(32, 64, 128, 128),
        encoder_layers_per_block=(0, 1, 1, 1),
        decoder_layers_per_block=(0, 1, 2, 2),
        encoder_qkv_multiscales=((), (), (), ()),
        decoder_qkv_multiscales=((), (), (), ()),
    ).to(memory_format=torch.channels_last)


def train_autoencoder(work: Path, steps: int) -> AutoencoderDC:
    """Train on scenes of every set and return the averaged weights' model, scaled to unit
    variance."""
    torch.manual_seed(0)
    model = build_autoencoder()
    scenes = render_scenes(work)

    def loss_at(step: int) -> Tensor:
        pixels = some_pixels(scenes, np.random.default_rng((21, step)))
        with cpu_autocast():
            latents = model.encode(pixels).latent
            # A little noise makes near latents decode alike: the generator's are never exact.
            decoded = model.decode(latents + NOISE * torch.randn_like(latents)).sample
        # Edges alone teach brightness first and hues late: coarse colours count by themselves.
        coarse = F.l1_loss(F.avg_pool2d(decoded.float(), 8), F.avg_pool2d(pixels, 8))
        return (
            reconstruction(decoded.float(), pixels)
            + 2 * coarse
            + 1e-3 * latents.float().square().mean()
        )

    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    average = train(
        model, loss_at, [optimiser], Schedule(steps, average=0.99), work / "autoencoder.pt"
    )
    model.load_state_dict(average)
    model.requires_grad_(False).eval()
    some = encode(model, np.asarray(scenes[:, ::16, 0]).reshape(-1, *scenes.shape[3:]))
    model.register_to_config(scaling_factor=round(1 / some.float().std().item(), 4))
    return model


def some_pixels(scenes: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Draw a batch of scenes of any set, (BATCH, 3, H, W) in [-1, 1]."""
    which = [rng.integers(0, n, BATCH) for n in scenes.shape[:3]]
    return to_pixels(scenes[tuple(which)]).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def encode(model: AutoencoderDC, pictures: np.ndarray) -> Tensor:
    """Encode pictures (n, H, W, 3) to unscaled latents (n, 8, H/8, W/8) in half precision."""
    rows = []
    for part in np.array_split(pictures, max(1, len(pictures) // 48)):
        with cpu_autocast():
            rows.append(
                model.encode(
                    to_pixels(part).contiguous(memory_format=torch.channels_last)
                ).latent.half()
            )
    return torch.cat(rows)


def encode_pool(model: AutoencoderDC, work: Path) -> Tensor:
    """Encode the whole pool once, scaled: half precision (concepts, sets * scenes, 8, H/8, W/8)."""
    path = work / "latents.pt"
    if not path.exists():
        scenes = render_scenes(work)
        rows = []
        for c in range(scenes.shape[1]):
            rows.append(encode(model, np.asarray(scenes[:, c]).reshape(-1, *scenes.shape[3:])))
        torch.save(torch.stack(rows) * model.config.scaling_factor, path)
    return torch.load(path, weights_only=True)


def scene_pools(model: AutoencoderDC, work: Path) -> list[np.ndarray]:
    """Return plain and decoded scenes of every set in turn, (concepts, n, 96, 96, 3) each."""
    path = work / "decoded.npy"
    scenes = render_scenes(work)
    if not path.exists():
        latents = encode_pool(model, work)
        some = latents.unflatten(1, (len(scenes), -1))[:, :, :DECODED]
        rows = [
            decode(model, row.flatten(0, 1)).reshape(*row.shape[:2], *scenes.shape[3:])
            for row in some
        ]
        part = work / "decoded.part.npy"
        np.save(part, np.stack(rows, axis=1))
        part.rename(path)
    decoded = np.load(path, mmap_mode="r")
    return [pool[number] for number in range(len(scenes)) for pool in (scenes, decoded)]


@torch.no_grad()
def decode(model: AutoencoderDC, latents: Tensor) -> np.ndarray:
    """Decode scaled latents (n, 8, H/8, W/8) to pictures, uint8 (n, H, W, 3)."""
    with cpu_autocast():
        pixels = model.decode(latents.float() / model.config.scaling_factor).sample
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
