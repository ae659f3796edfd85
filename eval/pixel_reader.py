"""Ceilings for the pocket model: what the pixels of its drawings say, by no model or hardly one.

python -m eval.pixel_reader ../shared/data [--work runs/pocket]
python -m eval.pixel_reader --pairs 300 [--model CHECKPOINT] [--generator FOLDER]

Colours: how often the colour of a drawing's pixels is the benchmark's label; and, for the second set,
what a person called it (``colours_by_eye.yaml``). Sizes: scenes of two held-out things, drawn at true
and at random scale, and what a generator makes of "an ant and an elephant"; a thing's extent is that
of its silhouette, and which of the two it is says the embedded encoder, which sees each one alone, cut
out and enlarged; where two things are not found, none is read. Beside it, which name is nearer to the
encoder's embedding of the whole scene.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from scipy import ndimage

from eval.picture_quality import Judge, draw, load_imaginer, share, silhouette
from tools.pocket.drawings import drawers
from vlmig.evaluation.tasks.yaml_task import declaration
from vlmig.imagination.sources.families import Sampling
from vlmig.models.checkpoint import POCKET
from vlmig.pocket.concepts import Concept, find_concept, load_concepts
from vlmig.pocket.scene_source import draw_glyph
from vlmig.pocket.scenes import GLYPH, glyph, read_color
from vlmig.pocket.side_by_side import draw_group, random_sizes, side_by_side
from vlmig.pocket.tasks import covered
from vlmig.pocket.text import with_article
from vlmig.predict.predictor import VLMIG

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""
Compared = tuple[list[str], int, Image.Image]
"""The names of two things, which of them is larger, and a scene of them."""
MARGIN = 3
"""Pixels around a thing that is cut out."""


def things(image: Image.Image, count: int) -> list[Box]:
    """Find the boxes of things side by side, from left to right; fewer where they touch.

    The silhouette's columns are split at the widest gaps; a thing may have gaps of its own.
    """
    mask = silhouette(image)
    mask &= ndimage.uniform_filter(mask.astype(float), 3) > 0.3  # no single pixels
    columns = np.flatnonzero(mask.any(0))
    if not len(columns):
        return []
    gaps = np.diff(columns)
    cuts = np.sort(np.argsort(gaps, kind="stable")[::-1][: count - 1])
    boxes = []
    for part in np.split(columns, [cut + 1 for cut in cuts if gaps[cut] > 1]):
        rows = np.flatnonzero(mask[:, part].any(1))
        boxes.append((int(part[0]), int(rows[0]), int(part[-1]) + 1, int(rows[-1]) + 1))
    return boxes


def extent(box: Box) -> int:
    """Return the larger side of a box."""
    return max(box[2] - box[0], box[3] - box[1])


def larger_named(image: Image.Image, names: Sequence[str], judge: Judge) -> int | None:
    """Say which of two named things is drawn larger; None where two are not found."""
    boxes = things(image, 2)
    if len(boxes) < 2:
        return None
    cuts = []
    for left, top, right, bottom in boxes:
        side = max(right - left, bottom - top) + 2 * MARGIN
        x, y = (left + right - side) // 2, (top + bottom - side) // 2
        cuts.append(_square(image, x, y, side))
    alike = (judge.images(cuts) @ judge.names(names).T).numpy()
    crossed = alike[0, 1] + alike[1, 0] > alike[0, 0] + alike[1, 1]
    first_is_larger = extent(boxes[0]) > extent(boxes[1])
    return int(first_is_larger) if crossed else int(not first_is_larger)


def _square(image: Image.Image, x: int, y: int, side: int) -> Image.Image:
    """Cut a square out of an image, and repeat the border where it reaches beyond."""
    pixels = np.pad(np.asarray(image), ((side, side), (side, side), (0, 0)), mode="edge")
    return Image.fromarray(pixels[y + side : y + 2 * side, x + side : x + 2 * side])


def drawn_pairs(pairs: int, true_scale: bool) -> Iterator[Compared]:
    """Draw scenes of two held-out things."""
    rng = np.random.default_rng(61)
    concepts = [concept for concept in load_concepts() if covered(concept.name)]
    while pairs:
        group = draw_group(concepts, 2, rng)
        sizes = [c.size_m or 0.0 for c in group] if true_scale else random_sizes(2, rng)
        if max(sizes) < 2 * min(sizes):
            continue
        image = side_by_side([glyph(c.glyph) for c in group], sizes, rng)
        yield [c.name for c in group], int(np.argmax(sizes)), image
        pairs -= 1


def generated_pairs(pairs: int, generator: str) -> Iterator[Compared]:
    """Have a generator make scenes of the same things by their names."""
    drawn = list(drawn_pairs(pairs, True))
    prompts = [" and ".join(map(with_article, names)) for names, _, _ in drawn]
    images = draw(load_imaginer(generator, Sampling(4, 1.0, 96)), prompts)
    for (names, larger, _), image in zip(drawn, images, strict=True):
        yield names, larger, image


def read_sizes(pairs: Iterable[Compared]) -> np.ndarray:
    """Return whether the larger of two things was read: bool (pairs, 2), by its silhouette, and by
    the embedding of the whole scene, which is nearer to its name."""
    judge = Judge(str(POCKET / "vision_encoder"))
    right: list[list[bool]] = []
    for names, larger, image in pairs:
        whole = (judge.images([image]) @ judge.names(names).T).argmax()
        right.append([larger_named(image, names, judge) == larger, int(whole) == larger])
    return np.array(right)


def asked_sizes(model: VLMIG, pairs: Iterable[Compared]) -> dict[str, np.ndarray]:
    """Ask a model which of two things is larger, and which smaller, in both orders, beside their
    scene.

    Returns:
        Whether each answer is right, by evidence against the blank image: bool (2 * pairs,) for
        names ("Which is larger, A or B?", and smaller) and for yes or no ("Is A larger than B?").
    """
    contexts, choices, images, answers = [], [], [], []
    for names, larger, image in pairs:
        for first in (0, 1):
            one, two = with_article(names[first]), with_article(names[1 - first])
            contexts += [f"Which is {word}, {one} or {two}?" for word in ("larger", "smaller")]
            contexts.append(f"Is {one} larger than {two}?")
            choices += [(f" {one}", f" {two}"), (f" {one}", f" {two}"), (" Yes", " No")]
            images += 3 * [model.imagination.given([image], [f"{one} and {two}"])]
            answers += [int(first != larger), int(first == larger), int(first != larger)]
    scores = model.score(contexts, choices, images)
    read = np.array([(score.per_image[0] - score.blank).argmax() for score in scores])
    right = read == np.array(answers)
    return {"larger": right[::3], "smaller": right[1::3], "yes or no": right[2::3]}


def drawn_color(name: str, draw: Callable[[Concept], Image.Image]) -> str | None:
    """Read the dominant color of a thing's drawing; None where there is no such thing."""
    concept = find_concept(name)
    return read_color(draw(concept).resize((GLYPH, GLYPH)))[0] if concept else None


