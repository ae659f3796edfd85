"""The description of an image for the teacher: some of its region phrases, and boxes of objects."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from vlmig.data.images import place_box
from vlmig.data.pairs import Box, Pair
from vlmig.data.sources.visual_genome import VisualGenome
from vlmig.io.hashing import number_of
from vlmig.io.json_stream import find_json, json_items
from vlmig.io.rows import Bad
from vlmig.vision.files import BadImage, size_of

ALIKE, NEARLY, SAME_PLACE = 0.7, 0.4, 0.5
"""Two phrases are the same if they share this much of their words (``ALIKE``), or less (``NEARLY``)
in boxes that overlap this much."""
Named = tuple[str, tuple[float, float, float, float]]
"""A phrase or an object's name, and left, top, right and bottom from 0 to 1."""


@dataclass(frozen=True)
class Context:
    """One image in words."""

    image: str
    """The image's number in Visual Genome."""
    picture: str
    """Its file, relative to the folder."""
    phrases: tuple[str, ...]
    boxes: tuple[Named, ...]

    def text(self, boxes: bool) -> str:
        """Write a phrase on each line and then, with ``boxes``, a box on each line."""
        lines = list(self.phrases)
        if boxes:
            lines.append("")
            for name, (left, top, right, bottom) in self.boxes:
                lines.append(f"{name}: [{left:.3f}, {top:.3f}, {right:.3f}, {bottom:.3f}]")
        return "\n".join(lines)

    @property
    def digest(self) -> str:
        """A hash of the whole description, 16 letters."""
        return hashlib.sha256(self.text(True).encode()).hexdigest()[:16]


def contexts(folder: Path, regions: int, seed: int, left_out: Counter[str]) -> Iterator[Context]:
    """Yield the images of a Visual Genome folder with a file and a phrase, in the order of its
    JSON.

    Args:
        folder: with ``region_descriptions.json``, the images and, optionally, ``objects.json``,
            whose boxes then replace those of the phrases.
        regions: most phrases of an image, and most boxes; the choice depends on seed and image
            alone.
        seed: of that choice.
        left_out: counts, by reason, the records that cannot be used.

    Raises:
        VLMIGError: a file is missing or damaged.
    """
    source = VisualGenome(folder)
    path = find_json(folder, "objects")
    objects = _Objects(path) if path else None
    done = set()
    for image, records in groupby(_counted(source, left_out), key=lambda pair: pair.group):
        if image in done:
            left_out["image a second time"] += 1
            continue
        done.add(image)
        pairs = list(records)
        try:
            size = size_of(folder / pairs[0].picture)
        except BadImage as reason:
            left_out[str(reason)] += len(pairs)
            continue
        chosen = _phrases(pairs, regions, seed)
        boxes = _objects(objects.take(image), size, left_out) if objects else []
        boxes = _boxes(image, boxes, regions, seed) or chosen
        named = tuple((name, _normalized(box, size)) for name, box in boxes)
        yield Context(image, pairs[0].picture, tuple(name for name, _ in chosen), named)


def _counted(source: VisualGenome, left_out: Counter[str]) -> Iterator[Pair]:
    for record in source.pairs():
        if isinstance(record, Bad):
            left_out[record.reason] += 1
        else:
            yield record


def _phrases(pairs: Sequence[Pair], count: int, seed: int) -> list[tuple[str, Box]]:
    """Choose phrases that say different things, in the order of the file."""
    named = []
    for pair in pairs:
        if pair.box is not None:
            named.append((" ".join(pair.caption.split()), pair.box))
    return _sample(pairs[0].group, named, count, seed, _same_phrase)


def _boxes(
    image: str, named: list[tuple[str, Box]], count: int, seed: int
) -> list[tuple[str, Box]]:
    def same(a: tuple[str, Box], b: tuple[str, Box]) -> bool:
        return a[0] == b[0] and _overlap(a[1], b[1]) >= SAME_PLACE

    return _sample(image, named, count, seed, same)


def _sample(
    image: str, named: list[tuple[str, Box]], count: int, seed: int, same: Any
) -> list[tuple[str, Box]]:
    def priority(i: int) -> tuple[int, int]:
        return number_of(f"{image} {i} {named[i][0]}", seed), i

    chosen: list[int] = []
    for i in sorted(range(len(named)), key=priority):
        if len(chosen) == count:
            break
        if not any(same(named[i], named[j]) for j in chosen):
            chosen.append(i)
    return [named[i] for i in sorted(chosen)]


def _same_phrase(first: tuple[str, Box], second: tuple[str, Box]) -> bool:
    one, other = _words(first[0]), _words(second[0])
    shared = len(one & other) / max(1, len(one | other))
    return shared >= ALIKE or (shared >= NEARLY and _overlap(first[1], second[1]) >= SAME_PLACE)


def _words(phrase: str) -> set[str]:
    return set(phrase.lower().rstrip(".").split()) - {"a", "an", "the"}


def _overlap(first: Box, second: Box) -> float:
    """Return the boxes' intersection over union."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(0, width) * max(0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return common / (areas - common)


def _normalized(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (min(1.0, side / size[i % 2]) for i, side in enumerate(box))
    return left, top, right, bottom


class _Objects:
    """The records of ``objects.json`` by image, read as far as needed; skipped ones are kept."""

    def __init__(self, path: Path) -> None:
        self.records, self.passed = json_items(path), dict[str, Any]()

    def take(self, image: str) -> Any:
        if image not in self.passed:
            for record in self.records:
                if isinstance(record, dict):
                    number = str(record.get("image_id", record.get("id")))
                    self.passed[number] = record.get("objects")
                    if number == image:
                        break
        return self.passed.pop(image, None)


def _objects(records: Any, size: tuple[int, int], left_out: Counter[str]) -> list[tuple[str, Box]]:
    objects = []
    for record in records if isinstance(records, list) else ():
        fields = record if isinstance(record, dict) else {}
        names = fields.get("names")
        sides = [fields.get("x"), fields.get("y"), fields.get("w"), fields.get("h")]
        try:
            if not (
                isinstance(names, list) and names and isinstance(names[0], str) and names[0].strip()
            ):
                raise BadImage("object without a name")
            objects.append((" ".join(names[0].split()), place_box(sides, size)[0]))
        except BadImage as reason:
            left_out[f"objects: {reason}"] += 1
    return objects
