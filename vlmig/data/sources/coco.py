"""COCO's captions and Karpathy's, one JSON object each: images, and captions by image or inside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmig.data.images import ImageFiles, version_of
from vlmig.data.pairs import Pair, captioned
from vlmig.errors import VLMIGError
from vlmig.io.json_stream import json_items
from vlmig.io.rows import Bad

NAMES = ("file_name", "filename")
RAW = ("raw", "caption")


class CocoCaptions(ImageFiles):
    """Images with several captions each.

    Either ``{images: [{id, file_name}], annotations: [{image_id, caption}]}`` (COCO), or
    ``{images: [{filepath, filename, sentences: [{raw}], split}]}`` (Karpathy).

    Args:
        path: the ``.json`` file, or its ``.json.zip`` or ``.json.gz``.
        images: folder that names start from (default: the file's folder, or the one above it).
        split: of Karpathy's images only those of this split (``train`` takes ``restval`` too);
            None for all.

    Raises:
        VLMIGError: no such file or folder.
    """

    def __init__(
        self, path: str | Path, images: str | Path | None = None, split: str | None = None
    ) -> None:
        self.path, self.split, self.name = Path(path), split, f"coco_captions {path}"
        if not self.path.is_file():
            raise VLMIGError(
                f"no file {path}; expected COCO's captions_*.json, or Karpathy's; correct the path"
            )
        folder = self.path.parent
        if images and not Path(images).is_dir():
            raise VLMIGError(f"no folder {images}; expected the one with images; correct images")
        self.images = Path(images) if images else folder
        self._roots = [""] if images else ["", ".."]

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every caption in the order of the file.

        Raises:
            VLMIGError: it is no such JSON, or damaged.
        """
        images: dict[Any, Pair | Bad] = {}
        inside = False
        for turn, image in enumerate(json_items(self.path, "images"), 1):
            location = f"{self.path.name}, image {turn}"
            if not isinstance(image, dict):
                yield Bad(location, "not a JSON object")
                continue
            pair = self._image(image, location)
            if isinstance(sentences := image.get("sentences"), list):
                inside = True
                yield from self._captions(pair, list(map(_text, sentences)), location)
            elif isinstance(number := image.get("id"), int | str):
                images[number] = pair
            else:
                yield Bad(location, "no image id")
        if not (images or inside):
            raise VLMIGError(
                f"{self.path} has no list 'images'; expected COCO's images and annotations, or "
                "Karpathy's images with sentences; name its source"
            )
        for turn, annotation in enumerate(json_items(self.path, "annotations"), 1):
            location = f"{self.path.name}, annotation {turn}"
            if not isinstance(annotation, dict):
                yield Bad(location, "not a JSON object")
                continue
            number = annotation.get("image_id")
            is_known = isinstance(number, int | str) and number in images
            pair = images[number] if is_known else Bad(location, "no image of this image_id")
            yield from self._captions(pair, annotation.get("caption"), location)

    def _captions(self, pair: Pair | Bad, captions: Any, location: str) -> Iterator[Pair | Bad]:
        if isinstance(pair, Bad):
            yield Bad(location, pair.reason, pair.dropped)
        else:
            yield from captioned(captions, location, pair)

    def _image(self, image: dict[str, Any], location: str) -> Pair | Bad:
        """Find an image's file: below its folder, below a folder of its split, or by its url."""
        split = image.get("split")
        if self.split and split not in (self.split, "restval" if self.split == "train" else None):
            return Bad(location, f"split {split}", dropped=True)
        name = next((image[key] for key in NAMES if isinstance(image.get(key), str)), "")
        if not name:
            return Bad(location, "no file_name")
        folder, url = image.get("filepath"), image.get("coco_url")
        names = [f"{folder}/{name}"] if isinstance(folder, str) else []
        if isinstance(url, str):
            names.append("/".join(url.split("/")[-2:]))
        for path in [name, *names]:
            for root in self._roots:
                inner = f"{root}/{path}" if root else path
                if version := version_of(self.images / inner):
                    return Pair("", inner, group=inner, version=version)
        return Bad(location, "no such image")


def _text(sentence: Any) -> Any:
    if not isinstance(sentence, dict):
        return sentence
    return next((sentence[key] for key in RAW if key in sentence), None)
