"""What people say of things in Visual Genome: for each noun, its distribution of colors, shapes,
sizes and materials, from the raw ``attributes.json``."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vlmig.data.images import is_number
from vlmig.errors import VLMIGError
from vlmig.io.atomic import write_json
from vlmig.io.hashing import sha256
from vlmig.io.json_stream import find_json, json_items

WORDS = Path(__file__).parent / "attributes.yaml"
FILE = "attribute_shares.json"
"""What is written beside the raw files; the tasks ``visual_genome_color`` and so on read it."""
DIGITS = 4
APART = re.compile(r"[,;/&+]|\band\b|\bor\b")
"""What stands between two attributes in one text."""
WORD = re.compile(r"[^\W\d_]+")
PLURALS = (("y", "ies"), ("f", "ves"), ("fe", "ves"), ("", "es"), ("", "s"))
"""The ends of a singular and of its plural."""
SIDES = (("x", "x"), ("y", "y"), ("w", "width"), ("h", "height"))
"""The fields of a box, by their names in attributes and in regions."""
Value = tuple[str, str]
"""A kind of attribute, and its value: ``("color", "red")``."""


class Vocabulary:
    """The values that are counted, and the words that say them."""

    def __init__(self) -> None:
        texts = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
        self.version: int = texts["version"]
        self.values: dict[str, list[str]] = {k: list(v) for k, v in texts["kinds"].items()}
        """The values of each kind."""
        self.beside = frozenset(texts["beside"])
        self.said: dict[str, Value] = {}
        for kind, values in texts["kinds"].items():
            for value, synonyms in values.items():
                self.said |= dict.fromkeys((value, *synonyms), (kind, value))
        self.values_in = cache(self._values_in)  # the same texts occur a million times

    def _values_in(self, text: str) -> tuple[Value, ...]:
        """Return the values that an attribute names: one, several joined by commas or "and", or
        none."""
        values: list[Value] = []
        for phrase in APART.split(text.lower()):
            words = [word for word in WORD.findall(phrase) if word not in self.beside]
            if all(word in self.said for word in words):  # not those of "not red", "red striped"
                values += [self.said[word] for word in words]
        return tuple(dict.fromkeys(values))


@dataclass
class Said:
    """What was said about one kind of attribute of a noun."""

    images: int = 0
    objects: int = 0
    counts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By value, a count of images: each counts once, shared between what its objects are said to
    be."""


@dataclass
class Reading:
    """What a file's records came to."""

    images: int = 0
    objects: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """By reason, images and objects that count nowhere."""
    nouns: dict[str, dict[str, Said]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Said))
    )
    """By noun and kind."""


def noun_of(record: dict[str, Any]) -> str:
    """Name what an object is: its first name in small letters, without an article; a plural by the
    singular if its synset says that it is one. Empty without a name."""
    names = record.get("names", record.get("name"))
    first = names[0] if isinstance(names, list) and names else names
    if not isinstance(first, str):
        return ""
    noun = re.sub(r"^(the|an?) ", "", " ".join(first.lower().split())).strip(" .,;:!?\"'")
    synsets = record.get("synsets")
    for synset in synsets if isinstance(synsets, list) else [synsets]:
        lemma = str(synset).partition(".")[0].replace("_", " ")
        for one, many in PLURALS:
            if lemma.endswith(one) and noun == lemma.removesuffix(one) + many:
                return lemma
    return noun


def read_attributes(path: Path, known: set[int] | None, vocabulary: Vocabulary) -> Reading:
    """Count what is said of the objects in ``attributes.json``, image by image: one is in memory.

    Args:
        known: the numbers of the images that there are; None if that is unknown.

    Raises:
        VLMIGError: the JSON is damaged or broken off.
    """
    reading, done = Reading(), set[int]()
    for record in json_items(path):
        fields = record if isinstance(record, dict) else {}
        number = fields.get("image_id", fields.get("id"))
        objects = fields.get("attributes", fields.get("objects"))
        if not isinstance(number, int) or isinstance(number, bool):
            reading.left_out["image without a number"] += 1
        elif number in done:
            reading.left_out["image a second time"] += 1
        elif known is not None and number not in known:
            reading.left_out["image that image_data.json does not have"] += 1
        elif not isinstance(objects, list):
            reading.left_out["image without a list of objects"] += 1
        else:
            done.add(number)
            reading.images += 1
            _count(_merged(objects, vocabulary, reading), reading)
    return reading


