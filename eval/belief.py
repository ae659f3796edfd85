"""Image or memory? How many images of another color it takes before the answer follows them.

python -m eval.belief [--model pocket] [--png docs/belief.png]

Concepts as the font draws them, and recolored in another clear color. Of the k = 6 images beside a
question ("What is the color of a banana?", 11 colors) a *dose* of 0 to 6 shows the other color,
each in a scene of its own. Every image is scored once; doses, rules and weights are arithmetic on
these scores. Three sources:

- `given`: drawn scenes, given as a user gives images: trusted fully, whatever the weights;
- `scenes`: the same scenes, trusted as if they had been imagined, by their likeness to the name;
- `imagined`: in place of the scenes of the natural color, what the model's generator draws.

A concept is `known` where the texts told the model its color (supervised concepts, of the embedded
LM; of any other LM those whose color it says without images), else `unknown`. "Half" is the dose,
in % of the images, at which half of the answers are the other color, between doses by a straight
line; "> 100" where they never are. Intervals are from a bootstrap over concepts. Needs Noto Color
Emoji.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from eval.tables import markdown
from vlmig.imagination.visuals import Visuals
from vlmig.models.mixture import Mixture
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.scene_source import CLEAR, draw_glyph
from vlmig.pocket.scenes import COLORS, read_color, recolored, scene
from vlmig.pocket.tasks import look_items
from vlmig.predict.predictor import VLMIG
from vlmig.predict.scores import Scores

SEED, K, RESAMPLES, MOST = 26, 6, 1000, 120
SOURCES = ("given", "scenes", "imagined")
RULES = (
    ("evidence", "entropy"),
    ("evidence", "uniform"),
    ("evidence", "clip"),
    ("evidence", "learned"),
    ("logit", "learned"),
    ("logit", "uniform"),
    ("logit", "clip"),
    ("geometric", "uniform"),
    ("prob", "uniform"),
    ("prob", "clip"),
    ("contrast", "clip"),
)
DRAWN = {
    ("evidence", "uniform"): "given",
    ("logit", "uniform"): "given",
    ("prob", "uniform"): "given",
    ("logit", "learned"): "scenes",
    ("evidence", "clip"): "scenes",
    ("prob", "clip"): "scenes",
}
"""The curves of the plot: of given images one for each rule, since all weights trust them."""


@dataclass(frozen=True)
class Shown:
    """A concept in two colors."""

    concept: Concept
    natural: list[Image.Image]
    other: list[Image.Image]
    other_color: int
    """Index in ``COLORS``."""


@dataclass(frozen=True)
class Belief:
    """Scores of Q concepts, stacked; images are natural scenes, other scenes, imagined ones, K of
    each."""

    scores: Scores
    natural: np.ndarray
    """Index of the natural color, (Q,)."""
    other: np.ndarray
    known: np.ndarray
    """Bool, (Q,)."""


def shown(concept: Concept, rng: np.random.Generator) -> Shown | None:
    """Draw a concept in its color and in another; None where its own is not clear."""
    ink = draw_glyph(concept)
    color, share = read_color(ink.resize((40, 40)))
    if share < CLEAR or color != concept.color:
        return None
    while True:
        tinted = recolored(ink, rng)
        other, share = read_color(tinted.resize((40, 40)))
        if share >= CLEAR and other != color:
            break
    scenes = [[scene(drawn, rng) for _ in range(K)] for drawn in (ink, tinted)]
    return Shown(concept, *scenes, COLORS.index(other))


def joined(sets: Sequence[Visuals]) -> Visuals:
    """Put several sets of images of one text into one."""
    features = torch.cat([images.features for images in sets])
    alignment = torch.cat([images.alignment for images in sets])
    prompts = sum((images.prompts for images in sets), [])
    return Visuals(prompts, features, alignment, [], [""] * len(features))


def measured(model: VLMIG, concepts: Sequence[Concept], taught: bool) -> Belief:
    """Score the concepts' question beside all their images.

    Args:
        taught: whether the model's LM was taught the colors of supervised concepts, and no others.
    """
    rng = np.random.default_rng(SEED)
    found = [pair for concept in concepts if (pair := shown(concept, rng)) is not None]
    items = look_items("belief", [pair.concept for pair in found], "color")
    imagined = model.imagine([item.picture for item in items], K)
    contexts, choices, visuals = [], [], []
    for pair, item, drawn in zip(found, items, imagined, strict=True):
        given = model.imagination.given(pair.natural + pair.other, [item.picture] * 2 * K)
        contexts.append(item.questions[0].contexts[0])
        choices.append(item.questions[0].continuations)
        visuals.append(joined([given, drawn]))
    generic = len(model.model.generic_features) > 0
    rows = model.score(contexts, choices, visuals, generic=generic)
    scores = Scores(
        np.stack([row.text for row in rows]),
        np.stack([row.per_image for row in rows], 1),
        np.stack([row.blank for row in rows]),
        np.stack([row.alignment for row in rows], 1),
        np.stack([row.generic for row in rows], 1) if generic else None,
    )
    natural = np.array([COLORS.index(str(pair.concept.color)) for pair in found])
    known = scores.text.argmax(-1) == natural
    if taught:
        known = np.array([pair.concept.split == "supervised" for pair in found])
    return Belief(scores, natural, np.array([pair.other_color for pair in found]), known)


def answers(belief: Belief, mixture: Mixture, source: str) -> np.ndarray:
    """Return the answer at each dose, (K + 1, Q)."""
    first = 2 * K if source == "imagined" else 0
    answered = []
    for dose in range(K + 1):
        kept = [*range(first, first + K - dose), *range(K, K + dose)]
        alignment = belief.scores.alignment[kept]
        if source == "given":
            alignment = np.full_like(alignment, np.inf)
        scores = Scores(
            belief.scores.text,
            belief.scores.per_image[kept],
            belief.scores.blank,
            alignment,
            belief.scores.generic,
        )
        answered.append(scores.mixed(K, mixture).argmax(-1))
    return np.array(answered)


def half_dose(follows: np.ndarray) -> np.ndarray:
    """Return the dose in % at which half of the answers follow, (...), of the shares at each dose
    (K + 1, ...); infinity where that is never so."""
    doses = np.linspace(0, 100, len(follows))
    reached = follows >= 0.5
    after = np.maximum(reached.argmax(0), 1)
    low = np.take_along_axis(follows, after[None] - 1, 0)[0]
    high = np.take_along_axis(follows, after[None], 0)[0]
    part = np.clip((0.5 - low) / np.maximum(high - low, 1e-9), 0, 1)
    found = doses[after - 1] + part * doses[1]
    return np.where(reached.any(0), np.where(reached[0], 0.0, found), np.inf)


def half_cell(follows: np.ndarray) -> str:
    """Format the half dose of answers, bool (K + 1, Q), with its interval."""
    rng = np.random.default_rng(SEED)
    draws = rng.integers(0, follows.shape[1], (RESAMPLES, follows.shape[1]))
    resampled = half_dose(follows[:, draws].mean(-1))
    ends = np.quantile(resampled, (0.025, 0.975), method="nearest")
    value, low, high = (
        "> 100" if np.isinf(x) else f"{x:.0f}" for x in (half_dose(follows.mean(1)), *ends)
    )
    return f"{value} [{low}, {high}]"


def table(belief: Belief, mixtures: dict[tuple[str, str], Mixture], known: bool) -> str:
    """Make a row for each rule and weights: the half dose by source; and of the given images which
    answers are natural, and which follow, where all show the natural or all the other color."""
    chosen = belief.known == known
    rows = []
    for name, mixture in mixtures.items():
        cells = []
        for source in SOURCES:
            answered = answers(belief, mixture, source)[:, chosen]
            cells.append(half_cell(answered == belief.other[chosen]))
            if source == "given":
                none = np.mean(answered[0] == belief.natural[chosen])
                every = np.mean(answered[-1] == belief.other[chosen])
                memory = np.mean(answered[-1] == belief.natural[chosen])
                ends = [f"{100 * none:.0f}", f"{100 * every:.0f}", f"{100 * memory:.0f}"]
        rows.append([" / ".join(name), *cells, *ends])
    head = ["rule / weights", *(f"half, {source}" for source in SOURCES)]
    head += ["natural at 0 %", "other at 100 %", "natural at 100 %"]
    return markdown(head, rows)


def draw(belief: Belief, mixtures: dict[tuple[str, str], Mixture], path: Path) -> None:
    """Draw the share of answers that follow the other color against the dose."""
    figure = Figure(figsize=(9, 4), layout="tight")
    doses = np.linspace(0, 100, K + 1)
    panels = figure.subplots(1, 2, sharey=True)
    for axis, known in zip(panels, (True, False), strict=True):
        chosen = belief.known == known
        for (mix, weights), source in DRAWN.items():
            follows = answers(belief, mixtures[mix, weights], source) == belief.other
            named = f"{mix}, given" if source == "given" else f"{mix} / {weights}, as imagined"
            style = "-" if source == "given" else ":"
            share = 100 * follows[:, chosen].mean(1)
            axis.plot(doses, share, style, marker=".", label=named)
        text = 100 * np.mean(belief.scores.text.argmax(-1)[chosen] == belief.natural[chosen])
        name = "known to the text" if known else "not known to the text"
        axis.set(xlabel="images of the other color, %", ylim=(-3, 103))
        axis.set_title(
            f"color {name}: n = {chosen.sum()}, text only right {text:.0f} %", fontsize=9
        )
    panels[0].set(ylabel="answers that follow it, %")
    panels[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, and draw the curves."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.belief",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--most", type=int, default=MOST, help="concepts of each split")
    parser.add_argument("--png", type=Path, help="an image to draw")
    given = parser.parse_args(argv)
    concepts = [concept for concept in load_concepts() if not concept.calibration]
    order = np.random.default_rng(SEED).permutation(len(concepts))
    drawn: list[Concept] = []
    for split in ("supervised", "held_out"):
        drawn += [concepts[i] for i in order if concepts[i].split == split][: given.most]
    model = VLMIG.from_pretrained(given.model)
    belief = measured(model, drawn, given.model == "pocket")
    mixtures = {}
    for rule in RULES:
        if rule[0] != "contrast" or belief.scores.generic is not None:
            mixtures[rule] = Mixture.of(model.config, *rule)
    for known in (True, False):
        chosen = belief.known == known
        if chosen.any():
            text = np.mean(belief.scores.text.argmax(-1)[chosen] == belief.natural[chosen])
            name = "known" if known else "unknown"
            print(f"{given.model}, {name}: n = {chosen.sum()}, text only right {text:.1%}\n")
            print(table(belief, mixtures, known) + "\n")
    if given.png:
        draw(belief, mixtures, given.png)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
