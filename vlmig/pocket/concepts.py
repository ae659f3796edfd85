"""The concepts of the pocket world: what it can draw, and whose look its texts state.

``concepts.json`` has one record per concept. ``split`` says whether texts may state its color,
shape or size (``supervised``) or never do (``held_out``: this includes every concept that a public
benchmark names). ``calibration`` concepts set the mixture's parameters; no test item is about one.
``color`` and ``shape`` are computed from the glyph's pixels by ``vlmig.pocket.scenes``; ``size_m``
was written down from general knowledge, one by one, and taken from no benchmark.
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
    """A thing that the pocket world can draw."""

    name: str
    glyph: str
    """The emoji, drawn by the Noto Color Emoji font."""
    aliases: tuple[str, ...]
    split: str
    """``supervised`` or ``held_out``."""
    calibration: bool
    color: str | None = None
    """Dominant basic color of the glyph's pixels."""
    shape: str | None = None
    """Nearest basic shape of the glyph's silhouette."""
    size_m: float | None = None
    """Typical largest extent in meters of what the name says; None for weather and inventions."""
    other_sized: tuple[str, ...] = ()
    """Aliases of things of another size: of the globe, ``earth``."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its aliases."""
        return (self.name, *self.aliases)

    @property
    def sized_names(self) -> tuple[str, ...]:
        """The names that ``size_m`` is true of."""
        return tuple(name for name in self.names if name not in self.other_sized)


@cache
def load_concepts() -> tuple[Concept, ...]:
    """Read ``concepts.json``."""
    records = json.loads(CONCEPTS_FILE.read_text(encoding="utf-8"))
    for record in records:
        record |= {name: tuple(record[name]) for name in ("aliases", "other_sized")}
    return tuple(Concept(**record) for record in records)


def find_concept(subject: str) -> Concept | None:
    """Return the concept that a noun phrase names, ignoring article, case and plural; else None."""
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
