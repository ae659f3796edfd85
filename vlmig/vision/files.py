"""Images from files, and frames of videos."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from vlmig.errors import VLMIGError, one_line

Picture = str | Path | Image.Image
"""An image or the path of its file."""
Pictures = Picture | Sequence[Picture]
MOVING = {".gif", ".webp", ".png", ".apng", ".tif", ".tiff"}
"""Suffixes of animations that Pillow reads."""


def opened(picture: str | Path | Image.Image) -> Image.Image:
    """Return an image as RGB: turned upright by the file's EXIF data; the first frame of an
    animation.

    Raises:
        VLMIGError: no such file, or it is not an image.
    """
    if isinstance(picture, Image.Image):
        return rgb(picture)
    if not isinstance(picture, str | Path):
        raise VLMIGError(
            f"an image of type {type(picture).__name__}; expected a PIL image or a file's path"
        )
    try:
        with Image.open(picture) as image:
            return rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise VLMIGError(f"no image file {picture}; expected a path to one: correct it") from None
    except Exception as error:  # a damaged file may break Pillow's readers in any way
        raise VLMIGError(
            f"{picture} is not an image that can be read ({one_line(error, whole=True)}); "
            "expected a file such as PNG, JPEG or WebP"
        ) from None


def all_opened(pictures: Pictures) -> list[Image.Image]:
    """Open images as ``opened`` does; a single one gives a list of one."""
    if isinstance(pictures, str | Path | Image.Image):
        return [opened(pictures)]
    return [opened(picture) for picture in pictures]


def rgb(picture: Image.Image) -> Image.Image:
    """Convert to RGB."""
    if picture.mode.startswith("I"):  # 16 bits: Pillow would clip everything above 255
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    return picture.convert("RGB")


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
            return [
                rgb(frame) for i, frame in enumerate(ImageSequence.Iterator(video)) if i in wanted
            ]
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
