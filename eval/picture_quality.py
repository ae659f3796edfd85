"""Can one recognise what a generator draws? Its pictures, named by an encoder that has never seen a generated one.

python -m eval.picture_quality [GENERATOR] [--steps 4 --guidance 1 --size 96] [--sheet sheet.png]

GENERATOR is a folder or hub id of a text-to-image pipeline (default: the embedded one). The judge is the embedded vision
encoder, trained on drawings alone; ``--judge`` takes any other that open_clip knows, for real generators.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats
from torch import Tensor

from vlmig.imagination import Request
from vlmig.imagination.sources.diffusion import DiffusionSource
from vlmig.imagination.sources.families import Sampling
from vlmig.models.checkpoint import POCKET
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.scenes import _lab, glyph, scene

SHEET = (10, 6)
"""Columns and rows of a contact sheet."""
SIX = 6


class Judge:
    """An open_clip model that names pictures.

    Args:
        source: a folder in open_clip's format, or an architecture and its weights as ``ViT-B-32:laion2b_s34b_b79k``.
    """

    def __init__(self, source: str) -> None:
        name, _, weights = source.partition(":")
        if Path(source).is_dir():
            name, weights = f"local-dir:{source}", ""
        self.model, self.preprocess = open_clip.create_model_from_pretrained(name, weights or None)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.model.float().eval()

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Embed pictures: (n, E), unit length."""
        rows = [
            self.model.encode_image(
                torch.stack([self.preprocess(p) for p in pictures[start : start + 64]])
            )
            for start in range(0, len(pictures), 64)
        ]
        return F.normalize(torch.cat(rows), dim=-1)

    @torch.no_grad()
    def names(self, names: Sequence[str]) -> Tensor:
        """Embed names: (n, E), unit length."""
        return F.normalize(self.model.encode_text(self.tokenizer(list(names))), dim=-1)


def ranks(pictures: Tensor, names: Tensor, right: Sequence[int]) -> np.ndarray:
    """Return how many names are nearer to each picture (n, E) than its own, of names (m, E)."""
    scores = pictures @ names.T
    own = scores[torch.arange(len(scores)), torch.as_tensor(right)]
    return (scores > own[:, None]).sum(1).numpy()


def share(hits: np.ndarray) -> str:
    """State a share in per cent with its 95 % Wilson interval."""
    found = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return f"{100 * hits.mean():.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def color_distance(picture: Image.Image, concept: Concept) -> float:
    """Return the CIELAB distance of mean colours: a picture's, and the drawing's, where the drawing's ink would lie."""
    side = round(0.87 * picture.width)
    ink = np.asarray(glyph(concept.glyph).resize((side, side)), dtype=np.float32) / 255
    edge = (picture.width - side) // 2
    seen = (
        np.asarray(picture.convert("RGB"), dtype=np.float32)[edge : edge + side, edge : edge + side]
        / 255
    )
    solid = ink[..., 3] > 0.9
    if not solid.any():
        return float("nan")
    return float(np.linalg.norm(_lab(seen[solid]).mean(0) - _lab(ink[solid][:, :3]).mean(0)))


def diversity(embeddings: Tensor) -> float:
    """Return the mean distance (1 - cosine) between pictures of the same thing: (things, k, E)."""
    alike = embeddings @ embeddings.transpose(1, 2)
    k = alike.shape[-1]
    return float(1 - (alike.sum((1, 2)) - k).mean() / (k * (k - 1)))


def draw(imaginer: Any, names: Sequence[str], first: int = 0) -> list[Image.Image]:
    """Draw one picture for each name, with seeds from ``first`` on."""
    drawn = imaginer.imagine([Request(name, 0, first + i) for i, name in enumerate(names)])
    return [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in drawn]


def load_imaginer(source: str, sampling: Sampling) -> DiffusionSource:
    """Load a generator. Lumina's pipeline guides three channels of any latent; here all of them are guided."""
    imaginer = DiffusionSource(source, sampling)
    pipeline = imaginer.pipeline
    if type(pipeline).__name__ != "LuminaPipeline" or sampling.guidance <= 1:
        return imaginer
    imaginer.sampling = replace(sampling, guidance=1.0)
    empty, empty_mask, *_ = pipeline.encode_prompt([""], False, device="cpu")
    forward = pipeline.transformer.forward

    def guided(hidden_states: Tensor, **given: Any) -> tuple[Tensor]:
        kept = {**given, "return_dict": False}
        told = forward(hidden_states, **kept)[0]
        kept["encoder_hidden_states"] = empty.expand(len(hidden_states), -1, -1)
        kept["encoder_mask"] = empty_mask.expand(len(hidden_states), -1)
        untold = forward(hidden_states, **kept)[0]
        return (untold + sampling.guidance * (told - untold),)

    pipeline.transformer.forward = guided
    return imaginer


