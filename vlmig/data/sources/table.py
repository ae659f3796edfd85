"""Tables of images and captions: JSON lines, CSV, parquet, or whatever ``datasets`` loads."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from PIL import Image

from vlmig.data.pairs import Box, Pair, captioned
from vlmig.data.pictures import cut, place_box, version_of
from vlmig.errors import VLMIGError
from vlmig.io.hub_datasets import load_dataset
from vlmig.io.rows import BATCH, Bad, Row, below, lowest_values, require, text_rows
from vlmig.vision.files import BadPicture, read_picture, size_of

TEXT = (".jsonl", ".csv")
TABLES = "a .jsonl, .csv or .parquet file, a folder saved by datasets, or a hub id"


class Table:
    """Rows with an image and a caption, or a list of captions.

    Args:
        path: a ``.jsonl``, ``.csv`` or ``.parquet`` file, a folder saved by ``datasets``, or a
            dataset's hub id.
        image: column of file names or embedded images; a row without one is text only. None: all
            are.
        caption: column of captions.
        prompt: column of what to imagine if there is no image.
        box: column of boxes: left, top, width and height in pixels.
        images: folder that file names start from (default: the table's).
        split: split of a dataset.
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
        self.images = (
            Path(images) if images else self.path if self.path.is_dir() else self.path.parent
        )
        self.at_least = lowest_values(at_least, path)
        named = [column for column in (image, caption, prompt, box, *self.at_least) if column]
        self.columns = list(dict.fromkeys(named))
        if self.path.suffix in (*TEXT, ".parquet") and not self.path.is_file():
            raise VLMIGError(
                f"no file {path}; expected a .jsonl, .csv or .parquet table; correct the path"
            )
        self.rows = None if self.path.suffix in TEXT else load_dataset(path, TABLES, split)
        if self.rows is not None:
            require(self.columns, self.rows.column_names, path)
            self.pictures = (
                self.rows.select_columns([image]).with_format("arrow") if image else None
            )

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every row.

        Raises:
            VLMIGError: the table as a whole cannot be read, or no row has a column.
        """
        for row in self._text() if self.rows is None else self._dataset():
            if isinstance(row, Bad):
                yield row
            else:
                yield from self._record(*row)

    def open(self, pair: Pair) -> Image.Image:
        """Read a row's image.

        Raises:
            BadPicture: it is missing, truncated, or not an image.
        """
        return cut(read_picture(self._file(pair.picture)), pair.box)

    def _record(self, place: str, row: Row) -> Iterator[Pair | Bad]:
        """Turn a row into pairs; the name ``row N`` is an image embedded in that row."""
        if low := below(row, self.at_least):
            yield Bad(place, low, dropped=True)
            return
        value, prompt = row.get(self.image or "") or "", (row.get(self.prompt or "") or "")
        if not isinstance(value, str) or not isinstance(prompt, str):
            yield Bad(
                place,
                "picture is no file name" if not isinstance(value, str) else "prompt is no text",
            )
            return
        version = self._version(value) if value else ""
        if version is None:
            yield Bad(place, "no such picture")
            return
        box, clamped = None, False
        if value and self.box and row.get(self.box) not in (None, "", []):
            try:
                box, clamped = self._box(row[self.box], value)
            except BadPicture as reason:
                yield Bad(place, str(reason))
                return
        prompt = "" if value else prompt.strip()
        pair = Pair("", value, box, prompt, group=value, version=version, clamped=clamped)
        yield from captioned(row.get(self.caption), place, pair)

    def _text(self) -> Iterator[tuple[str, Row] | Bad]:
        """Read a text file; a column that no row has is a wrong name, not an empty column."""
        names: set[str] = set()
        for row in text_rows(self.path):
            if not isinstance(row, Bad):
                if self.path.suffix == ".csv" and not names:
                    require(self.columns, list(row[1]), self.path)
                names.update(row[1])
            yield row
        if names:
            require(self.columns, sorted(names), self.path)

    def _dataset(self) -> Iterator[tuple[str, Row]]:
        """Read a dataset in batches, without its embedded images."""
        others = [column for column in self.columns if column != self.image]
        rows: Any = self.rows
        number = 0
        for batch in rows.select_columns(self.columns).with_format("arrow").iter(BATCH):
            pictures = _names(batch[self.image], number) if self.image else [""] * len(batch)
            for row, picture in zip(batch.select(others).to_pylist(), pictures, strict=True):
                yield f"row {number}", {**row, self.image or "": picture}
                number += 1

    def _version(self, picture: str) -> str | None:
        embedded = self.rows is not None and _row(picture) is not None
        return (
            self.rows._fingerprint
            if embedded and self.rows is not None
            else version_of(self.images / picture)
        )

    def _file(self, picture: str) -> Path | IO[bytes]:
        """Return the file of an image, or its bytes if it is embedded."""
        number = _row(picture)
        if self.rows is None or number is None or self.pictures is None:
            return self.images / picture
        value = self.pictures[number][self.image][0].as_py()
        return io.BytesIO(value["bytes"] if isinstance(value, dict) else value)

    def _box(self, value: Any, picture: str) -> tuple[Box, bool]:
        if isinstance(value, str):  # as in CSV
            try:
                value = [json.loads(part) for part in re.split(r"[\s,;]+", value.strip(" []()"))]
            except ValueError:
                raise BadPicture("box without four numbers") from None
        if not isinstance(value, list):
            raise BadPicture("box without four numbers")
        return place_box(value, size_of(self._file(picture)))


def _row(picture: str) -> int | None:
    """Return the row that an image is embedded in; None for a file name."""
    match = re.fullmatch(r"row (\d+)", picture)
    return int(match[1]) if match else None


def _names(column: Any, first: int) -> list[str]:
    """Name a column's images without decoding them: by file, or by row if embedded; "" for none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [name or "" for name in column.to_pylist()]
    embedded, paths = [False] * len(column), [None] * len(column)
    if pa.types.is_struct(kind):
        fields = [field.name for field in kind]
        if "bytes" in fields:
            embedded = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
        if "path" in fields:
            paths = pc.struct_field(column, "path").to_pylist()
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        embedded = pc.is_valid(column).to_pylist()
    else:
        raise VLMIGError(
            f"the column of pictures holds {kind}; expected file names or pictures; name another "
            "one"
        )
    names = []
    for row, (has_bytes, path) in enumerate(zip(embedded, paths, strict=True), first):
        names.append(f"row {row}" if has_bytes else path or "")
    return names
