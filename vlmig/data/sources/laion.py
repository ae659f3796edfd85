"""The GPT-4V captions of LVIS images (LAION-220K): a parquet file of urls and captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlmig.data.images import ImageFiles, version_of
from vlmig.data.pairs import Pair, captioned
from vlmig.errors import VLMIGError
from vlmig.io.rows import Bad, parquet_rows

FILE = "lvis_caption_url.parquet"
CAPTIONS = ("caption", "short_caption")


class Laion220k(ImageFiles):
    """Images of COCO with long or short captions.

    Args:
        path: ``lvis_caption_url.parquet``, or its folder.
        images: folder of COCO images, with paths as in their urls: ``train2017/000000.jpg``.
        caption: ``caption`` (long) or ``short_caption``.

    Raises:
        VLMIGError: no such file or folder, or another caption.
    """

    def __init__(self, path: str | Path, images: str | Path, caption: str = "caption") -> None:
        self.file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        self.images, self.caption, self.name = Path(images), caption, f"laion220k {path}"
        if caption not in CAPTIONS:
            raise VLMIGError(f"caption {caption!r} of laion220k; expected {' or '.join(CAPTIONS)}")
        if not self.file.is_file():
            raise VLMIGError(
                f"no file {self.file}; expected {FILE}; fetch it from its hub page, or correct the "
                "path"
            )
        if not self.images.is_dir():
            raise VLMIGError(
                f"no folder {images}; expected the COCO images (with train2017 in it); correct "
                "images"
            )

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every row.

        Raises:
            VLMIGError: the file is not a parquet file, damaged, or without these columns.
        """
        for location, row in parquet_rows(self.file, ("url", self.caption)):
            name = _behind_host(row["url"] or "")
            version = version_of(self.images / name) if name else None
            if not name:
                yield Bad(location, "no url")
            elif ".." in name.split("/"):
                yield Bad(location, "url leaves the folder")
            elif version is None:
                yield Bad(location, "no such image")
            else:
                yield from captioned(
                    row[self.caption], location, Pair("", name, group=name, version=version)
                )


def _behind_host(url: str) -> str:
    """Return a url's path."""
    return url.partition("://")[2].partition("/")[2].partition("?")[0]
