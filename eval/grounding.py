"""Where the evidence lies: does the drawn thing decide its color, or the background?

python -m eval.grounding [--scenes 480] [--model pocket]

Scenes of held-out concepts, recolored so that no text tells the color, whose silhouettes are known
to the pixel. The model is asked for the color beside one given scene, and the answer is attributed
to patches (vlmig/predict/attribution.py). "Share on the object" is the part of all positive effects
that lies on the drawing, a patch that it covers by half counting half; its share of the area is
what an even or a random attribution would have. Intervals are from a bootstrap over concepts.
"Deleted" is how far the log-odds fall, in nats, where the sixteen patches with the largest effects
become those of the blank image: what an attribution claims, tried. Needs Noto Color Emoji.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr

from vlmig.models.mixture import Mixture
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.scene_source import CLEAR, draw_glyph
from vlmig.pocket.scenes import COLORS, SIZE, read_color, recolored, scene_with_mask
from vlmig.pocket.tasks import covered
from vlmig.pocket.text import with_article
from vlmig.predict.attribution import by_attention, by_occlusion, log_odds
from vlmig.predict.predictor import VLMIG
from vlmig.processing.conversation import spaced
from vlmig.report.overlay import overlay
from vlmig.report.text_table import text_table

SEED, RESAMPLES = 25, 2000
DELETED = 16
METHODS = ("attention", "occlusion", "random")


@dataclass(frozen=True)
class Grounded:
    """One scene, and how its patches moved the answer."""

    concept: str
    right: bool
    inside: np.ndarray
    """How far the drawing covers each patch, (P,) in [0, 1]."""
    effects: dict[str, np.ndarray]
    """By method, (P,) each."""
    fallen: dict[str, float]
    """By method, the log-odds lost without the patches with the largest effects, in nats."""
    image: Image.Image


def recolored_scene(
    concept: Concept, rng: np.random.Generator
) -> tuple[Image.Image, np.ndarray, str]:
    """Draw a concept in a clear color: the scene, the pixels that it covers, and the color."""
    ink = draw_glyph(concept)
    while True:
        tinted = recolored(ink, rng)
        color, share = read_color(tinted.resize((40, 40)))
        if share >= CLEAR:
            return *scene_with_mask(tinted, rng), color


def on_patches(mask: np.ndarray, patches: int) -> np.ndarray:
    """Average a mask of pixels over the patches of a square grid, (P,)."""
    side = round(patches**0.5)
    return mask.reshape(side, SIZE // side, side, SIZE // side).mean((1, 3)).ravel()


def grounded(model: VLMIG, scenes: int) -> Iterator[Grounded]:
    """Ask for the color of held-out concepts, in turn, beside a scene each."""
    rng, mixture = np.random.default_rng(SEED), Mixture.of(model.config)
    concepts = [concept for concept in load_concepts() if covered(concept.name)]
    for number in range(scenes):
        concept = concepts[number % len(concepts)]
        image, mask, color = recolored_scene(concept, rng)
        visuals = model.imagination.given([image], [with_article(concept.name)])
        context = f"What is the color of {with_article(concept.name)}?"
        question = context, spaced(context, COLORS)
        (scores,) = model.score([context], [question[1]], [visuals], verbatim=True)
        answer = int(scores.mixed(1, mixture).argmax())
        asked = model.scorer, question, visuals, scores, mixture, answer
        effects = {"attention": by_attention(*asked)[0][0], "occlusion": by_occlusion(*asked)[0]}
        effects["random"] = rng.standard_normal(len(visuals.features[0]))
        variants = visuals.features[0].repeat(len(METHODS), 1, 1)
        for row, method in enumerate(METHODS):
            largest = torch.from_numpy(np.argsort(-effects[method])[:DELETED].copy())
            variants[row, largest] = model.model.blank_features[largest].to(variants)
        fallen = {}
        for row, method in enumerate(METHODS):
            without = model.imagination.given([image], [with_article(concept.name)])
            without.features = variants[row : row + 1]
            (deleted,) = model.score([context], [question[1]], [without], verbatim=True)
            fallen[method] = log_odds(scores, mixture, answer) - log_odds(deleted, mixture, answer)
        inside = on_patches(mask, len(effects["random"]))
        yield Grounded(concept.name, COLORS[answer] == color, inside, effects, fallen, image)


def share_inside(effects: np.ndarray, inside: np.ndarray) -> float:
    """Return the part of the positive effects that lies on the object; its area's without any."""
    positive = np.maximum(effects, 0)
    return float(positive @ inside / positive.sum()) if positive.any() else float(inside.mean())


