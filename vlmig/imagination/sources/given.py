"""Imaginers that draw nothing: pictures of a folder by name, the nearest pictures of a gallery, a prompt's own embedding,
and the empty picture."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from vlmig.errors import VLMIGError
from vlmig.imagination import Request
from vlmig.imagination.prompts import slug
from vlmig.io.hub_datasets import load_dataset
from vlmig.vision import BLANK, VisionEncoder, as_tensor

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors


PART = 256
"""Pictures of a gallery that are embedded between two savings."""
NEAREST = 128
"""Pictures that retrieval looks for at most."""


class FolderImaginer:
    """Give the pictures that lie in a folder under the prompt's name: ``a_cat/*.png``, or ``a_cat_0.png``, ``a_cat_1.png``, ...

    Raises:
        VLMIGError: no such folder.
    """

    embeds = False
    seeded = False

    def __init__(self, folder: str) -> None:
        if not Path(folder).is_dir():
            raise VLMIGError(f"no folder {folder}; expected one with pictures named after prompts")
        self.gallery = Gallery(folder)

    @cached_property
    def _named(self) -> dict[str, list[int]]:
        """Which pictures stand for which name."""
        named: dict[str, list[int]] = {}
        for i, path in enumerate(self.gallery.paths):
            place = path.relative_to(self.gallery.folder)
            own = place.parts[0] if len(place.parts) > 1 else re.sub(r"[_ -]*\d+$", "", place.stem)
            named.setdefault(slug(own), []).append(i)
        return named

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Give picture i of each prompt, in the order of their names.

        Raises:
            VLMIGError: fewer pictures of a prompt than asked for.
        """
        given = []
        for request in requests:
            there = self._named.get(slug(request.prompt), [])
            if request.index >= len(there):
                raise VLMIGError(
                    f"{len(there)} pictures of {request.prompt!r} in {self.gallery.source}, more are asked for; expected "
                    f"{slug(request.prompt)}/*.png or {slug(request.prompt)}_0.png and so on; add some, or lower --k"
                )
            given.append(self.gallery.picture(there[request.index]))
        return given

    def fits(self, prompt: str) -> bool:
        """Every prompt is read whole."""
        return True

    def identity(self) -> dict[str, str | int | float]:
        """Name the folder's contents."""
        return {"folder": self.gallery.digest}


class RetrievalImaginer:
    """Give the pictures of a gallery whose embeddings are nearest to the prompt's (cosine); picture i is the i-th nearest.

    Args:
        source: see ``Gallery``.
        encoder: a vision encoder with a text side.
        cache: folder where the gallery's embeddings are kept, part by part.

    Raises:
        VLMIGError: an encoder without a text side.
    """

    embeds = False
    seeded = False

    def __init__(self, source: str, encoder: VisionEncoder, cache: Path) -> None:
        if not encoder.tower.has_text:
            raise VLMIGError(f"{encoder.name} has no text side to retrieve pictures with; expected one, such as a CLIP")
        self.gallery, self.encoder, self.cache = Gallery(source), encoder, cache

    @cached_property
    def _index(self) -> NearestNeighbors:
        """The index over all embeddings of the gallery."""
        from sklearn.neighbors import NearestNeighbors  # a second, which other imaginers need not spend

        name = f"retrieval_{self.gallery.digest}_{self.encoder.identity()['encoder']}"
        parts = range(0, len(self.gallery), PART)
        rows = [self._part(start, self.cache / f"{name}_{start}.safetensors") for start in tqdm(parts, "indexing")]
        return NearestNeighbors(metric="cosine").fit(torch.cat(rows).numpy())

    def _part(self, start: int, path: Path) -> Tensor:
        """Embed some pictures of the gallery, or read their embeddings where an earlier run left them."""
        try:
            return load_file(path)["pooled"]
        except (OSError, SafetensorError):  # not made yet, or cut off
            numbers = range(start, min(start + PART, len(self.gallery)))
            _, pooled = self.encoder.encode([self.gallery.picture(i) for i in numbers])
            self.cache.mkdir(parents=True, exist_ok=True)
            written = path.with_suffix(f".{os.getpid()}")
            save_file({"pooled": pooled}, written)
            written.replace(path)
            return pooled

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Give the picture of each request.

        Raises:
            VLMIGError: more pictures of a prompt than the gallery can give.
        """
        most = min(NEAREST, len(self.gallery))
        prompts = list(dict.fromkeys(request.prompt for request in requests))
        embedded = self.encoder.encode_text(prompts)
        assert embedded is not None  # checked when this was built
        nearest = self._index.kneighbors(embedded.numpy(), most, return_distance=False)
        numbers = dict(zip(prompts, nearest.tolist(), strict=True))
        if max(request.index for request in requests) >= most:
            raise VLMIGError(f"{self.gallery.source} gives at most {most} pictures of a prompt; lower --k")
        return [self.gallery.picture(numbers[request.prompt][request.index]) for request in requests]

    def fits(self, prompt: str) -> bool:
        """Tell whether the encoder reads the whole prompt."""
        return self.encoder.fits(prompt)

    def identity(self) -> dict[str, str | int | float]:
        """Name the gallery's contents; the encoder is named beside every feature."""
        return {"gallery": self.gallery.digest}


