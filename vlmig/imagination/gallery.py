"""Pictures that are there already: a folder of them, or a dataset with a column of images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.vision import as_tensor

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
            self.rows = _dataset(source)
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


def _dataset(source: str) -> Any:
    from datasets import DatasetDict, load_dataset, load_from_disk

    try:
        rows = load_from_disk(source) if Path(source).is_dir() else load_dataset(source)
    except Exception as error:  # datasets raises what its readers raise
        reason = str(error).strip().split("\n")[0]
        raise VLMIGError(
            f"cannot load pictures from {source}: {reason}; expected a folder or a dataset's id"
        ) from error
    if isinstance(rows, DatasetDict):
        rows = rows["train"] if "train" in rows else next(iter(rows.values()))
    if "image" not in rows.column_names:
        raise VLMIGError(f"{source} has the columns {', '.join(rows.column_names)}; expected one named image")
    return rows
