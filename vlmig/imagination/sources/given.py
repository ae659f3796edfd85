"""Image sources that draw nothing: folder, gallery, text embedding, blank image."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from vlmig.errors import VLMIGError
from vlmig.imagination import ImageSource, Request
from vlmig.imagination.prompts import slug
from vlmig.io.hub_datasets import load_dataset
from vlmig.io.shards import natural
from vlmig.vision import BLANK, VisionEncoder, as_tensor, opened
from vlmig.vision.files import READER, SUFFIXES, is_image

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors

CHUNK = 256
"""Images of a gallery that are embedded between two saves."""
NEAREST = 128
"""Greatest number of images that retrieval looks for."""


class FolderSource(ImageSource):
    """Give the images of a folder that are named after the prompt: ``a_cat/*.png``, or
    ``a_cat_0.png``, ``a_cat_1.png``, ...

    Raises:
        VLMIGError: no such folder.
    """

    def __init__(self, folder: str) -> None:
        if not Path(folder).is_dir():
            raise VLMIGError(f"no folder {folder}; expected one with images named after prompts")
        self.gallery = Gallery(folder)

    @cached_property
    def _by_name(self) -> dict[str, list[int]]:
        """The numbers of the images of each name."""
        numbers: dict[str, list[int]] = {}
        for i, path in enumerate(self.gallery.paths):
            inside = path.relative_to(self.gallery.folder)
            folder, unnumbered = inside.parts[:-1], re.sub(r"[_ -]*\d+$", "", inside.stem)
            name = folder[0] if folder else unnumbered
            numbers.setdefault(slug(name), []).append(i)
        return numbers

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Return image i of each prompt, in the order of their names.

        Raises:
            VLMIGError: fewer images of a prompt than requested.
        """
        images = []
        for request in requests:
            name = slug(request.prompt)
            numbers = self._by_name.get(name, [])
            if request.index >= len(numbers):
                raise VLMIGError(
                    f"{len(numbers)} images of {request.prompt!r} in {self.gallery.source}, more "
                    f"are needed; expected {name}/*.png or {name}_0.png and so on; add some, or "
                    "lower --k"
                )
            images.append(self.gallery.image(numbers[request.index]))
        return images

    def identity(self) -> dict[str, str | int | float]:
        """Return a hash of the folder's contents."""
        return {"folder": self.gallery.digest}


class _ByText(ImageSource):
    """A source that reads prompts by the encoder's text side."""

    encoder: VisionEncoder

    def embed(self, requests: Sequence[Request]) -> dict[str, Tensor]:
        """Return the unit embedding (E,) of each prompt.

        Raises:
            VLMIGError: an encoder without a text side.
        """
        prompts = list(dict.fromkeys(request.prompt for request in requests))
        rows = self.encoder.encode_text(prompts)
        if rows is None:
            raise VLMIGError(
                f"{self.encoder.name} has no text side to embed prompts with; expected one, such "
                "as a CLIP"
            )
        return dict(zip(prompts, rows, strict=True))

    def fits(self, prompt: str) -> bool:
        """Tell whether the encoder reads the prompt without cutting it."""
        return self.encoder.fits(prompt)


class RetrievalSource(_ByText):
    """Give the images of a gallery whose embeddings are nearest to the prompt's (cosine); image i
    is the i-th nearest.

    Args:
        source: see ``Gallery``.
        encoder: a vision encoder with a text side.
        cache: folder where the gallery's embeddings are cached.

    Raises:
        VLMIGError: an encoder without a text side.
    """

    def __init__(self, source: str, encoder: VisionEncoder, cache: Path) -> None:
        if not encoder.tower.has_text:
            raise VLMIGError(
                f"{encoder.name} has no text side to retrieve images with; expected one, such as "
                "a CLIP"
            )
        self.gallery, self.encoder, self.cache = Gallery(source), encoder, cache

    @cached_property
    def _index(self) -> NearestNeighbors:
        """The index over all embeddings of the gallery."""
        # Its import takes a second, which other sources need not spend.
        from sklearn.neighbors import NearestNeighbors

        name = f"retrieval_{self.gallery.digest}_{self.encoder.identity()['encoder']}"
        rows = []
        for start in tqdm(range(0, len(self.gallery), CHUNK), "indexing"):
            rows.append(self._embeddings(start, self.cache / f"{name}_{start}.safetensors"))
        return NearestNeighbors(metric="cosine").fit(torch.cat(rows).numpy())

    def _embeddings(self, start: int, path: Path) -> Tensor:
        """Embed the gallery's images from number ``start``, or load embeddings saved earlier."""
        try:
            return load_file(path)["pooled"]
        except (OSError, SafetensorError):  # not made yet, or cut off
            numbers = range(start, min(start + CHUNK, len(self.gallery)))
            _, pooled = self.encoder.encode([self.gallery.image(i) for i in numbers])
            self.cache.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")
            save_file({"pooled": pooled}, partial)
            partial.replace(path)
            return pooled

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Return the image of each request.

        Raises:
            VLMIGError: more images of a prompt than the gallery can give.
        """
        most = min(NEAREST, len(self.gallery))
        embedded = self.embed(requests)
        nearest = self._index.kneighbors(
            torch.stack([*embedded.values()]).numpy(), most, return_distance=False
        )
        numbers = dict(zip(embedded, nearest.tolist(), strict=True))
        if max(request.index for request in requests) >= most:
            raise VLMIGError(
                f"{self.gallery.source} gives at most {most} images of a prompt; lower --k"
            )
        return [self.gallery.image(numbers[request.prompt][request.index]) for request in requests]

    def identity(self) -> dict[str, str | int | float]:
        """Return a hash of the gallery's contents; the encoder is named with every feature."""
        return {"gallery": self.gallery.digest}


class TextSource(_ByText):
    """Give the prompt's text embedding (paper, table 5: cheaper, and a little weaker)."""

    embeds = True

    def __init__(self, encoder: VisionEncoder) -> None:
        self.encoder = encoder

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Return a unit embedding for each request, the same for every image of a prompt.

        Raises:
            VLMIGError: an encoder without a text side.
        """
        embedded = self.embed(requests)
        return [embedded[request.prompt] for request in requests]

    def identity(self) -> dict[str, str | int | float]:
        """Return the kind; the encoder is named with every feature."""
        return {"generator": "text embedding"}


class BlankSource(ImageSource):
    """Give the blank image, whatever the prompt: a control."""

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Return a blank image for each request."""
        blank = torch.tensor(BLANK, dtype=torch.uint8)[:, None, None].expand(3, 64, 64)
        return [blank] * len(requests)

    def identity(self) -> dict[str, str | int | float]:
        """Return the kind."""
        return {"generator": "blank"}


class Gallery:
    """Numbered images.

    Args:
        source: a folder of image files (at any depth), a folder saved by ``datasets``, or a
            dataset's hub id.

    Raises:
        VLMIGError: no such source, or no images in it.
    """

    def __init__(self, source: str) -> None:
        self.source, self.folder = source, Path(source)
        self.rows: Any = None
        if not self.folder.is_dir() or any(self.folder.glob("**/state.json")):
            self.rows = load_dataset(source, "a folder of images, or a dataset's folder or hub id")
            if "image" not in self.rows.column_names:
                columns = ", ".join(self.rows.column_names)
                raise VLMIGError(f"{source} has the columns {columns}; expected one named image")
        self.paths: list[Path] = []
        if self.rows is None:
            named = [path for path in self.folder.rglob("*") if is_image(path.name)]
            paths = [path for path in named if path.is_file()]  # no folders, no broken links
            self.paths = sorted(paths, key=lambda path: natural(str(path.relative_to(self.folder))))
        if not len(self):
            raise VLMIGError(
                f"no images in {source}; expected a folder of {', '.join(SUFFIXES[:4])} files, or "
                "a dataset with a column image"
            )

    def __len__(self) -> int:
        return len(self.paths) if self.rows is None else len(self.rows)

    def image(self, index: int) -> Tensor:
        """Read image ``index``, uint8 (3, H, W).

        Raises:
            VLMIGError: a file that is not an image.
        """
        if self.rows is not None:
            return as_tensor(self.rows[index]["image"])
        return as_tensor(opened(self.paths[index]))

    @cached_property
    def digest(self) -> str:
        """Hash of names and contents of the files, or the fingerprint of the dataset; and of how
        they are read."""
        digest = hashlib.sha256(READER.encode())
        for content in self._contents():
            digest.update(content)
        return digest.hexdigest()[:16]

    def _contents(self) -> Iterator[bytes]:
        if self.rows is not None:
            yield str(self.rows._fingerprint).encode()
        for path in self.paths:
            yield str(path.relative_to(self.folder)).encode()
            yield path.read_bytes()
