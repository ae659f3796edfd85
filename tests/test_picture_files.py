"""One reader of images for all: a file, its PIL image, a folder imaginer and training data give
the same upright 8-bit RGB; and what is no image is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmig.data.pairs import Pair
from vlmig.data.sources.folder import Folder
from vlmig.errors import VLMIGError
from vlmig.imagination import request
from vlmig.imagination.sources.given import FolderSource
from vlmig.vision.files import BadImage, opened, read_image, size_of

COLORS = np.array(
    [[[200, 10, 20], [0, 90, 0], [7, 7, 250]], [[255, 255, 255], [0, 0, 0], [60, 70, 80]]], np.uint8
)
"""A picture of 3 x 2 pixels, none like another."""
GRAY = np.array([[0, 90, 255], [17, 128, 200]], np.uint8)
CLEAR = np.array([[True, False, False], [False, False, True]])
WHITE = 255
UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera that writes this EXIF orientation stores an upright picture."""


def colored(mask: np.ndarray | None = None) -> np.ndarray:
    return COLORS if mask is None else np.where(mask[..., None], WHITE, COLORS)


def grayish(mask: np.ndarray | None = None) -> np.ndarray:
    values = GRAY if mask is None else np.where(mask, WHITE, GRAY)
    return np.repeat(values[..., None], 3, -1)


def turned(orientation: int, path: Path) -> np.ndarray:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLORS).transpose(UNDO[orientation]).save(path, exif=exif)
    return colored()


def deep(path: Path) -> np.ndarray:
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(path)
    return grayish()


def fractions(path: Path) -> np.ndarray:
    Image.fromarray((GRAY / 255).astype(np.float32)).save(path)
    return grayish()


def with_alpha(path: Path) -> np.ndarray:
    alpha = np.where(CLEAR, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([COLORS, alpha])).save(path, lossless=True)
    return colored(CLEAR)


def gray_with_alpha(path: Path) -> np.ndarray:
    alpha = np.where(CLEAR, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([GRAY, alpha]), "LA").save(path)
    return grayish(CLEAR)


def half_clear(path: Path) -> np.ndarray:
    Image.new("RGBA", (3, 2), (0, 0, 0, 51)).save(path)  # a fifth of black on white
    return np.full((2, 3, 3), 204, np.uint8)


def palette(path: Path) -> np.ndarray:
    Image.fromarray(COLORS).quantize(6).save(path)
    return np.asarray(Image.fromarray(COLORS).quantize(6).convert("RGB"))


def palette_with_clear_index(path: Path) -> np.ndarray:
    made = Image.fromarray(np.where(CLEAR, 1, 0).astype(np.uint8), "P")
    made.putpalette([200, 10, 20, 0, 0, 0])
    made.save(path, transparency=1)
    return np.where(CLEAR[..., None], WHITE, np.array([200, 10, 20])).astype(np.uint8)


def deep_with_clear_value(path: Path) -> np.ndarray:
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(path, transparency=128 * 257)
    return grayish(GRAY == 128)


def animation(path: Path) -> np.ndarray:
    first, second = Image.new("RGB", (3, 2), (9, 9, 200)), Image.new("RGB", (3, 2), (200, 9, 9))
    first.save(path, save_all=True, append_images=[second], lossless=True)
    return np.full((2, 3, 3), (9, 9, 200), np.uint8)


def one_bit(path: Path) -> np.ndarray:
    Image.fromarray(CLEAR).save(path)
    return np.repeat(np.where(CLEAR, 255, 0)[..., None], 3, -1).astype(np.uint8)


FORMS = {
    **{
        f"exif {number} {ending}": (ending, lambda path, n=number: turned(n, path))
        for number in UNDO
        for ending in ("png", "tiff")
    },
    "16 bits png": ("png", deep),
    "16 bits tiff": ("tiff", deep),
    "fractions": ("tiff", fractions),
    "alpha png": ("png", with_alpha),
    "alpha webp": ("webp", with_alpha),
    "alpha grey": ("png", gray_with_alpha),
    "half clear": ("png", half_clear),
    "palette png": ("png", palette),
    "palette gif": ("gif", palette_with_clear_index),
    "palette clear": ("png", palette_with_clear_index),
    "16 bits clear": ("png", deep_with_clear_value),
    "gif": ("gif", animation),
    "webp": ("webp", animation),
    "apng": ("png", animation),
    "one bit": ("png", one_bit),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_reader_sees_the_same(tmp_path: Path, form: str) -> None:
    ending, write = FORMS[form]
    path = tmp_path / f"a_cat_0.{ending}"
    expected = write(path)
    seen = {
        "file": np.asarray(opened(path)),
        "PIL": np.asarray(opened(Image.open(path))),
        "data": np.asarray(Folder(tmp_path).open(Pair("", path.name))),
        "imaginer": FolderSource(str(tmp_path))
        .imagine([request("a cat", 0, 0)])[0]
        .permute(1, 2, 0)
        .numpy(),
    }
    for name, pixels in seen.items():
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, expected), name
    assert size_of(path) == (3, 2)


def test_what_is_no_picture_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (201, 1)).save(tmp_path / "thin.png")
    whole = tmp_path / "whole.png"
    Image.effect_noise((60, 60), 90).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:900])
    reasons = {
        "gone.png": "no such image",
        "folder.png": "folder in place of an image",
        "text.png": "not an image",
        "thin.png": "image too thin",
        "cut.png": "truncated image",
    }
    for name, reason in reasons.items():
        with pytest.raises(BadImage, match=f"^{reason}$"):
            read_image(tmp_path / name)
        with pytest.raises(VLMIGError) as error:
            opened(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(VLMIGError, match="truncated"):
        opened(cut)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for reader in (read_image, size_of):
        with pytest.raises(BadImage, match="^image too large$"):
            reader(whole)
    with pytest.raises(VLMIGError, match="too large; expected at most 200 pixels"):
        opened(whole)


def test_a_folder_imaginer_passes_over_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a_cat_0.png").mkdir()
    (tmp_path / "a_cat_1.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "._a_cat_2.png").write_bytes(b"Mac OS X")
    Image.fromarray(COLORS).save(tmp_path / "a_cat_3.png")
    source = FolderSource(str(tmp_path))
    assert np.array_equal(
        source.imagine([request("a cat", 0, 0)])[0].permute(1, 2, 0).numpy(), COLORS
    )
    with pytest.raises(VLMIGError, match="1 images of 'a cat'"):
        source.imagine([request("a cat", 1, 0)])
