"""A folder of images, with captions beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from vlmig.data.images import ImageFiles, version_of, walk
from vlmig.data.pairs import Pair, captioned
from vlmig.errors import VLMIGError
from vlmig.io.hashing import number_of
from vlmig.io.rows import Bad, text_rows
from vlmig.vision.files import is_image

LONGEST = 2**20
"""Most bytes of a caption's file."""
METADATA = ("metadata.jsonl", "metadata.csv")


class Folder(ImageFiles):
    """Image files at any depth.

    An image's captions are the lines of ``<its name>.txt``; without that file, the ``text`` of its
    ``file_name`` in a ``metadata.jsonl`` or ``metadata.csv`` at any depth; without that, its name,
    if ``names`` is set.

    Args:
        path: the folder.
        names: make captions of file names: "a red apple" of ``a_red_apple_03.jpg``.

    Raises:
        VLMIGError: there is no such folder.
    """

    def __init__(self, path: str | Path, names: bool = False) -> None:
        self.folder = self.images = Path(path)
        self.names, self.name = names, f"folder {path}"
        if not self.folder.is_dir():
            raise VLMIGError(f"no folder {path}; expected one with images; correct the path")

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield the images that a metadata file names, then all others in natural order.

        Raises:
            VLMIGError: a metadata file cannot be read at all.
        """
        listed: set[int] = set()  # hashes: names would fill memory
        for folder, files in walk(self.folder):
            for name in METADATA:
                if name in files:
                    yield from self._metadata(folder, name, listed)
        for folder, files in walk(self.folder):
            names = set(files)
            for file in files:
                image = os.path.join(folder, file)
                if is_image(file) and number_of(image) not in listed:
                    yield from self._image(image, os.path.splitext(file)[0], names)

    def _metadata(self, folder: str, name: str, listed: set[int]) -> Iterator[Pair | Bad]:
        for row in text_rows(self.folder / folder / name):
            if isinstance(row, Bad):
                yield Bad(os.path.join(folder, row.place), row.reason)
                continue
            location, fields = os.path.join(folder, row[0]), row[1]
            if not isinstance(fields.get("file_name"), str) or not fields["file_name"]:
                yield Bad(location, "no file_name")
                continue
            image = os.path.normpath(os.path.join(folder, fields["file_name"]))
            if os.path.isfile(self.folder / f"{os.path.splitext(image)[0]}.txt"):
                continue
            listed.add(number_of(image))
            version = version_of(self.folder / image)
            if version is None:
                yield Bad(location, "no such image")
            else:
                yield from captioned(
                    fields.get("text"), location, Pair("", image, group=image, version=version)
                )

    def _image(self, image: str, stem: str, files: set[str]) -> Iterator[Pair | Bad]:
        captions: list[str] = []
        if f"{stem}.txt" in files:
            beside = (self.folder / image).with_name(f"{stem}.txt")
            try:
                if beside.stat().st_size > LONGEST:
                    yield Bad(image, "caption too long")
                    return
                text = beside.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError):
                yield Bad(image, "captions not UTF-8")
                return
            captions = [line for line in text.splitlines() if line.strip()] or [""]
        elif self.names:
            captions = [re.sub(r"[\W_]+", " ", re.sub(r"[\W_]*\d*[\W_]*$", "", stem)).strip()]
        version = version_of(self.folder / image)
        if version is None:
            yield Bad(image, "no such image")
        else:
            yield from captioned(captions, image, Pair("", image, group=image, version=version))