def contact_sheet(pictures: Sequence[Image.Image], columns: int = SHEET[0]) -> Image.Image:
    """Lay pictures of one size out in rows."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    return sheet


def measure(
    imaginer: Any, judge: Judge, concepts: Sequence[Concept], things: Sequence[int], six: int
) -> list[str]:
    """Draw one picture of each thing, and six of the first ``six``, and say how good they are.

    Args:
        concepts: everything a picture may be named.
        things: which of them to draw.
    """
    names = judge.names([concept.name for concept in concepts])
    asked = [concepts[i].name for i in things]
    draw(imaginer, asked[:1])  # whatever happens once
    began = time.perf_counter()
    pictures = draw(imaginer, asked, 1000)
    speed = len(pictures) / (time.perf_counter() - began)
    rng = np.random.default_rng(7)
    drawn = [scene(glyph(concepts[i].glyph), rng) for i in things]
    lines = []
    for title, shown in (("generated", pictures), ("drawn scenes", drawn)):
        rank = ranks(judge.pictures(shown), names, things)
        held = np.array([concepts[i].split == "held_out" for i in things])
        lines.append(f"{title}: top-1 {share(rank < 1)}, top-5 {share(rank < 5)}, n = {len(rank)}")
        if held.any():
            lines.append(
                f"  held-out alone: top-1 {share(rank[held] < 1)}, top-5 {share(rank[held] < 5)}"
            )
    own = [color_distance(p, concepts[i]) for p, i in zip(pictures, things, strict=True)]
    other = [
        color_distance(p, concepts[i]) for p, i in zip(pictures, np.roll(things, 1), strict=True)
    ]
    lines.append(
        f"colour: {np.nanmedian(own):.1f} from the drawing in CIELAB, {np.nanmedian(other):.1f} from another's"
    )
    if six:
        many = draw(imaginer, [name for name in asked[:six] for _ in range(SIX)], 50000)
        scenes = [scene(glyph(concepts[i].glyph), rng) for i in things[:six] for _ in range(SIX)]
        spreads = [diversity(judge.pictures(shown).view(six, SIX, -1)) for shown in (many, scenes)]
        lines.append(
            f"diversity of six: {spreads[0]:.3f}; of drawn scenes {spreads[1]:.3f} (1 - cosine)"
        )
    lines.append(f"speed: {speed:.2f} pictures per second")
    return lines


def name_scenes(
    path: Path, judge: Judge, concepts: Sequence[Concept], things: Sequence[int]
) -> list[str]:
    """Say how many drawn scenes of each set are named right: the most that a generator of that set can reach.

    Args:
        path: array (sets, concepts, scenes, H, W, 3), as the recipe of the embedded generator keeps it.
    """
    names, lines = judge.names([concept.name for concept in concepts]), []
    for number, pool in enumerate(np.load(path, mmap_mode="r")):
        rank = ranks(judge.pictures([Image.fromarray(pool[i, 0]) for i in things]), names, things)
        lines.append(
            f"scenes of set {number + 1}: top-1 {share(rank < 1)}, top-5 {share(rank < 5)}, n = {len(rank)}"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Measure a generator and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m eval.picture_quality", description=__doc__)
    parser.add_argument("generator", nargs="?", default=str(POCKET / "generator"))
    parser.add_argument(
        "--judge", default=str(POCKET / "vision_encoder"), help="folder or open_clip name:weights"
    )
    parser.add_argument(
        "--things", type=int, help="how many concepts to draw, at random; default: all"
    )
    parser.add_argument("--six", type=int, default=60, help="of how many to draw six pictures")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument(
        "--sheet", type=Path, help="where to write a contact sheet of 60 random concepts"
    )
    parser.add_argument(
        "--scenes", type=Path, help="drawn scenes of several sets, to be named beside"
    )
    args = parser.parse_args(argv)
    concepts = load_concepts()
    things = np.random.default_rng(0).permutation(len(concepts))[: args.things].tolist()
    imaginer = load_imaginer(args.generator, Sampling(args.steps, args.guidance, args.size))
    if args.sheet:
        some = [concepts[i].name for i in things[: SHEET[0] * SHEET[1]]]
        contact_sheet(draw(imaginer, some, 1000)).save(args.sheet)
    judge = Judge(args.judge)
    print("\n".join(measure(imaginer, judge, concepts, things, min(args.six, len(things)))))
    if args.scenes:
        print("\n".join(name_scenes(args.scenes, judge, concepts, things)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
