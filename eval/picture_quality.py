"""Can one recognise what a generator draws? Its images, named by an encoder that has never seen a
generated one.

python -m eval.picture_quality [GENERATOR] [--steps 4 --guidance 1 --size 96] [--sheet sheet.png]

GENERATOR is a folder or hub id of a text-to-image pipeline (default: the embedded one). The judge
is the embedded vision encoder, trained on drawings alone; ``--judge`` takes any other of open_clip,
for real generators.
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

from tools.pocket.drawings import squared
from vlmig.imagination import Request
from vlmig.imagination.sources.diffusion import DiffusionSource
from vlmig.imagination.sources.families import Sampling
from vlmig.models.checkpoint import POCKET
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.scenes import GLYPH, glyph, read_shape, scene, to_lab

SHEET = (10, 6)
"""Columns and rows of a contact sheet."""
SIX = 6
EDGE = 4
"""Pixels along the edges of an image that show background."""
INK = 12.0
"""CIELAB distance from the background at which a thing begins."""
OUTLINE = 48


class Judge:
    """An open_clip model that names images.

    Args:
        source: a folder in open_clip's format, or an architecture and its weights as
            ``ViT-B-32:laion2b_s34b_b79k``.
    """

    def __init__(self, source: str) -> None:
        name, _, weights = source.partition(":")
        if Path(source).is_dir():
            name, weights = f"local-dir:{source}", ""
        self.model, self.preprocess = open_clip.create_model_from_pretrained(name, weights or None)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.model.float().eval()

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed images: (n, E), unit length."""
        rows = [
            self.model.encode_image(
                torch.stack([self.preprocess(image) for image in images[start : start + 64]])
            )
            for start in range(0, len(images), 64)
        ]
        return F.normalize(torch.cat(rows), dim=-1)

    @torch.no_grad()
    def names(self, names: Sequence[str]) -> Tensor:
        """Embed names: (n, E), unit length."""
        return F.normalize(self.model.encode_text(self.tokenizer(list(names))), dim=-1)


def ranks(pictures: Tensor, names: Tensor, right: Sequence[int]) -> np.ndarray:
    """Return how many names are nearer to each image (n, E) than its own, of names (m, E)."""
    scores = pictures @ names.T
    own = scores[torch.arange(len(scores)), torch.as_tensor(right)]
    return (scores > own[:, None]).sum(1).numpy()


def share(hits: np.ndarray) -> str:
    """State a share in per cent with its 95 % Wilson interval."""
    found = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return f"{100 * hits.mean():.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def silhouette(image: Image.Image) -> np.ndarray:
    """Find a thing on a soft gradient: bool (H, W), where the colour leaves the background's.

    The background is a plane of colour over x and y, fitted to the pixels along the edges that
    agree with it.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    height, width, _ = pixels.shape
    lab = to_lab(pixels.reshape(-1, 3))
    y, x = np.mgrid[0:height, 0:width].reshape(2, -1)
    places = np.stack([np.ones_like(x), x / width, y / height], -1).astype(np.float64)
    edge = (np.minimum(x, width - 1 - x) < EDGE) | (np.minimum(y, height - 1 - y) < EDGE)
    agree = edge
    for _ in range(3):  # edges that the thing reaches are left out
        plane, *_ = np.linalg.lstsq(places[agree], lab[agree], rcond=None)
        away = np.linalg.norm(lab - places @ plane, axis=-1)
        agree = edge & (away <= max(np.median(away[edge]) * 2, 1.0))
    return (away > INK).reshape(height, width)


def outline(mask: np.ndarray) -> np.ndarray:
    """Crop a silhouette to what is inside and scale it to a square of ``OUTLINE`` pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((OUTLINE, OUTLINE), bool)
    cropped = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.asarray(Image.fromarray(cropped).resize((OUTLINE, OUTLINE)))


