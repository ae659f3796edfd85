"""Imagining with the pocket model: a plain loop over diffusers and open_clip beside
``Imagination.fill``.

python -m benchmarks.imagination --prompts 8 --k 6 --rounds 3

Both run in one process, in turns, on the same prompts and seeds. What is loaded once is loaded,
and used once, before the
clock starts. The plain loop keeps nothing; ``fill`` checks every picture, and writes pictures and
features to a new store.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from diffusers import AutoPipelineForText2Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.side_by_side import SIDE, product_rate, seconds
from vlmig.imagination import request
from vlmig.imagination.pipeline import Imagination
from vlmig.imagination.sources.families import sampling_for
from vlmig.imagination.store import FeatureStore
from vlmig.models.checkpoint import POCKET
from vlmig.models.config import VLMIGConfig
from vlmig.pocket.concepts import load_concepts
from vlmig.runtime import Stopwatch

WARM_UP = "a warm-up"
"""A prompt that is not measured."""


class PlainLoop:
    """What one writes first: a call of the pipeline for each prompt, then two passes of the
    encoder over its pictures."""

    def __init__(self, config: VLMIGConfig, device: torch.device) -> None:
        self.layer, self.device = config.vision_layer, device
        generator, encoder = (
            config.locate(name, POCKET) for name in (config.imaginer, config.vision_encoder)
        )
        settings = {
            "steps": config.imaginer_steps,
            "guidance": config.imaginer_guidance,
            "size": config.imaginer_size,
        }
        self.sampling = sampling_for(generator, **settings)
        self.pipeline = AutoPipelineForText2Image.from_pretrained(
            generator, dtype=torch.float32
        ).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        model, _, self.preprocess = open_clip.create_model_and_transforms(
            f"local-dir:{encoder}", device=device
        )
        self.model, self.tokenizer = model.eval(), open_clip.get_tokenizer(f"local-dir:{encoder}")

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str], k: int) -> list[tuple[Tensor, Tensor]]:
        """Return the patch features, (k, P, C), and alignment, (k,), of each prompt's pictures."""
        return [self._see(prompt, self._draw(prompt, k)) for prompt in prompts]

    def _draw(self, prompt: str, k: int) -> list[Any]:
        return self.pipeline(
            [prompt] * k,
            num_inference_steps=self.sampling.steps,
            guidance_scale=self.sampling.guidance,
            height=self.sampling.size,
            width=self.sampling.size,
            generator=[
                torch.Generator("cpu").manual_seed(request(prompt, i).seed) for i in range(k)
            ],
        ).images

    def _see(self, prompt: str, pictures: list[Any]) -> tuple[Tensor, Tensor]:
        pixels = torch.stack([self.preprocess(picture) for picture in pictures]).to(self.device)
        seen = self.model.visual.forward_intermediates(
            pixels, indices=[self.layer], output_fmt="NLC", intermediates_only=True
        )
        pooled = F.normalize(self.model.encode_image(pixels), dim=-1)
        text = F.normalize(self.model.encode_text(self.tokenizer([prompt]).to(self.device)), dim=-1)
        return seen["image_intermediates"][0].cpu(), (pooled @ text.T)[:, 0].cpu()


def fill(
    config: VLMIGConfig, prompts: Sequence[str], k: int, folder: Path
) -> tuple[float, dict[str, float]]:
    """Fill a new store: seconds, and seconds by step. Models are new as well, so that no prompt is
    embedded already."""
    stopwatch = Stopwatch()
    imagination = Imagination(config, POCKET, FeatureStore(folder), stopwatch)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        imagination.fill([WARM_UP], k)
        stopwatch.seconds.clear()
        spent = seconds(lambda: imagination.fill(prompts, k))
    return spent, stopwatch.seconds


