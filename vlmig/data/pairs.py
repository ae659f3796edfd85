"""Image-text pairs: what a model learns from, and what can be wrong with a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class Pair:
    """A caption and the picture it points at; or a document or conversation with several.

    A pair without a picture but with a ``prompt`` is read beside an imagined one; with neither it is text only, and read
    beside the empty picture. In a text with marks (``vlmig.config.IMAGE``) each picture stands at its mark, if the model reads
    pictures in the text; without marks before it.
    """

    caption: str
    picture: str = ""
    """Where its source finds the picture: a file's name, a place in an archive, a row. Of several: the first."""
    box: Box | None = None
    """The part of the picture that is meant, within the picture; all of it when None."""
    prompt: str = ""
    """What to imagine where there is no picture."""
    group: str = ""
    """Pairs of one group, such as the regions of one image, stay on one side of a split."""
    version: str = ""
    """Changes when the picture does: size and time of its file; of several pictures a line for each."""
    clamped: bool = False
    """Whether the record's box reached beyond the picture and was cut to it."""
    more: tuple[str, ...] = ()
    """The pictures after the first, in the order of their marks."""
    learnt: tuple[tuple[int, int], ...] = ()
    """The parts of the caption to be predicted, such as answers: begin and end in characters. All of it when empty."""

    def pictures(self) -> list[Pair]:
        """Return a pair of one picture for each picture."""
        if not self.more:
            return [self] if self.picture else []
        names = (self.picture, *self.more)
        versions = self.version.split("\n") if self.version else [""] * len(names)
        return [replace(self, picture=n, version=v, more=()) for n, v in zip(names, versions, strict=True)]


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used."""

    place: str
    """Where it is: file and line, image and region."""
    reason: str
    """Short and the same for all records of its kind, so that it can be counted: ``empty caption``, ``no such picture``."""
    dropped: bool = False
    """Left out by a rule of its source, such as a smallest side: nothing is wrong with it."""


class BadPicture(Exception):
    """A picture that cannot be read; the message is the reason, as in ``Bad``."""


class Source(Protocol):
    """Where pairs come from."""

    name: str
    """Kind and place, for reports and cards."""

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every record in the order of the files, without opening pictures.

        Raises:
            VLMIGError: the source as a whole cannot be read.
        """
        ...

    def open(self, pair: Pair) -> Image.Image:
        """Read a pair's picture, cut to its box: RGB.

        Raises:
            BadPicture: it is missing, truncated, or no picture.
        """
        ...
