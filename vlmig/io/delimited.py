"""Tables with a mark between the fields: CSV, TSV, ``|``; with names in the first line or without.

A file without names, as Flickr8k's ``image.jpg#0<tab>caption`` or CC3M's ``caption<tab>url``, is
recognized by an image's name in its first line: the fields are then called ``image`` and
``caption``.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError

Row = dict[str, Any]
NOT_UTF8 = "not UTF-8"
ENDINGS = (".csv", ".tsv", ".tab", ".txt", ".token")
IMAGE_FILE = re.compile(r"(?i)(https?://\S+|.+\.(jpe?g|png|webp|gif|bmp|tiff?))(#\d+)?")
"""An image's file or address, and the number of its caption behind it."""


LONGEST = 2**24
"""Most characters of a line: a longer one, such as a file of zeros, would fill the memory."""


@dataclass(frozen=True)
class Unreadable:
    """Why a line is not a row."""

    reason: str
    detail: str


def open_text(path: Path, newline: str | None) -> Any:
    """Open a text file, also within ``.gz`` or ``.zip``; bytes that are not UTF-8 become lone
    surrogates, so that one bad line does not end the file.

    Raises:
        VLMIGError: an archive without a file.
    """
    binary: Any
    if path.suffix == ".gz":
        binary = gzip.open(path)  # noqa: SIM115  # the caller closes what wraps it
    elif path.suffix == ".zip":
        binary = _member(path)
    else:
        binary = path.open("rb")
    return io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline=newline)


def _member(path: Path) -> Any:
    """Open the first file in a zip archive."""
    archive = zipfile.ZipFile(path)  # noqa: SIM115  # open as long as its member
    for name in archive.namelist():
        if not name.endswith("/") and "__MACOSX" not in name:
            return archive.open(name)
    raise VLMIGError(f"{path} holds no file; expected one with rows; fetch it again")


def bounded(lines: Any) -> Iterator[str | Unreadable]:
    """Yield the lines of a text file; one that is too long is never in memory as a whole."""
    while line := lines.readline(LONGEST + 1):
        if len(line) <= LONGEST:
            yield line
            continue
        while line and not line.endswith("\n"):
            line = lines.readline(LONGEST)
        yield Unreadable("line too long", f"more than {LONGEST} characters")


def not_utf8(text: str) -> Unreadable | None:
    """Find the first byte that ``open_text`` could not decode."""
    match = re.search("[\udc80-\udcff]", text)
    return Unreadable(NOT_UTF8, f"byte {ord(match[0]) - 0xDC00:#x}") if match else None


def delimited_rows(path: Path) -> Iterator[tuple[int, Row | Unreadable]]:
    """Yield the line number of every row, and its fields or why they cannot be read.

    Raises:
        VLMIGError: the file is empty, or its first line is damaged.
    """
    with open_text(path, newline="") as lines:
        first = lines.readline(LONGEST)
    mark = _mark(path, first)
    with open_text(path, newline="") as lines:
        rows = _split(lines, mark)
        number, names = next(rows, (1, []))
        if isinstance(names, Unreadable):
            raise VLMIGError(
                f"{path} is not CSV ({names.detail}); expected a first line of column names; "
                "correct it"
            )
        if not any(names):
            raise VLMIGError(
                f"{path} is empty; expected a first line of column names; fetch the file again"
            )
        if any(IMAGE_FILE.fullmatch(name) for name in names):
            first_values, names = names, _named(names)
            yield number, _row(names, first_values)
        for number, values in rows:
            if isinstance(values, Unreadable):
                yield number, values
            elif values:  # no blank line
                yield number, _row(names, values)


def _mark(path: Path, first: str) -> str:
    """Tell what separates the fields, by the ending and the first line."""
    if Path(path.name.removesuffix(".gz").removesuffix(".zip")).suffix == ".csv":
        marks = ",\t|;"
    else:
        marks = "\t|,;"
    return next((mark for mark in marks if mark in first), ",")


def _split(lines: Any, mark: str) -> Iterator[tuple[int, list[str] | Unreadable]]:
    """Yield the line number and the fields of every row; only ``,`` and ``;`` know CSV's quotes
    across lines."""
    if mark in "\t|":
        for number, line in enumerate(bounded(lines), 1):
            if isinstance(line, Unreadable):
                yield number, line
                continue
            line = line.rstrip("\r\n")
            yield number, [_unquoted(field.strip()) for field in line.split(mark)] if line else []
        return
    # A line that is too long becomes one field, so that its row is bad.
    short = ("too long" if isinstance(line, Unreadable) else line for line in bounded(lines))
    rows = csv.reader(short, strict=True, delimiter=mark)
    while True:
        number = rows.line_num + 1
        try:
            values = next(rows, None)
        except csv.Error as error:
            yield number, Unreadable("not CSV", str(error))
            continue
        if values is None:
            return
        yield number, values


def _unquoted(field: str) -> str:
    quoted = len(field) > 1 and field[0] == field[-1] == '"'
    return field[1:-1].replace('""', '"') if quoted else field


def _named(values: list[str]) -> list[str]:
    """Name the fields of a file without names: its image, and its longest other field."""
    image = next(i for i, value in enumerate(values) if IMAGE_FILE.fullmatch(value))
    rest = [i for i in range(len(values)) if i != image]
    caption = max(rest, key=lambda i: len(values[i]), default=None)
    known = {image: "image", caption: "caption"}
    return [known.get(i, f"column {i + 1}") for i in range(len(values))]


def _row(names: list[str], values: list[str]) -> Row | Unreadable:
    if len(values) != len(names):
        return Unreadable("wrong number of fields", f"got {len(values)}, expected {len(names)}")
    row = dict(zip((name.strip() for name in names), values, strict=True))
    if "image" in row and (match := IMAGE_FILE.fullmatch(row["image"])):
        row["image"] = match[1]
    return not_utf8("".join(values)) or row
