"""What the teacher is told of a picture: some of its region phrases, and boxes of what is in it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from vlmig.data.pairs import BadPicture, Box, Pair
from vlmig.data.pictures import place_box, size_of
from vlmig.data.sources.visual_genome import VisualGenome
from vlmig.io.hashing import number_of
from vlmig.io.json_stream import find_json, json_items
from vlmig.io.rows import Bad

ALIKE, NEARLY, SAME_PLACE = 0.7, 0.4, 0.5
"""Two phrases say the same if they share this much of their words; or somewhat less, in boxes that overlap this much."""
Named = tuple[str, tuple[float, float, float, float]]
"""A phrase or an object's name, and left, top, right and bottom from 0 to 1."""


@dataclass(frozen=True)
class Context:
    """One picture in words."""

    image: str
    """The image's number in Visual Genome."""
    picture: str
    """Its file, relative to the folder."""
    phrases: tuple[str, ...]
    boxes: tuple[Named, ...]

    def text(self, boxes: bool) -> str:
        """Write a phrase on each line and then, if asked for, a box on each line."""
        lines = list(self.phrases)
        if boxes:
            lines += [
                "",
                *(
                    f"{name}: [{', '.join(f'{side:.3f}' for side in box)}]"
                    for name, box in self.boxes
                ),
            ]
        return "\n".join(lines)

    @property
    def digest(self) -> str:
        """Sixteen letters that stand for all the teacher can be told of the picture."""
        return hashlib.sha256(self.text(True).encode()).hexdigest()[:16]


def contexts(folder: Path, regions: int, seed: int, left_out: Counter[str]) -> Iterator[Context]:
    """Yield the images of a Visual Genome folder that have a picture and a phrase, in the order of their file.

    Args:
        folder: with ``region_descriptions.json``, the pictures and, if there, ``objects.json``, whose boxes are then told in
            place of the phrases' own.
        regions: most phrases of an image, and most boxes; which of more depends on seed and image alone.
        seed: of that choice.
        left_out: counts, by reason, the records that cannot be used.

    Raises:
        VLMIGError: there are no such files, or one is damaged.
    """
    source = VisualGenome(folder)
    path = find_json(folder, "objects")
    objects = _Objects(path) if path else None
    seen = set()
    for image, records in groupby(_counted(source, left_out), key=lambda pair: pair.group):
        if image in seen:
            left_out["image a second time"] += 1
            continue
        seen.add(image)
        pairs = list(records)
        try:
            size = size_of(folder / pairs[0].picture)
        except BadPicture as reason:
            left_out[str(reason)] += len(pairs)
            continue
        chosen = _phrases(pairs, regions, seed)
        boxes = _objects(objects.take(image), size, left_out) if objects else []
        boxes = _boxes(image, boxes, regions, seed) or chosen
        named = tuple((name, _normalised(box, size)) for name, box in boxes)
        yield Context(image, pairs[0].picture, tuple(name for name, _ in chosen), named)


def _counted(source: VisualGenome, left_out: Counter[str]) -> Iterator[Pair]:
    for record in source.pairs():
        if isinstance(record, Bad):
            left_out[record.reason] += 1
        else:
            yield record


def _phrases(pairs: Sequence[Pair], count: int, seed: int) -> list[tuple[str, Box]]:
    """Choose phrases that say different things, and put them in the order of the file."""
    found = [(" ".join(pair.caption.split()), pair.box) for pair in pairs]
    named = [(phrase, box) for phrase, box in found if box is not None]
    return _sample(pairs[0].group, named, count, seed, _same_phrase)


def _boxes(
    image: str, named: list[tuple[str, Box]], count: int, seed: int
) -> list[tuple[str, Box]]:
    return _sample(
        image, named, count, seed, lambda a, b: a[0] == b[0] and _overlap(a[1], b[1]) >= SAME_PLACE
    )


def _sample(
    image: str, named: list[tuple[str, Box]], count: int, seed: int, same: Any
) -> list[tuple[str, Box]]:
    order = sorted(
        range(len(named)), key=lambda i: (number_of(f"{image} {i} {named[i][0]}", seed), i)
    )
    chosen: list[int] = []
    for i in order:
        if len(chosen) == count:
            break
        if not any(same(named[i], named[j]) for j in chosen):
            chosen.append(i)
    return [named[i] for i in sorted(chosen)]


def _same_phrase(first: tuple[str, Box], second: tuple[str, Box]) -> bool:
    one, other = (
        set(phrase.lower().rstrip(".").split()) - {"a", "an", "the"}
        for phrase, _ in (first, second)
    )
    shared = len(one & other) / max(1, len(one | other))
    return shared >= ALIKE or (shared >= NEARLY and _overlap(first[1], second[1]) >= SAME_PLACE)


def _overlap(first: Box, second: Box) -> float:
    """Return the boxes' common area over the area that either covers."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(0, width) * max(0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return common / (areas - common)


def _normalised(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (min(1.0, side / size[i % 2]) for i, side in enumerate(box))
    return left, top, right, bottom


class _Objects:
    """The records of ``objects.json`` by image, read no further than asked; those of images passed by are kept till then."""

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
    found = []
    for record in records if isinstance(records, list) else ():
        fields = record if isinstance(record, dict) else {}
        names = fields.get("names")
        sides = [fields.get("x"), fields.get("y"), fields.get("w"), fields.get("h")]
        try:
            if not (
                isinstance(names, list) and names and isinstance(names[0], str) and names[0].strip()
            ):
                raise BadPicture("object without a name")
            found.append((" ".join(names[0].split()), place_box(sides, size)[0]))
        except BadPicture as reason:
            left_out[f"objects: {reason}"] += 1
    return found
