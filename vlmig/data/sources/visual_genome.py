"""Visual Genome as published: region descriptions in one large JSON list, images in folders."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from vlmig.data.images import (
    ImageFiles,
    is_number,
    place_box,
    version_of,
    walk,
)
from vlmig.data.pairs import Pair, captioned
from vlmig.errors import VLMIGError
from vlmig.io.hashing import share_of
from vlmig.io.json_stream import find_json, json_items
from vlmig.io.rows import Bad
from vlmig.vision.files import BadImage, is_image, size_of

SIDES = ("x", "y", "width", "height")
HELD_OUT = 0.01
"""Share of the images that the split ``test`` has: about 1,080 of 108,077."""
Split = Literal["all", "train", "test"]


class VisualGenome(ImageFiles):
    """Regions of images with their phrases; the regions of one image are one group.

    Args:
        path: folder with ``region_descriptions.json`` (or ``.json.zip``), the images ``<image
            id>.jpg`` at any depth (``VG_100K``, ``VG_100K_2``), and, if there, ``image_data.json``
            with their sizes, which otherwise are read from the images' heads.
        min_side: regions of fewer pixels than this in width or height are left out.
        split: ``test`` has one image in a hundred, by a hash of its number, always the same ones:
            those of the task ``visual_genome_captions``. ``train`` has the others.

    Raises:
        VLMIGError: there is no such file, or no such split.
    """

    def __init__(self, path: str | Path, min_side: int = 8, split: Split = "all") -> None:
        self.folder = self.images = Path(path)
        self.min_side, self.split = min_side, split
        self.name = f"visual_genome {path}" + (f", {split}" if split != "all" else "")
        if split not in get_args(Split):
            raise VLMIGError(f"split {split!r}; expected one of {', '.join(get_args(Split))}")
        regions = find_json(self.folder, "region_descriptions")
        if regions is None:
            raise VLMIGError(
                f"no region_descriptions.json or region_descriptions.json.zip in {path}; expected "
                "Visual Genome's own files; fetch them from its site, or correct the path"
            )
        self.regions = regions

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every region, image by image.

        Raises:
            VLMIGError: the JSON is damaged or broken off.
        """
        images, sizes = self._images(), self._sizes()
        for number, record in enumerate(json_items(self.regions), 1):
            fields = record if isinstance(record, dict) else {}
            outer, regions = fields.get("image_id", fields.get("id")), fields.get("regions")
            if not self._chosen(outer, regions):
                continue
            if not isinstance(regions, list):
                yield Bad(f"region_descriptions.json, record {number}", "no list of regions")
                continue
            image = _Image(self.folder, images, sizes)
            for region in regions:
                yield from self._region(region, outer, image)

    def _chosen(self, number: Any, regions: Any) -> bool:
        """Tell whether an image belongs to the split; without a number, by that of its first
        region."""
        if self.split == "all":
            return True
        if number is None and isinstance(regions, list) and regions:
            number = regions[0].get("image_id") if isinstance(regions[0], dict) else None
        return held_out(number) == (self.split == "test")

    def _region(self, region: Any, outer: Any, image: _Image) -> Iterator[Pair | Bad]:
        if not isinstance(region, dict):
            yield Bad(f"image {outer}", "region is no object")
            return
        number = region.get("image_id", outer)
        location = f"image {number}, region {region.get('region_id')}"
        missing = [name for name in (*SIDES, "phrase") if name not in region]
        if missing or not isinstance(number, int):
            yield Bad(location, f"no {missing[0]}" if missing else "no image id")
            return
        try:
            numbers = [region[name] for name in SIDES]
            if not all(is_number(value) for value in numbers):
                raise BadImage("box without four numbers")
            name, size, version = image.look_up(number)
            box, clamped = place_box(numbers, size)
        except BadImage as reason:
            yield Bad(location, str(reason))
            return
        if min(box[2] - box[0], box[3] - box[1]) < self.min_side:
            yield Bad(location, f"side under {self.min_side} pixels", dropped=True)
            return
        pair = Pair("", name, box, group=str(number), version=version, clamped=clamped)
        yield from captioned(region["phrase"], location, pair)

    def _images(self) -> dict[int, str]:
        """List the images by id; of files with the same name the first counts."""
        paths: dict[int, str] = {}
        for folder, names in walk(self.folder):
            for name in names:
                stem = name.partition(".")[0]
                if is_image(name) and stem.isdecimal():
                    paths.setdefault(int(stem), os.path.join(folder, name))
        for archive in self.folder.glob("*.zip"):
            first = _first_image(archive)
            if first is not None and first not in paths:
                raise VLMIGError(
                    f"{archive} is not unpacked; expected its images, such as {first}.jpg, in "
                    "folders beside it; unzip it there"
                )
        return paths

    def _sizes(self) -> dict[int, tuple[int, int]]:
        """Read width and height by image id, as far as ``image_data.json`` has them."""
        path = find_json(self.folder, "image_data")
        sizes = {}
        for record in json_items(path) if path else ():
            if isinstance(record, dict):
                number = record.get("image_id", record.get("id"))
                width, height = record.get("width"), record.get("height")
                if isinstance(number, int) and isinstance(width, int) and isinstance(height, int):
                    sizes[number] = width, height
        return sizes


def held_out(number: int) -> bool:
    """Tell whether an image belongs to the split ``test``."""
    return share_of(f"visual genome {number}") < HELD_OUT


def _first_image(archive: Path) -> int | None:
    """Return the number of the first image in a zip archive; None if it holds none."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                stem = Path(name).stem
                if is_image(name) and stem.isdecimal():
                    return int(stem)
    except (OSError, zipfile.BadZipFile):
        return None
    return None


class _Image:
    """What the regions of one image share, looked up once."""

    def __init__(
        self, folder: Path, images: dict[int, str], sizes: dict[int, tuple[int, int]]
    ) -> None:
        self.folder, self.images, self.sizes = folder, images, sizes
        self.number: int | None = None
        self.entry: tuple[str, tuple[int, int], str] | BadImage

    def look_up(self, number: int) -> tuple[str, tuple[int, int], str]:
        """Return an image's file, its size and its version.

        Raises:
            BadImage: there is none, or its size cannot be read.
        """
        if number != self.number:
            self.number, self.entry = number, self._look_up(number)
        if isinstance(self.entry, BadImage):
            raise self.entry
        return self.entry

    def _look_up(self, number: int) -> tuple[str, tuple[int, int], str] | BadImage:
        name = self.images.get(number)
        version = version_of(self.folder / name) if name else None
        if name is None or version is None:
            return BadImage("no such image")
        try:
            return name, self.sizes.get(number) or size_of(self.folder / name), version
        except BadImage as reason:
            return reason
