"""A JSON list of any length, one element at a time, from a file or from inside a zip archive."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from vlmig.errors import VLMIGError, one_line

PORTION = 16 * 1024
"""Bytes read at a time: a fault is told as exactly as this."""


class _Counted:
    """A file that knows how much of it was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.position = file, 0

    def read(self, count: int = -1) -> bytes:
        portion = self.file.read(count)
        self.position += len(portion)
        return portion


def find_json(folder: Path, name: str) -> Path | None:
    """Find ``name.json`` or ``name.json.zip`` in a folder; the plain file first."""
    return next(
        (path for path in (folder / f"{name}.json", folder / f"{name}.json.zip") if path.is_file()),
        None,
    )


def json_items(path: Path) -> Iterator[Any]:
    """Yield the elements of a JSON list; only one of them is in memory.

    Raises:
        VLMIGError: no such list, or broken off or damaged: says at which byte, and the last image read before.
    """
    import ijson

    last, file = "", None
    with ExitStack() as stack:
        try:
            file = _Counted(_opened(path, stack))
            for item in ijson.items(file, "item", use_float=True, buf_size=PORTION):
                yield item
                if isinstance(item, dict):
                    last = f", behind image {item.get('image_id', item.get('id'))}"
        except (
            ijson.JSONError,
            OSError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
            UnicodeError,
        ) as error:
            byte = file.position if file else 0
            told = "broken off" if "EOF" in str(error) else "damaged"
            raise VLMIGError(
                f"{path} is {told} at or shortly before byte {byte}{last} ({one_line(error)}); expected a whole JSON list; fetch the file again"
            ) from None


def _opened(path: Path, stack: ExitStack) -> IO[bytes]:
    """Open a JSON list, in a zip archive its first JSON file."""
    if path.suffix == ".zip":
        archive = stack.enter_context(zipfile.ZipFile(path))
        name = next((name for name in archive.namelist() if name.endswith(".json")), None)
        if name is None:
            raise VLMIGError(f"{path} holds no .json file; fetch it again")
        opened, again = (archive.open(name) for _ in range(2))
    else:
        opened, again = (path.open("rb") for _ in range(2))
    stack.enter_context(opened)
    with again:
        head = again.read(64).lstrip()[:1]
    if head not in (b"[", b""):  # of an object the elements would silently be none
        raise VLMIGError(f"{path} begins with {head!r}; expected a JSON list; fetch the file again")
    return opened