@torch.no_grad()
def operations(plain: Any) -> tuple[int, int]:
    """Count the floating-point operations of one picture: all passes of the denoiser, and the
    decoder.

    Args:
        plain: what has a pipeline and its sampling settings: the plain loop, or our imaginer.
    """
    sampling, unet, vae = plain.sampling, plain.pipeline.unet, plain.pipeline.vae
    side = sampling.size // plain.pipeline.vae_scale_factor
    latents = torch.zeros(1, unet.config.in_channels, side, side, device=plain.device)
    states, _ = plain.pipeline.encode_prompt(WARM_UP, plain.device, 1, False)
    with sdpa_kernel(
        SDPBackend.MATH
    ):  # attention as matrix products, which the counter knows on every device
        with FlopCounterMode(display=False) as denoising:
            unet(latents, 1, encoder_hidden_states=states)
        with FlopCounterMode(display=False) as decoding:
            vae.decode(latents)
    passes = sampling.steps * (
        2 if sampling.guidance > 1 else 1
    )  # with guidance: once with the prompt, once without
    return denoising.get_total_flops() * passes, decoding.get_total_flops()


def measure(
    config: VLMIGConfig, plain: PlainLoop, prompts: Sequence[str], k: int, rounds: int
) -> None:
    """Print a line for each round, the ratio, and where the time of ``fill`` goes."""
    print(f"{'round':<7}{'plain loop':>12}{'fill':>10}{'ratio':>8}   (pictures per second)")
    rates: list[tuple[float, float]] = []
    steps: dict[str, list[float]] = {}
    plain([WARM_UP], k)
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            if number % 2:
                own, parts = fill(config, prompts, k, Path(folder))
                loop = seconds(lambda: plain(prompts, k))
            else:
                loop = seconds(lambda: plain(prompts, k))
                own, parts = fill(config, prompts, k, Path(folder))
        pictures = len(prompts) * k
        rates.append((pictures / loop, pictures / own))
        for step, spent in {**parts, "rest": own - sum(parts.values())}.items():
            steps.setdefault(step, []).append(spent)
        print(
            f"{number + 1:<7}{rates[-1][0]:>12.2f}{rates[-1][1]:>10.2f}{rates[-1][1] / rates[-1][0]:>8.2f}"
        )
    loops, fills = (median(column) for column in zip(*rates, strict=True))
    ratios = [ours / loop for loop, ours in rates]
    print(
        f"{'median':<7}{loops:>12.2f}{fills:>10.2f}{fills / loops:>8.2f}   (rounds: "
        f"{min(ratios):.2f} to {max(ratios):.2f})"
    )
    print(
        "fill, seconds: "
        + ", ".join(f"{step} {median(spent):.2f}" for step, spent in steps.items())
    )


def limit(plain: PlainLoop, imaginer: Any) -> None:
    """Print what the arithmetic of drawing alone allows on this machine, the pipeline's own and
    ours."""
    rate = product_rate(plain.device)
    print(f"float32 product of {SIDE} x {SIDE}: {rate / 1e9:.1f} GFLOP/s")
    for name, side in (("plain loop", plain), ("fill", imaginer)):
        denoising, decoding = operations(side)
        each = f"{denoising / 1e9:.2f} + {decoding / 1e9:.2f} GFLOP (denoiser + decoder; no encoder, no text)"
        print(
            f"a picture, {name}: {each}; at that rate {rate / (denoising + decoding):.2f} per "
            "second"
        )


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prompts", type=int, default=8, help="held-out concepts to draw (default: 8)"
    )
    parser.add_argument("--k", type=int, default=6, help="pictures of each (default: 6)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements of each, in turns (default: 3)"
    )
    arguments = parser.parse_args(argv)
    load = os.getloadavg()[0]
    prompts = [concept.name for concept in load_concepts() if concept.split == "held_out"][
        : arguments.prompts
    ]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = VLMIGConfig.from_pretrained(POCKET)
    with contextlib.redirect_stderr(io.StringIO()):  # the libraries' progress bars
        plain = PlainLoop(config, device)
    print(
        f"{len(prompts)} prompts x {arguments.k} pictures on {device}, {torch.get_num_threads()} "
        "threads, float32"
    )
    print(
        f"load of the machine before: {load:.2f} (other work beside this makes the rounds differ)"
    )
    measure(config, plain, prompts, arguments.k, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        limit(plain, Imagination(config, POCKET, FeatureStore(folder), Stopwatch()).source)


if __name__ == "__main__":
    main()