def _merged(
    objects: Sequence[Any], vocabulary: Vocabulary, reading: Reading
) -> Iterator[tuple[str, set[Value]]]:
    """Yield the objects of an image with what is said of them; one that is listed several times,
    with the same number or as the same noun in the same box, is one object."""
    by_key: dict[Any, tuple[str, set[Value]]] = {}
    for record in objects:
        reading.objects += 1
        fields = record if isinstance(record, dict) else {}
        noun, attributes = noun_of(fields), fields.get("attributes")
        box: tuple[Any, ...] = tuple(fields.get(side, fields.get(other)) for side, other in SIDES)
        if not noun:
            reading.left_out["object without a name"] += 1
        elif not all(map(is_number, box)) or min(box[2:]) <= 0:
            reading.left_out["object without an area"] += 1
        elif not attributes:
            reading.left_out["object without attributes"] += 1
        else:
            values = _said(attributes, vocabulary)
            number = fields.get("object_id", fields.get("id"))
            same = by_key.get(number) if isinstance(number, int) else None
            same = same or by_key.get((noun, box)) or (noun, set())
            same[1].update(values)
            by_key[(noun, box)] = same
            if isinstance(number, int):
                by_key[number] = same
    distinct = {id(one): one for one in by_key.values()}
    for noun, said in distinct.values():
        if not said:
            reading.left_out["object with other attributes only"] += 1
        yield noun, said


def _said(attributes: Any, vocabulary: Vocabulary) -> set[Value]:
    values: set[Value] = set()
    for text in attributes if isinstance(attributes, list) else [attributes]:
        if isinstance(text, str):
            values.update(vocabulary.values_in(text))
    return values


def _count(objects: Iterator[tuple[str, set[Value]]], reading: Reading) -> None:
    """Add an image: each noun in it counts once for each kind, however many of it there are."""
    said: dict[tuple[str, str], list[list[str]]] = {}
    for noun, values in objects:
        kinds: dict[str, list[str]] = {}
        for kind, value in values:
            kinds.setdefault(kind, []).append(value)
        for kind, named in kinds.items():
            said.setdefault((noun, kind), []).append(named)
    for (noun, kind), each in said.items():
        about = reading.nouns[noun][kind]
        about.images += 1
        about.objects += len(each)
        for named in each:
            for value in named:
                about.counts[value] += 1 / (len(each) * len(named))


def write_attributes(source: Path, out: Path | None = None, least: int = 20) -> dict[str, Any]:
    """Write the distributions of each noun's attributes; the file appears when it is whole.

    Args:
        source: folder with ``attributes.json`` (or ``.json.zip``, also with a version in its name)
            and, if there, ``image_data.json``; or the file itself.
        out: what to write; ``FILE`` in the folder when None.
        least: fewest images in which a kind of attribute is said of a noun; of 20, a share of one
            half has a standard error of 0.11.

    Returns:
        What was written.

    Raises:
        VLMIGError: no such file, a damaged one, or no noun with enough images.
    """
    folder = source if source.is_dir() else source.parent
    path = find_json(source, "attributes") if source.is_dir() else source
    if path is None or not path.is_file():
        raise VLMIGError(
            f"no attributes.json or attributes.json.zip in {folder}; expected Visual Genome's own "
            "files; fetch them from its site, or correct the path"
        )
    images, vocabulary = find_json(folder, "image_data"), Vocabulary()
    reading = read_attributes(path, _numbers(images) if images else None, vocabulary)
    kinds = [_kind(kind, reading, vocabulary, least) for kind in vocabulary.values]
    written = {
        "made_by": f"vlmig data attributes, vocabulary {vocabulary.version}",
        "files": {file.name: sha256(file) for file in (path, images) if file},
        "read": {
            "images": reading.images,
            "objects": reading.objects,
            "left_out": dict(reading.left_out.most_common()),
        },
        "least": least,
        "kinds": kinds,
    }
    if not any(kind["nouns"] for kind in kinds):
        raise VLMIGError(
            f"{path} says of no noun in {least} images what it looks like ({reading.images} images "
            f"and {reading.objects} objects were read); lower --least, or fetch the whole file"
        )
    write_json(out or folder / FILE, written)
    return written


def _numbers(path: Path) -> set[int]:
    """Read the numbers of the images in ``image_data.json``."""
    numbers = set[int]()
    for record in json_items(path):
        number = record.get("image_id", record.get("id")) if isinstance(record, dict) else None
        if isinstance(number, int):
            numbers.add(number)
    return numbers


def _kind(kind: str, reading: Reading, vocabulary: Vocabulary, least: int) -> dict[str, Any]:
    """List the nouns of which enough images say a kind of attribute, by name."""
    nouns = []
    for noun, kinds in sorted(reading.nouns.items()):
        said = kinds.get(kind)
        if said is not None and said.images >= least:
            counts = {v: round(said.counts[v], DIGITS) for v in vocabulary.values[kind]}
            counted = {value: count for value, count in counts.items() if count}
            about = {"images": said.images, "objects": said.objects, "counts": counted}
            nouns.append({"noun": noun, **about})
    return {"kind": kind, "candidates": vocabulary.values[kind], "nouns": nouns}