class TextImaginer:
    """Give the prompt's own text embedding in place of a picture's (paper, table 5: cheaper, and a little weaker)."""

    embeds = True
    seeded = False

    def __init__(self, encoder: VisionEncoder) -> None:
        self.encoder = encoder

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Give a unit embedding for each request: the same for every picture of a prompt.

        Raises:
            VLMIGError: an encoder without a text side.
        """
        prompts = list(dict.fromkeys(request.prompt for request in requests))
        embedded = self.encoder.encode_text(prompts)
        if embedded is None:
            raise VLMIGError(
                f"{self.encoder.name} has no text side to embed prompts with; expected one, such as a CLIP"
            )
        found = dict(zip(prompts, embedded, strict=True))
        return [found[request.prompt] for request in requests]

    def fits(self, prompt: str) -> bool:
        """Tell whether the encoder reads the whole prompt."""
        return self.encoder.fits(prompt)

    def identity(self) -> dict[str, str | int | float]:
        """Name the kind; the encoder is named beside every feature."""
        return {"generator": "text embedding"}


class BlankImaginer:
    """Give the empty picture, whatever the prompt: a control."""

    embeds = False
    seeded = False

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Give an empty picture for each request."""
        return [torch.tensor(BLANK, dtype=torch.uint8)[:, None, None].expand(3, 64, 64)] * len(requests)

    def fits(self, prompt: str) -> bool:
        """No prompt is read at all."""
        return True

    def identity(self) -> dict[str, str | int | float]:
        """Name the kind."""
        return {"generator": "blank"}


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


class Gallery:
    """Numbered pictures.

    Args:
        source: a folder of picture files (at any depth), a folder saved by ``datasets``, or a dataset's hub id.

    Raises:
        VLMIGError: no such source, or no pictures in it.
    """

    def __init__(self, source: str) -> None:
        self.source, self.folder = source, Path(source)
        self.rows: Any = None
        if not self.folder.is_dir() or any(self.folder.glob("**/state.json")):
            self.rows = load_dataset(source, "a folder of pictures, or a dataset's folder or hub id")
            if "image" not in self.rows.column_names:
                columns = ", ".join(self.rows.column_names)
                raise VLMIGError(f"{source} has the columns {columns}; expected one named image")
        found = [p for p in self.folder.rglob("*") if p.suffix.lower() in SUFFIXES] if self.rows is None else []
        self.paths = sorted(found, key=lambda path: natural(str(path.relative_to(self.folder))))
        if not len(self):
            raise VLMIGError(
                f"no pictures in {source}; expected a folder of {', '.join(SUFFIXES[:4])} files, or a dataset with a column image"
            )

    def __len__(self) -> int:
        return len(self.paths) if self.rows is None else len(self.rows)

    def picture(self, index: int) -> Tensor:
        """Read a picture, uint8 (3, H, W).

        Raises:
            VLMIGError: a file that is no picture.
        """
        if self.rows is not None:
            return as_tensor(self.rows[index]["image"])
        try:
            with Image.open(self.paths[index]) as picture:
                return as_tensor(picture)
        except (OSError, UnidentifiedImageError) as error:
            raise VLMIGError(f"{self.paths[index]} is no readable picture ({error}); remove or mend it") from error

    @cached_property
    def digest(self) -> str:
        """Hash of what the gallery holds: names and contents of files, or the dataset's own fingerprint."""
        digest = hashlib.sha256()
        for part in self._contents():
            digest.update(part)
        return digest.hexdigest()[:16]

    def _contents(self) -> Iterator[bytes]:
        if self.rows is not None:
            yield str(self.rows._fingerprint).encode()
        for path in self.paths:
            yield str(path.relative_to(self.folder)).encode()
            yield path.read_bytes()


def natural(name: str) -> list[tuple[int, str]]:
    """Order names so that picture 10 comes behind picture 9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
