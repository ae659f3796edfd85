"""Image-text pairs that a model learns from, and the faults of their records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from vlmig.io.rows import Bad, is_unicode
from vlmig.models.config import IMAGE

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class Pair:
    """A caption with its image; or a document or conversation with several.

    A pair without an image but with a ``prompt`` goes with an imagined image; with neither it is
    text only, and goes with the blank image. With early fusion each image is at its placeholder
    (``vlmig.models.config.IMAGE``) in the text, or before a text without placeholders.
    """

    caption: str
    picture: str = ""
    """How its source finds the image: a file's name, an offset in an archive, a row. The first of
    several."""
    box: Box | None = None
    """The region of the image, within it; None for all of it."""
    prompt: str = ""
    """What to imagine if there is no image."""
    group: str = ""
    """Pairs of one group, such as the regions of one image, stay on one side of a split."""
    version: str = ""
    """Changes with the image: size and time of its file; a line for each image."""
    clamped: bool = False
    """Whether the record's box reached beyond the image and was cut to it."""
    more: tuple[str, ...] = ()
    """The images after the first, in the order of their placeholders."""
    learnt: tuple[tuple[int, int], ...] = ()
    """The spans of the caption to predict, such as answers, in characters; empty for all of it."""
    mended: str = ""
    """What was left out of the record so that it can be read; counted, not kept in an index."""

    def images(self) -> list[Pair]:
        """Return a pair of one image for each image."""
        if not self.more:
            return [self] if self.picture else []
        names = (self.picture, *self.more)
        versions = self.version.split("\n") if self.version else [""] * len(names)
        images = []
        for name, version in zip(names, versions, strict=True):
            images.append(replace(self, picture=name, version=version, more=()))
        return images


class Source(Protocol):
    """A source of pairs."""

    name: str
    """Kind and path, for reports and model cards."""

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every record in the order of the files, without opening images.

        Raises:
            VLMIGError: the source as a whole cannot be read.
        """
        ...

    def open(self, pair: Pair) -> Image.Image:
        """Read a pair's image, cut to its box: RGB.

        Raises:
            vlmig.vision.files.BadImage: it is missing, truncated, or not an image.
        """
        ...


def captioned(captions: Any, location: str, pair: Pair) -> Iterator[Pair | Bad]:
    """Yield a pair for each caption of a record.

    Args:
        captions: a text, a list of texts, or anything else that the record has.
        location: the record's location, for bad records.
        pair: the pair without its caption.
    """
    many = captions if isinstance(captions, list) and captions else [captions]
    for number, caption in enumerate(many, 1):
        where = location if len(many) == 1 else f"{location}, caption {number}"
        if caption is None or caption == []:
            yield Bad(where, "no caption")
        elif not isinstance(caption, str):
            yield Bad(where, "caption is no text")
        elif not caption.strip():
            yield Bad(where, "empty caption")
        elif not is_unicode(caption, pair.picture, pair.prompt):
            yield Bad(where, "not Unicode")
        elif caption.count(IMAGE) > bool(pair.picture or pair.prompt):
            without = f"{IMAGE} without image"
            yield Bad(where, f"more {IMAGE} than images" if pair.picture else without)
        else:
            yield replace(pair, caption=caption.strip())


def inert(text: str) -> str:
    """Change image placeholders that happen to be in other people's texts, so that they are plain
    text."""
    return text.replace(IMAGE, IMAGE.upper())
