"""Image-text pairs: what the adapter learns from, and what can be wrong with a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class Pair:
    """A caption and the picture it points at.

    A pair without a picture but with a ``prompt`` is read beside an imagined one; with neither it is text only, and read
    beside the empty picture.
    """

    caption: str
    picture: str = ""
    """Where its source finds the picture: a file's name, a place in an archive, a row."""
    box: Box | None = None
    """The part of the picture that is meant, within the picture; all of it when None."""
    prompt: str = ""
    """What to imagine where there is no picture."""
    group: str = ""
    """Pairs of one group, such as the regions of one image, stay on one side of a split."""
    version: str = ""
    """Changes when the picture does: size and time of its file."""
    clamped: bool = False
    """Whether the record's box reached beyond the picture and was cut to it."""


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
