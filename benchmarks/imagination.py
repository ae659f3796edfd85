"""Imagining with the pocket model: a plain loop over diffusers and open_clip beside
``Imagination.fill``.

python -m benchmarks.imagination --prompts 8 --k 6 --rounds 3 [--beside CHECKPOINT]

All run in one process, in turns, on the same prompts and seeds. What is loaded once is loaded,
and used once, before the clock starts. The plain loop keeps nothing; ``fill`` checks every image,
and writes images and features to a new store. ``--beside`` fills with another checkpoint's
generator and encoder, too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from diffusers import AutoPipelineForText2Image
from torch import Tensor

from benchmarks.side_by_side import SIDE, operations, product_rate, seconds
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
        return [self._see(prompt, draw(self, prompt, k)) for prompt in prompts]

    def _see(self, prompt: str, pictures: list[Any]) -> tuple[Tensor, Tensor]:
        pixels = torch.stack([self.preprocess(picture) for picture in pictures]).to(self.device)
        seen = self.model.visual.forward_intermediates(
            pixels, indices=[self.layer], output_fmt="NLC", intermediates_only=True
        )
        pooled = F.normalize(self.model.encode_image(pixels), dim=-1)
        text = F.normalize(self.model.encode_text(self.tokenizer([prompt]).to(self.device)), dim=-1)
        return seen["image_intermediates"][0].cpu(), (pooled @ text.T)[:, 0].cpu()


def draw(side: Any, prompt: str, k: int) -> list[Any]:
    """Draw k images by one plain call of a side's pipeline."""
    return side.pipeline(
        [prompt] * k,
        num_inference_steps=side.sampling.steps,
        guidance_scale=side.sampling.guidance,
        height=side.sampling.size,
        width=side.sampling.size,
        generator=[torch.Generator("cpu").manual_seed(request(prompt, i).seed) for i in range(k)],
    ).images


def fill(
    checkpoint: Path, prompts: Sequence[str], k: int, spent: dict[str, list[float]] | None = None
) -> float:
    """Fill a new store and return the seconds; ``spent`` gets those of each step.

    Models are new as well, so that no prompt is embedded already.
    """
    stopwatch = Stopwatch()
    config = VLMIGConfig.from_pretrained(checkpoint)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stderr(io.StringIO()),  # its progress bar
    ):
        imagination = Imagination(config, checkpoint, FeatureStore(Path(folder)), stopwatch)
        imagination.fill([WARM_UP], k)
        stopwatch.seconds.clear()
        whole = seconds(lambda: imagination.fill(prompts, k))
    if spent is not None:
        for step, part in stopwatch.seconds.items():
            spent.setdefault(step, []).append(part)
        spent.setdefault("rest", []).append(whole - sum(stopwatch.seconds.values()))
    return whole


def measure(
    sides: Mapping[str, Callable[[], float]], images: int, rounds: int
) -> dict[str, list[float]]:
    """Run every side in turns, every other round backwards; print images per second, and how much
    faster the second side is than each other.

    Args:
        sides: what returns the seconds of one run; the second one is compared with the others.
        images: drawn by each run.
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    print("images per second")
    print(f"{'round':<8}" + "".join(f"{name:>12}" for name in sides))
    for number in range(rounds):
        order = list(sides)[:: -1 if number % 2 else 1]
        for name in order:
            rates[name].append(images / sides[name]())
        print(f"{number + 1:<8}" + "".join(f"{rates[name][-1]:>12.2f}" for name in sides))
    print(f"{'median':<8}" + "".join(f"{median(rates[name]):>12.2f}" for name in sides))
    _, ours, *_ = sides
    for other in sides:
        if other != ours:
            each = [a / b for a, b in zip(rates[ours], rates[other], strict=True)]
            ratio = f"{median(each):.2f} (rounds: {min(each):.2f} to {max(each):.2f})"
            print(f"{ours} / {other}: {ratio}")
    return rates


def limit(plain: PlainLoop, ours: Any) -> None:
    """Print what the arithmetic of drawing alone allows on this machine, the pipeline's own and
    ours."""
    rate = product_rate(plain.device)
    print(f"float32 product of {SIDE} x {SIDE}: {rate / 1e9:.1f} GFLOP/s")
    for name, side in (("plain loop", plain), ("fill", ours)):
        whole = operations(partial(draw, side, WARM_UP, 1))
        print(
            f"an image, {name}: {whole / 1e9:.2f} GFLOP (text, denoiser and decoder; no encoder); "
            f"at that rate {rate / whole:.2f} per second"
        )


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prompts", type=int, default=8, help="held-out concepts to draw (default: 8)"
    )
    parser.add_argument("--k", type=int, default=6, help="images of each (default: 6)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements of each, in turns (default: 3)"
    )
    parser.add_argument(
        "--beside", type=Path, help="another checkpoint, whose images are filled in turns as well"
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
        f"{len(prompts)} prompts x {arguments.k} images on {device}, {torch.get_num_threads()} "
        "threads, float32"
    )
    print(
        f"load of the machine before: {load:.2f} (other work beside this makes the rounds differ)"
    )
    spent: dict[str, list[float]] = {}
    k = arguments.k
    sides = {
        "plain loop": lambda: seconds(lambda: plain(prompts, k)),
        "fill": lambda: fill(POCKET, prompts, k, spent),
    }
    if arguments.beside:
        sides["beside"] = lambda: fill(arguments.beside, prompts, k)
    plain([WARM_UP], k)
    measure(sides, len(prompts) * k, arguments.rounds)
    parts = [f"{step} {median(each):.2f}" for step, each in spent.items()]
    print("fill, seconds: " + ", ".join(parts))
    with tempfile.TemporaryDirectory() as folder:
        limit(plain, Imagination(config, POCKET, FeatureStore(folder), Stopwatch()).source)


if __name__ == "__main__":
    main()
