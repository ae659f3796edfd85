"""Convolutions with fewer multiplications give what the plain ones give, and so do the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForText2Image,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from vlmig.imagination import Request, request
from vlmig.imagination.sources.cpu_convolutions import Upsampled, Winograd, quicken
from vlmig.imagination.sources.diffusion import DiffusionSource
from vlmig.imagination.sources.families import Sampling

SAMPLING = Sampling(steps=4, guidance=3.0, size=64, batch=3)


@pytest.fixture(scope="module")
def generator(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose UNet is wide enough to gain, and whose decoder doubles twice."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    StableDiffusionPipeline.from_pretrained(
        parts / "generator",
        unet=UNet2DConditionModel(
            block_out_channels=(96, 96),
            layers_per_block=1,
            sample_size=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
        ),
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=2,
        ),
    ).save_pretrained(folder)
    return folder


def plain_pictures(generator: Path, asked: list[Request]) -> Tensor:
    """Draw with the pipeline as diffusers loads it."""
    pipeline = AutoPipelineForText2Image.from_pretrained(generator, dtype=torch.float32)
    drawn = pipeline(
        [r.prompt for r in asked],
        generator=[torch.Generator().manual_seed(r.seed) for r in asked],
        num_inference_steps=SAMPLING.steps,
        guidance_scale=SAMPLING.guidance,
        height=SAMPLING.size,
        width=SAMPLING.size,
        output_type="pt",
    ).images
    return (drawn.clamp(0, 1) * 255).round().int()


def kinds(model: nn.Module) -> dict[type, int]:
    """Count the modules that were put in."""
    return {
        kind: sum(isinstance(m, kind) for m in model.modules()) for kind in (Winograd, Upsampled)
    }


@pytest.mark.parametrize("shape", [(3, 96, 16, 16), (2, 100, 7, 10), (1, 96, 1, 3)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_winograd_is_the_convolution(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    plain, x = nn.Conv2d(shape[1], 97, 3, padding=1, bias=bias), torch.randn(shape)
    assert Winograd.suits(plain)
    exact = nn.functional.conv2d(
        x.double(), plain.weight.double(), plain.bias.double() if bias else None, padding=1
    )
    # Numbers up to 8 in its transforms cost about three of the 24 bits.
    torch.testing.assert_close(Winograd(plain)(x).double(), exact, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"out_channels": 64},
        {"out_channels": 4096},
        {"stride": 2},
        {"padding": 0},
        {"dilation": 2},
        {"groups": 2},
        {"kernel_size": 1},
        {"padding_mode": "reflect"},
    ],
)
def test_other_convolutions_stay(other: dict[str, Any]) -> None:
    settings = {"in_channels": 96, "out_channels": 96, "kernel_size": 3, "padding": 1}
    assert Winograd.suits(nn.Conv2d(**settings))
    assert not Winograd.suits(nn.Conv2d(**{**settings, **other}))


@pytest.mark.parametrize("size", [None, (10, 14), (9, 13)])
@torch.no_grad()
def test_four_small_convolutions_are_doubling_and_a_big_one(size: tuple[int, int] | None) -> None:
    torch.manual_seed(0)
    plain, x = Upsample2D(6, use_conv=True, out_channels=5), torch.randn(2, 6, 5, 7)
    assert Upsampled.suits(plain) and not Upsampled.suits(Upsample2D(6))
    torch.testing.assert_close(
        Upsampled(plain)(x, size), plain(x, size), rtol=0, atol=1e-5
    )  # rounding of unit numbers


def test_pictures_are_the_plain_pipelines(generator: Path) -> None:
    imaginer = DiffusionSource(generator, SAMPLING)
    assert min(kinds(imaginer.pipeline.unet).values()) > 0
    assert kinds(imaginer.pipeline.vae) == {Winograd: 0, Upsampled: 2}
    asked = [request(prompt, i) for prompt in ("a banana", "the sea") for i in range(3)]
    apart = (torch.stack(imaginer.imagine(asked)).int() - plain_pictures(generator, asked)).abs()
    # Rounding of the eighth digit decides a pixel that lies between two of 256 values, as one in
    # ten thousand may.
    assert apart.max() <= 1 and (apart > 0).float().mean() < 1e-3


def test_pictures_depend_on_no_neighbour_and_no_thread(generator: Path) -> None:
    imaginer = DiffusionSource(generator, Sampling(steps=2, guidance=3.0, size=64, batch=3))
    asked = [request(prompt, i) for prompt in ("a banana", "the sea") for i in range(3)]
    together, threads = imaginer.imagine(asked), torch.get_num_threads()
    for count in {1, threads}:
        torch.set_num_threads(count)
        try:
            for i in (1, 5):
                assert torch.equal(imaginer.imagine([asked[i]])[0], together[i])
        finally:
            torch.set_num_threads(threads)


def test_only_what_draws_in_float32_on_a_cpu_is_changed(generator: Path) -> None:
    half = DiffusionSource(generator, SAMPLING, dtype="bfloat16")
    full = DiffusionSource(generator, SAMPLING)
    assert set(kinds(half.pipeline.unet).values()) == {0}
    assert "convolutions" in full.identity() and "convolutions" not in half.identity()


def test_a_layer_is_found_wherever_it_lies() -> None:
    model = nn.Sequential(
        nn.ModuleList([nn.Conv2d(96, 96, 3, padding=1)]), Upsample2D(8, use_conv=True)
    )
    quicken(model, Winograd, Upsampled)
    assert kinds(model) == {Winograd: 1, Upsampled: 1}