def interval(values: np.ndarray, owners: Sequence[str]) -> tuple[float, float]:
    """Bound a ratio of sums, the columns of values (n, 2), by a bootstrap over owners."""
    names, index = np.unique(owners, return_inverse=True)
    sums = np.stack([np.bincount(index, column, len(names)) for column in values.T], 1)
    rng = np.random.default_rng(SEED)
    drawn = sums[rng.integers(0, len(names), (RESAMPLES, len(names)))].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return float(low), float(high)


def rows_of(found: Sequence[Grounded]) -> list[list[str]]:
    """Lay out a row for each method."""
    owners = [scene.concept for scene in found]
    areas = np.array([scene.inside.mean() for scene in found])
    rows = [["", "share on the object", "share of the area", "ratio", "deleted"]]
    for method in METHODS:
        shares = [share_inside(scene.effects[method], scene.inside) for scene in found]
        values = np.stack([shares, areas], 1)
        ratio, (low, high) = values[:, 0].sum() / values[:, 1].sum(), interval(values, owners)
        fallen = np.mean([scene.fallen[method] for scene in found])
        row = [method, f"{np.mean(shares):.3f}", f"{areas.mean():.3f}"]
        rows.append([*row, f"{ratio:.2f} [{low:.2f}, {high:.2f}]", f"{fallen:.2f}"])
    return rows


def agreement(found: Sequence[Grounded], first: str, second: str) -> str:
    """Return the mean over scenes of the rank correlation of two methods, with its interval."""
    values = [spearmanr(scene.effects[first], scene.effects[second])[0] for scene in found]
    pairs = np.stack([values, np.ones(len(values))], 1)
    low, high = interval(pairs, [scene.concept for scene in found])
    return f"{np.mean(values):.2f} [{low:.2f}, {high:.2f}]"


def shared(found: Sequence[Grounded], first: str, second: str) -> float:
    """Return how many of the patches with the largest effects two methods share, on average."""
    counts = []
    for scene in found:
        tops = [set(np.argsort(-scene.effects[name])[:DELETED]) for name in (first, second)]
        counts.append(len(tops[0] & tops[1]))
    return float(np.mean(counts))


def draw_sheet(found: Sequence[Grounded], path: Path, count: int = 8) -> None:
    """Save scenes with what moved their answers below each."""
    sheet = Image.new("RGB", (count * SIZE, 2 * SIZE))
    for place, scene in enumerate(found[:count]):
        effects = scene.effects["attention"]
        side = round(len(effects) ** 0.5)
        drawn = overlay(scene.image, effects.reshape(side, side), float(np.abs(effects).max()))
        sheet.paste(scene.image, (place * SIZE, 0))
        sheet.paste(drawn, (place * SIZE, SIZE))
    sheet.save(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and the rank correlations."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.grounding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--scenes", type=int, default=480)
    parser.add_argument("--sheet", type=Path, help="an image of scenes to write")
    given = parser.parse_args(argv)
    found = list(grounded(VLMIG.from_pretrained(given.model), given.scenes))
    right = np.mean([scene.right for scene in found])
    names = len({scene.concept for scene in found})
    print(f"{given.model}: {len(found)} scenes of {names} concepts, {right:.1%} answered right\n")
    print(text_table(rows_of(found), "<>>>>"))
    print(f"\nrank correlation, attention and occlusion: {agreement(found, *METHODS[:2])}")
    both, chance = (shared(found, "attention", name) for name in ("occlusion", "random"))
    print(
        f"of the {DELETED} largest patches, shared with occlusion {both:.1f}, random {chance:.1f}"
    )
    if given.sheet:
        draw_sheet(found, given.sheet)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
