"""The one reader of images, from files, bytes or PIL; and frames of videos."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from vlmig.errors import VLMIGError, one_line

ImageInput = str | Path | Image.Image
"""An image or the path of its file."""
ImageInputs = ImageInput | Sequence[ImageInput]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOVING = {".gif", ".webp", ".png", ".apng", ".tif", ".tiff"}
"""Suffixes of animations that Pillow reads."""
ORIENTATION = 0x0112
"""EXIF field; from 5 on width and height are exchanged."""
THINNEST = 200
"""Most that one side may be longer than the other: resizing a longer strip by its short side would
fill the memory."""
READER = "2: upright, on white, 16 bits"
"""What a stored feature of an image file depends on beside the file."""


class BadImage(Exception):
    """An image that cannot be read; the message is a short reason, the same for all of its kind."""


def read_image(file: str | Path | IO[bytes]) -> Image.Image:
    """Decode an image to its end, as ``rgb`` does; the first frame of an animation.

    Raises:
        BadImage: it is missing, truncated, far too large, or not an image.
    """
    try:
        with Image.open(file) as image:
            if max(image.size) > THINNEST * min(image.size):
                raise BadImage("image too thin")
            return rgb(image)
    except BadImage:
        raise
    except Exception as error:  # Pillow's readers raise anything on damaged files
        raise _reason(error) from error


def size_of(file: str | Path | IO[bytes]) -> tuple[int, int]:
    """Read the width and height of an upright image from its header.

    Raises:
        BadImage: it is missing, far too large, or not an image.
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            # Of a PNG without EXIF, getexif() would decode the whole image; TIFF is turned already.
            turned = "exif" in image.info and image.getexif().get(ORIENTATION, 1) >= 5
            return (height, width) if turned else (width, height)
    except Exception as error:
        raise _reason(error) from error


def _reason(error: Exception) -> BadImage:
    """Name what Pillow found."""
    if isinstance(error, FileNotFoundError):
        return BadImage("no such image")
    if isinstance(error, IsADirectoryError):
        return BadImage("folder in place of an image")
    if isinstance(error, PermissionError):
        return BadImage("no permission to read the image")
    if isinstance(error, Image.DecompressionBombError):
        return BadImage("image too large")
    if isinstance(error, UnidentifiedImageError):
        return BadImage("not an image")
    cut = "truncated" in str(error) or isinstance(error, EOFError)
    return BadImage("truncated image" if cut else "not an image")


def opened(image: str | Path | Image.Image) -> Image.Image:
    """Return an image as ``rgb`` does; the first frame of an animation.

    Raises:
        VLMIGError: no such file, or it is not an image that can be read.
    """
    if not isinstance(image, str | Path | Image.Image):
        raise VLMIGError(
            f"an image of type {type(image).__name__}; expected a PIL image or a file's path"
        )
    try:
        return rgb(image) if isinstance(image, Image.Image) else read_image(image)
    except BadImage as reason:
        raise VLMIGError(_cannot_read(str(image), reason)) from None
    except Exception as error:  # of a PIL image whose file was not decoded yet
        raise VLMIGError(_cannot_read("the given image", _reason(error))) from None


def _cannot_read(name: str, reason: BadImage) -> str:
    if str(reason) == "no such image":
        return f"no image file {name}; expected a path to one: correct it"
    if str(reason) == "image too large":
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"{name} is too large; expected at most {most} pixels: make it smaller"
    cause = f": {one_line(reason.__cause__, whole=True)}" if reason.__cause__ else ""
    return (
        f"{name} is not an image that can be read ({reason}{cause}); expected a file such as "
        "PNG, JPEG or WebP"
    )


def all_opened(images: ImageInputs) -> list[Image.Image]:
    """Open images as ``opened`` does; a single one gives a list of one."""
    if isinstance(images, str | Path | Image.Image):
        return [opened(images)]
    return [opened(image) for image in images]


def rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB of 8 bits: turned upright by its EXIF data, and on white where it is
    transparent."""
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale a gray image of 16 bits, or of numbers from 0 to 1: Pillow would clip its values."""
    values = np.asarray(image)
    if image.mode == "F":
        scaled = values * 255 if values.max(initial=0) <= 1 else values
    else:
        scaled = values.astype(np.int64) >> 8
    gray = Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        gray.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return gray


def is_image(name: str) -> bool:
    """Return whether a file has the suffix of an image, and is not a Mac's ``._`` companion."""
    return name.lower().endswith(SUFFIXES) and not name.rpartition("/")[2].startswith("._")


def frames(path: str | Path, count: int) -> list[Image.Image]:
    """Return evenly spaced frames of a video, from the first to the last; all frames if there are
    fewer than ``count``.

    Pillow reads animated GIF, WebP, PNG and TIFF; PyAV reads everything else.

    Raises:
        VLMIGError: no such file, not a video, PyAV is missing, or a count below one.
    """
    path = Path(path)
    if count < 1:
        raise VLMIGError(f"{count} frames of {path}; expected at least one")
    if not path.is_file():
        raise VLMIGError(f"no video file {path}; expected a path to one: correct it")
    if path.suffix.lower() not in MOVING:
        return _decode(path, count)
    try:
        with Image.open(path) as video:
            wanted = set(_evenly(getattr(video, "n_frames", 1), count))
            every = enumerate(ImageSequence.Iterator(video))
            return [rgb(frame) for i, frame in every if i in wanted]
    except Exception as error:
        raise VLMIGError(_unreadable(path, error)) from None


def _evenly(total: int, count: int) -> list[int]:
    """Return evenly spaced indices of ``total`` frames."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


def _decode(path: Path, count: int) -> list[Image.Image]:
    """Decode frames by PyAV."""
    if find_spec("av") is None:
        raise VLMIGError(
            f'reading {path} needs PyAV; install it with pip install "vlmig[video]", or give a GIF'
        )
    from transformers.video_utils import load_video

    def sample(metadata: object, **_: object) -> list[int]:
        # Matroska and WebM do not say.
        total = getattr(metadata, "total_num_frames", 0) or _count_frames(path)
        if not total:
            raise ValueError("no frames")
        return _evenly(total, count)

    try:
        decoded, _ = load_video(str(path), backend="pyav", sample_indices_fn=sample)
    except Exception as error:
        raise VLMIGError(_unreadable(path, error)) from None
    return [Image.fromarray(frame) for frame in decoded]


def _count_frames(path: Path) -> int:
    """Count frames by decoding them."""
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def _unreadable(path: Path, error: Exception) -> str:
    return (
        f"{path} is not a video that can be read ({one_line(error, whole=True)}); expected an "
        "animated GIF, or a video such as MP4"
    )