def named_alike(draw: Callable[[Concept], Image.Image]) -> dict[str, np.ndarray]:
    """Return whether the reader names the colors of drawings as a person did, bool (n,), by how
    the drawings were chosen."""
    text = Path(__file__).with_name("colours_by_eye.yaml").read_text(encoding="utf-8")
    alike: dict[str, np.ndarray] = {}
    for chosen, colors in yaml.safe_load(text).items():
        right = []
        for color, names in colors.items():
            right += [drawn_color(name, draw) == color for name in names]
        alike[chosen] = np.array(right)
    return alike


def print_sizes(title: str, pairs: Sequence[Compared], model: VLMIG | None) -> None:
    """Print how often the larger of two things is read, from pixels and by a model."""
    silhouettes, embeddings = map(share, read_sizes(pairs).T)
    print(f"larger of two held-out things, {title}, n={len(pairs)}:")
    print(f"  silhouettes {silhouettes}, whole embedding {embeddings}")
    if model:
        for kind, right in asked_sizes(model, pairs).items():
            print(f"  the model, {kind}, both orders {share(right)}")


def main() -> None:
    """Print right answers and n: over the covered objects of memory_color, or over drawn pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="benchmark files, for colours")
    parser.add_argument(
        "--work", type=Path, help="the recipe's folder: reads every set of drawings"
    )
    parser.add_argument("--pairs", type=int, help="pairs of things to draw, for sizes")
    parser.add_argument("--model", help="a checkpoint to ask too, beside the pairs")
    parser.add_argument(
        "--generator", default=str(POCKET / "generator"), help="makes the pairs too, in 4 steps"
    )
    given = parser.parse_args()
    if given.data:
        items = declaration("memory_color").made().load(given.data)
        items = [item for item in items if covered(item.cluster)]
        for number, draw in enumerate(drawers(given.work) if given.work else [draw_glyph]):
            right = np.array([item.label == drawn_color(item.cluster, draw) for item in items])
            print(f"memory_color, covered, set {number + 1}: {share(right)}, n={len(items)}")
            if number == 1:
                for chosen, alike in named_alike(draw).items():
                    print(f"named by eye, set 2, {chosen}: {share(alike)}, n={len(alike)}")
    if not given.pairs:
        return
    model = VLMIG.from_pretrained(given.model) if given.model else None
    scenes = {
        "true scale": drawn_pairs(given.pairs, True),
        "random scale": drawn_pairs(given.pairs, False),
        "generated": generated_pairs(given.pairs, given.generator),
    }
    for title, pairs in scenes.items():
        print_sizes(title, list(pairs), model)


if __name__ == "__main__":
    main()