def shape_read(image: Image.Image) -> str:
    """Name the basic shape that the silhouette of a thing is most like."""
    mask = Image.fromarray(np.uint8(255) * silhouette(image))
    ink = Image.new("RGBA", image.size)
    ink.putalpha(mask)
    return read_shape(squared(ink).resize((GLYPH, GLYPH)))[0] if mask.getbbox() else ""


def look(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return an image's outline and the mean CIELAB colour of the thing, (3,)."""
    mask = silhouette(image)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    inside = pixels[mask] if mask.any() else pixels.reshape(-1, 3)
    return outline(mask), to_lab(inside).mean(0)


def nearest_looks(
    images: Sequence[Image.Image], references: Sequence[Sequence[Image.Image]]
) -> tuple[float, float]:
    """Return the mean overlap of silhouettes and the median distance of colours, each of the
    nearest reference.

    Args:
        references: drawn scenes to compare each image with.
    """
    overlaps, distances = [], []
    for image, scenes in zip(images, references, strict=True):
        shape, color = look(image)
        looks = [look(one) for one in scenes]
        overlaps.append(max((shape & s).sum() / max((shape | s).sum(), 1) for s, _ in looks))
        distances.append(min(float(np.linalg.norm(color - c)) for _, c in looks))
    return float(np.mean(overlaps)), float(np.median(distances))


def diversity(embeddings: Tensor) -> float:
    """Return the mean distance (1 - cosine) between images of the same thing: (things, k, E)."""
    alike = embeddings @ embeddings.transpose(1, 2)
    k = alike.shape[-1]
    return float(1 - (alike.sum((1, 2)) - k).mean() / (k * (k - 1)))


def draw(imaginer: Any, names: Sequence[str], first: int = 0) -> list[Image.Image]:
    """Draw one image for each name, with seeds from ``first`` on."""
    drawn = imaginer.imagine([Request(name, 0, first + i) for i, name in enumerate(names)])
    return [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in drawn]


def load_imaginer(source: str, sampling: Sampling) -> DiffusionSource:
    """Load a generator. Lumina's pipeline guides three channels of any latent; here all are."""
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
    """Lay images of one size out in rows."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    return sheet


def draw_scenes(concepts: Sequence[Concept]) -> np.ndarray:
    """Draw scenes of one set, the font's: uint8 (1, concepts, SIX, H, W, 3)."""
    rng = np.random.default_rng(7)
    rows = []
    for concept in concepts:
        rows.append(np.stack([np.asarray(scene(glyph(concept.glyph), rng)) for _ in range(SIX)]))
    return np.stack(rows)[None]


def opened(scenes: np.ndarray) -> list[Image.Image]:
    """Turn an array of scenes, (..., H, W, 3), into images."""
    return [Image.fromarray(each) for each in scenes.reshape(-1, *scenes.shape[-3:])]


def measure(
    imaginer: Any,
    judge: Judge,
    concepts: Sequence[Concept],
    things: Sequence[int],
    scenes: np.ndarray,
    six: int,
) -> list[str]:
    """Draw one image of each thing, and six of the first ``six``, and say how good they are.

    Args:
        concepts: everything an image may be named.
        things: which of them to draw.
        scenes: drawn scenes, uint8 (sets, concepts, at least SIX, H, W, 3).
    """
    names = judge.names([concept.name for concept in concepts])
    asked = [concepts[i].name for i in things]
    draw(imaginer, asked[:1])  # whatever happens once
    began = time.perf_counter()
    images = draw(imaginer, asked, 1000)
    speed = len(images) / (time.perf_counter() - began)
    lines = named("generated", judge.images(images), names, concepts, things)
    for number, pool in enumerate(scenes):
        drawn = judge.images(opened(pool[things, 0]))
        lines += named(f"drawn scenes, set {number + 1}", drawn, names, concepts, things)

    # The first scene of each set is named above; later ones are what an image is compared with.
    own = [opened(scenes[:, i, 1:3]) for i in things]
    pairs = {
        "generated": (images, own),
        "another concept's": (images, [*own[1:], *own[:1]]),
        "drawn scenes": (opened(scenes[0][things, 0]), own),
    }
    for title, (compared, references) in pairs.items():
        overlap, distance = nearest_looks(compared, references)
        lines.append(f"{title}: silhouettes overlap {overlap:.2f}, colours {distance:.1f} apart")
    for title in ("generated", "drawn scenes"):
        lines += shapes(title, pairs[title][0], [concepts[i] for i in things])
    if six:
        many = draw(imaginer, [name for name in asked[:six] for _ in range(SIX)], 50000)
        lines += varied(judge.images(many), judge, scenes[:, things[:six], :SIX])
    lines.append(f"speed: {speed:.2f} images per second")
    return lines


def named(
    title: str, images: Tensor, names: Tensor, concepts: Sequence[Concept], things: Sequence[int]
) -> list[str]:
    """Say how many images, (n, E), are named right: of all, and of the held-out things."""
    rank = ranks(images, names, things)
    held = np.array([concepts[i].split == "held_out" for i in things])
    lines = [f"{title}: top-1 {share(rank < 1)}, top-5 {share(rank < 5)}, n = {len(rank)}"]
    if held.any():
        alone = rank[held]
        lines.append(f"  held-out alone: top-1 {share(alone < 1)}, top-5 {share(alone < 5)}")
    return lines


def shapes(title: str, images: Sequence[Image.Image], concepts: Sequence[Concept]) -> list[str]:
    """Say how many silhouettes of held-out things are read as the shape that counts as right."""
    right = []
    for image, concept in zip(images, concepts, strict=True):
        if concept.split == "held_out":
            right.append(shape_read(image) == concept.shape)
    found = np.array(right)
    return [f"{title}, held-out: shape read {share(found)}, n = {len(found)}"] if right else []


def varied(images: Tensor, judge: Judge, scenes: np.ndarray) -> list[str]:
    """Say how much six images of a thing differ, and which set of drawings they are like.

    Args:
        images: embeddings, (things * SIX, E).
        scenes: drawn ones of the same things, (sets, things, SIX, H, W, 3).
    """
    sets, six = scenes.shape[:2]
    drawn = judge.images(opened(scenes)).view(sets, six, SIX, -1)
    images = images.view(six, SIX, -1)
    mixed = drawn[torch.arange(SIX) % sets, :, torch.arange(SIX)].transpose(0, 1)
    lines = [
        f"diversity of six (1 - cosine): {diversity(images):.3f}; drawn scenes of all sets in "
        f"turn {diversity(mixed):.3f}, of the first {diversity(drawn[0]):.3f}"
    ]
    if sets > 1:
        middles = F.normalize(drawn.mean(2), dim=-1)  # (sets, things, E)
        style = torch.einsum("sie,ije->sij", middles, images).argmax(0)
        shares = [f"{100 * (style == number).float().mean():.0f} %" for number in range(sets)]
        both = (style.amin(1) != style.amax(1)).float().mean()
        lines.append(
            f"like set 1, 2, ...: {', '.join(shares)} of the images; of {six} things "
            f"{100 * both:.0f} % show more than one set among six"
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
        "--scenes",
        type=Path,
        help="scenes.npy of the recipe: drawn scenes of several sets; default: the font's alone",
    )
    args = parser.parse_args(argv)
    concepts = load_concepts()
    things = np.random.default_rng(0).permutation(len(concepts))[: args.things].tolist()
    imaginer = load_imaginer(args.generator, Sampling(args.steps, args.guidance, args.size))
    if args.sheet:
        some = [concepts[i].name for i in things[: SHEET[0] * SHEET[1]]]
        contact_sheet(draw(imaginer, some, 1000)).save(args.sheet)
    scenes = np.load(args.scenes, mmap_mode="r") if args.scenes else draw_scenes(concepts)
    six = min(args.six, len(things))
    print("\n".join(measure(imaginer, Judge(args.judge), concepts, things, scenes, six)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
