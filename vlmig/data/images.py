"""Image files of a source: find them, open them, and crop boxes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from vlmig.data.pairs import Box, Pair
from vlmig.io.shards import natural
from vlmig.vision.files import BadImage, read_image


def cut(image: Image.Image, box: Box | None) -> Image.Image:
    """Crop an upright image to a box; None for all of it.

    Raises:
        BadImage: nothing of the box lies within the image.
    """
    return image if box is None else image.crop(_clip(box, image.size))


def _clip(box: Box, size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    inner = max(0, left), max(0, top), min(size[0], right), min(size[1], bottom)
    if inner[0] >= inner[2] or inner[1] >= inner[3]:
        raise BadImage("box outside the image")
    return inner


class ImageFiles:
    """A source whose pairs name image files below one folder."""

    images: Path

    def open(self, pair: Pair) -> Image.Image:
        """Read a pair's image, cut to its box: RGB.

        Raises:
            BadImage: it is missing, truncated, or not an image.
        """
        return cut(read_image(self.images / pair.picture), pair.box)


def place_box(numbers: Any, size: tuple[int, int]) -> tuple[Box, bool]:
    """Clip a box to an image.

    Args:
        numbers: left, top, width and height in pixels.
        size: width and height of the image.

    Returns:
        The box, and whether it reached beyond the image.

    Raises:
        BadImage: not four numbers, a box without area, or nothing of it lies within the image.
    """
    if len(numbers) != 4 or not all(is_number(value) for value in numbers):
        raise BadImage("box without four numbers")
    x, y, width, height = numbers
    left, top, right, bottom = whole = round(x), round(y), round(x + width), round(y + height)
    if left >= right or top >= bottom:
        raise BadImage("box without area")
    inner = _clip(whole, size)
    return inner, inner != whole


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number in the range of pixels."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) < 2**31
    )


def version_of(path: Path | str) -> str | None:
    """Return size and time of a file, which change when it does; None if there is no file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # a name that no file system takes
        return None
    return f"{status.st_size} {status.st_mtime_ns}"


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and all below it, in natural order; a linked folder is followed once.

    Yields:
        The folder relative to the first, ``""`` for the first, and the names of its files.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        status = os.stat(folder / inner)
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        files: list[str] = []
        folders: list[str] = []
        with os.scandir(folder / inner) as entries:
            for entry in entries:
                (folders if entry.is_dir() else files).append(entry.name)
        yield inner, sorted(files, key=natural)
        for name in sorted(folders, key=natural, reverse=True):
            waiting.append(os.path.join(inner, name))
