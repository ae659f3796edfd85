"""Picture files: finding them, opening them whole as RGB, and cutting boxes out of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlmig.data.pairs import BadPicture, Box
from vlmig.imagination.sources.given import SUFFIXES, natural


def open_picture(file: Path | IO[bytes]) -> Image.Image:
    """Decode a picture to its end, as stored (its EXIF turn is left alone, because boxes refer to the stored one): RGB.

    Raises:
        BadPicture: it is missing, truncated, too large to be meant, or no picture.
    """
    try:
        with Image.open(file) as picture:
            return _rgb(picture)
    except FileNotFoundError:
        raise BadPicture("no such picture") from None
    except Image.DecompressionBombError:
        raise BadPicture("picture too large") from None
    except UnidentifiedImageError:
        raise BadPicture("no picture") from None
    except Exception as error:  # a damaged file may break Pillow's readers in any way
        cut = "truncated" in str(error) or isinstance(error, EOFError)
        raise BadPicture("truncated picture" if cut else "no picture") from None


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(
        "I"
    ):  # 16 bits: Pillow's own conversion would cut everything above 255 off
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    return picture.convert("RGB")


def size_of(file: Path | IO[bytes]) -> tuple[int, int]:
    """Read a picture's width and height from its head.

    Raises:
        BadPicture: it is missing or no picture.
    """
    try:
        with Image.open(file) as picture:
            return picture.size
    except FileNotFoundError:
        raise BadPicture("no such picture") from None
    except Exception:
        raise BadPicture("no picture") from None


def cut(picture: Image.Image, box: Box | None) -> Image.Image:
    """Return the part of a picture that a box names; all of it without one.

    Raises:
        BadPicture: nothing of the box lies within the picture.
    """
    if box is None:
        return picture
    left, top, right, bottom = box
    inner = max(0, left), max(0, top), min(picture.width, right), min(picture.height, bottom)
    if inner[0] >= inner[2] or inner[1] >= inner[3]:
        raise BadPicture("box outside the picture")
    return picture.crop(inner)


def place_box(numbers: Any, size: tuple[int, int]) -> tuple[Box, bool]:
    """Cut a box to a picture.

    Args:
        numbers: left, top, width and height in pixels.
        size: width and height of the picture.

    Returns:
        The box, and whether it reached beyond the picture.

    Raises:
        BadPicture: these are no four numbers, the box has no area, or nothing of it lies within the picture.
    """
    if len(numbers) != 4 or not all(is_number(value) for value in numbers):
        raise BadPicture("box without four numbers")
    x, y, width, height = numbers
    left, top, right, bottom = whole = round(x), round(y), round(x + width), round(y + height)
    if left >= right or top >= bottom:
        raise BadPicture("box without area")
    inner = max(0, left), max(0, top), min(size[0], right), min(size[1], bottom)
    if inner[0] >= inner[2] or inner[1] >= inner[3]:
        raise BadPicture("box outside the picture")
    return inner, inner != whole


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number of a size that pixels can have."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) < 2**31
    )


def version_of(path: Path | str) -> str | None:
    """Return size and time of a file, which change when it does; None where there is no file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a name may hold what no file system takes
        return None
    return f"{found.st_size} {found.st_mtime_ns}"


def is_picture(name: str) -> bool:
    """Tell by its suffix whether a file is a picture."""
    return name.lower().endswith(SUFFIXES)


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder below one, with the names of its files, in natural order; a linked folder is followed once.

    Yields:
        The folder relative to the first, ``""`` for that one itself, and names.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        place = folder / inner
        here = os.stat(place)
        if (here.st_dev, here.st_ino) in seen:
            continue
        seen.add((here.st_dev, here.st_ino))
        files: list[str] = []
        folders: list[str] = []
        with os.scandir(place) as entries:
            for entry in entries:
                (folders if entry.is_dir() else files).append(entry.name)
        yield inner, sorted(files, key=natural)
        waiting += [
            os.path.join(inner, name) for name in sorted(folders, key=natural, reverse=True)
        ]
