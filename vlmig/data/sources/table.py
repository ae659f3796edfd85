"""Tables of images and captions: text files with rows, parquet, or whatever ``datasets`` loads."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vlmig.data.images import place_box
from vlmig.data.pairs import Box, Pair, captioned
from vlmig.data.records import Records, check_name
from vlmig.io.rows import Bad, Row, below, failed, lowest_values, require
from vlmig.vision.files import BadImage

IMAGES = (
    *("image", "file_name", "filename", "image_name", "image_path", "image_file", "filepath"),
    *("file", "path", "img", "jpg", "png", "webp", "picture", "url", "image_url", "URL"),
)
CAPTIONS = (
    *("caption", "captions", "text", "raw", "comment", "sentence", "sentences", "txt", "TEXT"),
    *("description", "alt_text", "title"),
)
"""Names of columns in published tables, which stand in for the default ones."""
STATUS = "status"
"""img2dataset's column that says whether an image was downloaded."""


class Table:
    """Rows with an image and a caption, or a list of captions.

    Args:
        path: a file (JSON lines, a JSON list, CSV, TSV, ``|``; parquet), a folder or pattern of
            them, a folder saved by ``datasets``, or a dataset's hub id.
        image: column of file names or embedded images; a row without one is text only. None: all
            are. Without the default column the first of ``IMAGES`` is taken.
        caption: column of captions; without the default column the first of ``CAPTIONS``.
        prompt: column of what to imagine if there is no image.
        box: column of boxes: left, top, width and height in pixels of the upright image.
        images: folder that file names start from (default: the table's).
        split: split of a dataset, or of files named after splits.
        at_least: lowest values by column, such as ``{clip_similarity_vitb32: 0.3}``; rows below, or
            without a number, are left out.

    Raises:
        VLMIGError: no such table, or a column is missing.
    """

    def __init__(
        self,
        path: str | Path,
        image: str | None = "image",
        caption: str = "caption",
        prompt: str | None = None,
        box: str | None = None,
        images: str | Path | None = None,
        split: str = "train",
        at_least: Mapping[str, float] | None = None,
    ) -> None:
        self.path, self.name = Path(path), f"table {path}"
        self.image, self.caption, self.prompt, self.box = image, caption, prompt, box
        self.at_least = lowest_values(at_least, path)
        self.records = Records(path, "a table", images, split)
        columns = self.records.columns
        if columns is not None:
            self._choose(columns)
            require(self._columns(), columns, path)
            self.records.column = self.image

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every row.

        Raises:
            VLMIGError: the table as a whole cannot be read, or no row has a column.
        """
        columns = self.records.columns
        for row in self._text() if columns is None else self._dataset(columns):
            if isinstance(row, Bad):
                yield row
            else:
                yield from self._record(*row)

    def open(self, pair: Pair) -> Image.Image:
        """Read a row's image.

        Raises:
            BadImage: it is missing, truncated, or not an image.
        """
        return self.records.open(pair)

    def _columns(self) -> list[str]:
        """The columns that every row needs."""
        named = [self.image, self.caption, self.prompt, self.box, *self.at_least]
        return list(dict.fromkeys(column for column in named if column))

    def _choose(self, given: Sequence[str]) -> None:
        """Put the usual names in the place of default ones that the table does not have."""
        if self.image == "image":
            self.image = next((name for name in IMAGES if name in given), self.image)
        if self.caption == "caption":
            self.caption = next((name for name in CAPTIONS if name in given), self.caption)

    def _record(self, location: str, row: Row) -> Iterator[Pair | Bad]:
        """Turn a row into pairs."""
        if why := failed(row.get(STATUS)) or below(row, self.at_least):
            yield Bad(location, why, dropped=True)
            return
        value, prompt = row.get(self.image or "") or "", (row.get(self.prompt or "") or "")
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, str) or not isinstance(prompt, str):
            yield Bad(
                location,
                "image is no file name" if not isinstance(value, str) else "prompt is no text",
            )
            return
        try:
            pair = self._pair(value.strip(), prompt.strip(), row)
        except BadImage as reason:
            yield Bad(location, str(reason))
            return
        yield from captioned(_listed(row.get(self.caption)), location, pair)

    def _pair(self, image: str, prompt: str, row: Row) -> Pair:
        """Make a row's pair without its caption.

        Raises:
            BadImage: there is no such image, or its box is none.
        """
        if not image:
            return Pair("", prompt=prompt)
        check_name(image)
        version = self.records.version(image)
        if version is None:
            raise BadImage("no such image")
        box, clamped = None, False
        if self.box and row.get(self.box) not in (None, "", []):
            box, clamped = self._box(row[self.box], image)
        return Pair("", image, box, group=image, version=version, clamped=clamped)

    def _text(self) -> Iterator[tuple[str, Row] | Bad]:
        """Read text files; a column that no row has is a wrong name, not an empty column."""
        names: set[str] = set()
        for row in self.records.read():
            if not isinstance(row, Bad):
                if not names:
                    self._choose(list(row[1]))
                names.update(row[1])
            yield row
        if names:
            require(self._columns(), sorted(names), self.path)

    def _dataset(self, given: Sequence[str]) -> Iterator[tuple[str, Row] | Bad]:
        """Read a dataset without its embedded images."""
        status = [STATUS] if STATUS in given else []
        return self.records.read([*self._columns(), *status])

    def _box(self, value: Any, image: str) -> tuple[Box, bool]:
        if isinstance(value, str):  # as in CSV
            try:
                numbers = re.split(r"[\s,;]+", value.strip(" []()"))
                value = [json.loads(number) for number in numbers]
            except ValueError:
                raise BadImage("box without four numbers") from None
        if not isinstance(value, list):
            raise BadImage("box without four numbers")
        return place_box(value, self.records.size_of(image))


def _listed(value: Any) -> Any:
    """Return the texts of a list that is written as text, or of objects with a text each, as
    Karpathy's ``sentences``; anything else as it is."""
    if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]":
        for parse in (json.loads, ast.literal_eval):
            try:
                parsed = parse(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if _all_are(str, parsed):
                return parsed
    if isinstance(value, dict):
        value = [value]
    if not _all_are(dict, value):
        return value
    captions = []
    for entry in value:
        named = [entry[name] for name in CAPTIONS if name in entry]
        captions.append(named[0] if named else None)
    return captions


def _all_are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, kind) for v in values)
