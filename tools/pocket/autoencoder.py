"""The autoencoder: 96 x 96 pixels to 12 x 12 x 8, a small ``AutoencoderDC`` of diffusers without
generative noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from torch import Tensor

from tools.pocket.drawings import kept_images, render_scenes
from tools.pocket.loop import Schedule, save_atomically, train
from vlmig.pocket.scene_source import decode_latents, encode_scenes, to_pixels
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


def train_autoencoder(out: Path, work: Path, *, steps: int) -> None:
    """Train on scenes of every set, and save the averaged weights in diffusers format.

    Its ``scaling_factor`` gives latents unit variance.
    """
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

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = Schedule(steps, average=0.99)
    model.load_state_dict(train(model, loss_at, [optimizer], schedule, work / "autoencoder.pt"))
    model.requires_grad_(False).eval()
    some = encode_scenes(model, np.asarray(scenes[:, ::16, 0]).reshape(-1, *scenes.shape[3:]))
    model.register_to_config(scaling_factor=round(1 / some.float().std().item(), 4))
    model.save_pretrained(out / "vae")


def reconstruction(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Return the absolute error of pixels and of their differences, which keeps edges sharp."""
    loss = F.l1_loss(decoded, pixels)
    for axis in (-1, -2):
        loss = loss + F.l1_loss(decoded.diff(dim=axis), pixels.diff(dim=axis))
    return loss


def some_pixels(scenes: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Draw a batch of scenes of any set, (BATCH, 3, H, W) in [-1, 1]."""
    which = [rng.integers(0, n, BATCH) for n in scenes.shape[:3]]
    return to_pixels(scenes[tuple(which)]).contiguous(memory_format=torch.channels_last)


def load_autoencoder(out: Path) -> AutoencoderDC:
    """Load the saved autoencoder."""
    model = AutoencoderDC.from_pretrained(out / "vae").to(memory_format=torch.channels_last)
    model.register_to_config(_name_or_path=None)  # no path of this machine in the result
    return model.requires_grad_(False).eval()


def encode_pool(out: Path, work: Path) -> Tensor:
    """Encode the whole pool once, scaled: half precision (concepts, sets * scenes, 8, H/8, W/8)."""
    path = work / "latents.pt"
    if not path.exists():
        model, scenes = load_autoencoder(out), render_scenes(work)
        rows = []
        for c in range(scenes.shape[1]):
            rows.append(
                encode_scenes(model, np.asarray(scenes[:, c]).reshape(-1, *scenes.shape[3:]))
            )
        save_atomically(torch.stack(rows) * model.config.scaling_factor, path)
    return torch.load(path, weights_only=True)


def scene_pools(out: Path, work: Path) -> list[np.ndarray]:
    """Return plain and decoded scenes of every set in turn, (concepts, n, 96, 96, 3) each."""
    scenes = render_scenes(work)
    shape = (*scenes.shape[:2], DECODED, *scenes.shape[3:])

    def decode(pool: np.ndarray) -> None:
        model = load_autoencoder(out)
        latents = encode_pool(out, work) / model.config.scaling_factor
        some = latents.unflatten(1, (len(scenes), -1))[:, :, :DECODED]
        for c, row in enumerate(some):
            images = decode_latents(model, row.flatten(0, 1))
            pool[:, c] = images.reshape(*row.shape[:2], *scenes.shape[3:])

    decoded = kept_images(work / "decoded.npy", shape, decode)
    return [pool[number] for number in range(len(scenes)) for pool in (scenes, decoded)]
