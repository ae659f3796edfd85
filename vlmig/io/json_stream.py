"""A JSON list of any length, one element at a time, from a file or from inside a zip archive."""

from __future__ import annotations

import codecs
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any

from vlmig.errors import VLMIGError, one_line
from vlmig.io.shards import natural

PORTION = 16 * 1024
"""Bytes read at a time: errors name the position of a fault this precisely."""
DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, zipfile.BadZipFile, zlib.error)
DAMAGE += (lzma.LZMAError, NotImplementedError, RuntimeError)
"""Errors of reading a file, also within an archive: cut off, encrypted, compressed in an unknown
way."""
LONGEST = 2**24
"""Most bytes without a quotation mark: a longer text, such as a file of zeros, would fill the
memory."""


DEEPEST = 10_000
"""Most brackets that are open at a time, those in texts too: each level costs more than the one
above it."""


class _Counted:
    """A file that counts the bytes read, those without a quotation mark, and open brackets."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.position, self.unquoted, self.open = file, 0, 0, 0

    def read(self, count: int = -1) -> bytes:
        portion = self.file.read(count)
        self.position += len(portion)
        self.unquoted = 0 if b'"' in portion else self.unquoted + len(portion)
        self.open += sum(map(portion.count, (b"[", b"{"))) - sum(map(portion.count, (b"]", b"}")))
        if self.unquoted > LONGEST:
            raise ValueError(f"more than {LONGEST} bytes without a quotation mark")
        if self.open > DEEPEST:
            raise ValueError(f"more than {DEEPEST} brackets open")
        return portion


def find_json(folder: Path, name: str) -> Path | None:
    """Find ``name.json`` or ``name.json.zip`` in a folder, the plain file first; else the newest of
    those with a version in their names, such as ``name_v1_2.json.zip``."""
    older = list(folder.glob(f"{name}_v[0-9]*.json*"))
    older.sort(key=lambda path: natural(path.name), reverse=True)
    for path in (folder / f"{name}.json", folder / f"{name}.json.zip", *older):
        if path.is_file() and path.name.endswith((".json", ".json.zip")):
            return path
    return None


def holds_list(path: Path) -> bool:
    """Return whether a JSON file, also within ``.gz`` or ``.zip``, begins as a list.

    Raises:
        VLMIGError: an archive without a JSON file.
    """
    with ExitStack() as stack:
        return _head(_opener(path, stack)) == b"["


def json_items(path: Path, prefix: str = "") -> Iterator[Any]:
    """Yield the elements of a JSON list; only one of them is in memory.

    Args:
        prefix: the list's name in a JSON object; empty for a file that is a list.

    Raises:
        VLMIGError: not a JSON list, or truncated or damaged, with the byte and the last image
            before it.
    """
    import ijson

    last, file = "", None
    with ExitStack() as stack:
        try:
            file = _Counted(_opened(path, stack, not prefix))
            for item in ijson.items(
                file, f"{prefix}.item".lstrip("."), use_float=True, buf_size=PORTION
            ):
                yield item
                file.open = 0  # brackets in its texts need not be closed
                if isinstance(item, dict):
                    last = f", behind image {item.get('image_id', item.get('id'))}"
        except VLMIGError:
            raise
        except (ijson.JSONError, ValueError, *DAMAGE) as error:
            byte = file.position if file else 0
            state = "broken off" if "EOF" in str(error) else "damaged"
            raise VLMIGError(
                f"{path} is {state} at or shortly before byte {byte}{last} ({one_line(error)}); "
                "expected a whole JSON list; fetch the file again"
            ) from None


def _opened(path: Path, stack: ExitStack, is_list: bool) -> IO[bytes]:
    """Open a JSON file behind its byte order mark."""
    open_again = _opener(path, stack)
    head = _head(open_again)
    if is_list and head not in (b"[", b""):  # ijson would find no elements in an object
        kind = "an object" if head == b"{" else f"something that begins with {head!r}"
        raise VLMIGError(
            f"{path} holds {kind}; expected a JSON list of records; correct the path, or fetch the "
            "file again"
        )
    opened: IO[bytes] = stack.enter_context(open_again())
    if opened.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
        return opened
    return stack.enter_context(open_again())


def _opener(path: Path, stack: ExitStack) -> Callable[[], Any]:
    """Return what opens a JSON file, in a zip archive its first one."""
    if path.suffix == ".gz":
        return partial(gzip.open, path)
    if path.suffix != ".zip":
        return partial(path.open, "rb")
    archive = stack.enter_context(zipfile.ZipFile(path))
    names = [name for name in archive.namelist() if name.endswith(".json")]
    names = [name for name in names if not name.startswith("__MACOSX/")]
    if not names:
        raise VLMIGError(f"{path} holds no .json file; fetch it again")
    return partial(archive.open, names[0])


def _head(open_again: Callable[[], Any]) -> bytes:
    """Return the first character of a JSON file."""
    with open_again() as start:
        return start.read(64).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
