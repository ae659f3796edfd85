"""The concepts of the pocket world: what it can draw, and which of their looks were ever told in text.

``concepts.json`` holds one record per concept. ``split`` says whether texts may state its colour or shape
(``supervised``) or never do (``held_out``: every concept that a public benchmark names is here).
``calibration`` concepts set the mixture's parameters; no test item is about one of them.
``color`` and ``shape`` are read from the glyph's pixels by ``vlmig.pocket.scenes``, never given by people.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
CONCEPTS_FILE = FOLDER / "concepts.json"


@dataclass(frozen=True)
class Concept:
    """One thing the pocket world can draw."""

    name: str
    glyph: str
    """The emoji, drawn by the Noto Color Emoji font."""
    aliases: tuple[str, ...]
    split: str
    """``supervised`` or ``held_out``."""
    calibration: bool
    color: str | None = None
    """Dominant basic colour of the glyph's pixels."""
    shape: str | None = None
    """Nearest basic shape of the glyph's silhouette."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its aliases."""
        return (self.name, *self.aliases)


@cache
def load_concepts() -> tuple[Concept, ...]:
    """Read ``concepts.json``."""
    records = json.loads(CONCEPTS_FILE.read_text(encoding="utf-8"))
    return tuple(Concept(**{**record, "aliases": tuple(record["aliases"])}) for record in records)


def find_concept(subject: str) -> Concept | None:
    """Return the concept a noun phrase names (articles, case and plural aside), or None if there is none."""
    words = subject.lower().strip(" .?!").split()
    while words and words[0] in ("a", "an", "the", "some"):
        words = words[1:]
    return _index().get(" ".join(words))


def plural(noun: str) -> str:
    """Form the regular English plural of a noun phrase."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun if noun.endswith("s") and not noun.endswith("ss") else noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun[:-1] + "ves" if noun.endswith("leaf") else noun + "s"


@cache
def _index() -> dict[str, Concept]:
    index = {}
    for concept in load_concepts():
        for name in concept.names:
            index[plural(name)] = concept
            index[name] = concept
    return index
