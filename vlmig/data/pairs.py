"""Image-text pairs: what a model learns from, and what can be wrong with a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from vlmig.io.rows import Bad
from vlmig.models.config import IMAGE

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class Pair:
    """A caption and the picture it points at; or a document or conversation with several.

    A pair without a picture but with a ``prompt`` is read beside an imagined one; with neither it is text only, and read
    beside the empty picture. In a text with marks (``vlmig.models.config.IMAGE``) each picture stands at its mark, if the model reads
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
        return [
            replace(self, picture=n, version=v, more=())
            for n, v in zip(names, versions, strict=True)
        ]


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


def captioned(captions: Any, place: str, pair: Pair) -> Iterator[Pair | Bad]:
    """Yield a pair for each caption of a record.

    Args:
        captions: a text, a list of texts, or whatever else stands there.
        place: where the record is.
        pair: the rest of it.
    """
    many = captions if isinstance(captions, list) and captions else [captions]
    for number, caption in enumerate(many, 1):
        own = place if len(many) == 1 else f"{place}, caption {number}"
        if caption is None or caption == []:
            yield Bad(own, "no caption")
        elif not isinstance(caption, str):
            yield Bad(own, "caption is no text")
        elif not caption.strip():
            yield Bad(own, "empty caption")
        elif not all(map(is_unicode, (caption, pair.picture, pair.prompt))):
            yield Bad(own, "not Unicode")
        elif caption.count(IMAGE) > bool(pair.picture or pair.prompt):
            yield Bad(
                own, f"more {IMAGE} than pictures" if pair.picture else f"{IMAGE} without picture"
            )
        else:
            yield replace(pair, caption=caption.strip())


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written down: JSON and file systems allow halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def inert(text: str) -> str:
    """Change marks of pictures that happen to stand in other people's words, so that they stand for no picture."""
    return text.replace(IMAGE, IMAGE.upper())
