"""The one reader of a source's records: rows of text files, or of datasets with embedded images."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from typing import IO, Any

from PIL import Image

from vlmig.data.images import cut, version_of
from vlmig.data.pairs import Pair
from vlmig.errors import VLMIGError
from vlmig.io.hub_datasets import load_dataset, parquet_shards
from vlmig.io.rows import BATCH, ROW_ENDINGS, Bad, Row, ending_of, text_rows
from vlmig.io.shards import files_of, of_split
from vlmig.vision.files import BadImage, read_image, size_of

EMBEDDED = re.compile(r"row (\d+)(?:, picture (\d+))?")
"""The name of an embedded image: its row, and its index in a list, both from 0."""
ADDRESS = re.compile(r"(?i)(https?|ftp|s3|gs|hf)://|//")
"""How an image that was not downloaded begins."""
FORMS = (
    "a .jsonl, .json, .csv, .tsv, .txt or .parquet file (or .gz, .zip), a folder or pattern of "
    "them, a folder saved by datasets, or a hub id"
)


class Records:
    """Rows, their images by name: a file below ``images``, or ``row 7`` if embedded.

    Args:
        path: a file, a folder of files, a pattern, a folder saved by ``datasets``, or a hub id.
        what: what they hold, for errors.
        images: folder that image files' names start from (default: the records').
        split: of a dataset, and of files that are named after splits.

    Raises:
        VLMIGError: there are no such files.
    """

    def __init__(
        self, path: str | Path, what: str, images: str | Path | None = None, split: str = "train"
    ) -> None:
        self.path = Path(path)
        self.column: str | None = None
        """A dataset's column of images."""
        self.rows: Any = None
        is_saved = (self.path / "state.json").exists() or (self.path / "dataset_dict.json").exists()
        self.files = [] if is_saved or parquet_shards(self.path) else _text_files(self.path)
        if not self.files:
            self.rows = load_dataset(path, f"{what}: {FORMS}", split)
        elif not self.path.is_file():
            self.files = of_split(self.files, self.path, split)
        first = self.files[0] if self.files else self.path
        folder = self.path if self.path.is_dir() else first.parent
        self.images = Path(images) if images else folder
        if images and not self.images.is_dir():
            raise VLMIGError(
                f"no folder {images}; expected the one that names of images start from; correct "
                "images"
            )

    @property
    def columns(self) -> list[str] | None:
        """The columns of a dataset; None for text files, whose rows may differ."""
        return None if self.rows is None else self.rows.column_names

    def read(self, columns: Sequence[str] = ()) -> Iterator[tuple[str, Row] | Bad]:
        """Yield the location and the fields of every row, or a bad record.

        Args:
            columns: columns of a dataset to read beside its images, which become names: one, a
                list, or None.

        Raises:
            VLMIGError: a file cannot be read at all, or the column holds no images.
        """
        if self.rows is None:
            yield from chain.from_iterable(map(text_rows, self.files))
            return
        image, number = self.column, 0
        columns = [column for column in columns if column != image]
        chosen = [*columns, image] if image else columns
        for batch in self.rows.select_columns(chosen).with_format("arrow").iter(BATCH):
            names = _names(batch[image], number) if image else [None] * len(batch)
            for row, name in zip(batch.select(columns).to_pylist(), names, strict=True):
                yield f"row {number}", {**row, image: name} if image else row
                number += 1

    def version(self, name: str) -> str | None:
        """Return what changes with an image; None if there is no such file."""
        if self._position(name):
            return str(self.rows._fingerprint)
        return version_of(self.images / name)

    def open(self, pair: Pair) -> Image.Image:
        """Read a pair's image, cut to its box: RGB.

        Raises:
            BadImage: it is missing, truncated, or not an image.
        """
        return cut(read_image(self._file(pair.picture)), pair.box)

    def size_of(self, name: str) -> tuple[int, int]:
        """Read an image's width and height.

        Raises:
            BadImage: it is missing, or not an image.
        """
        return size_of(self._file(name))

    @cached_property
    def _images(self) -> Any:
        return self.rows.select_columns([self.column]).with_format("arrow")

    def _file(self, name: str) -> Path | IO[bytes]:
        position = self._position(name)
        if position is None:
            return self.images / name
        row, turn = position
        value = self._images[row][self.column][0].as_py()
        if turn is not None:
            value = value[turn]
        return io.BytesIO(value["bytes"] if isinstance(value, dict) else value)

    def _position(self, name: str) -> tuple[int, int | None] | None:
        """Return an embedded image's row, and its index in a list; None for a file."""
        match = EMBEDDED.fullmatch(name) if self.rows is not None else None
        if match is None:
            return None
        return int(match[1]), None if match[2] is None else int(match[2])


def check_name(name: str) -> None:
    """Insist on an image that is a file.

    Raises:
        BadImage: a web address, or an image written as text.
    """
    if ADDRESS.match(name):
        raise BadImage("web address in place of an image file (download it first)")
    if name.startswith("data:"):
        raise BadImage("image written as text")


def _text_files(path: Path) -> list[Path]:
    """List the files with rows: of a folder those with its first ending of ``ROW_ENDINGS``, so that
    a README.txt beside .jsonl files is none."""
    endings = list(map("".join, product(ROW_ENDINGS, ("", ".gz", ".zip"))))
    files = files_of(path, endings)
    for ending in ROW_ENDINGS:
        if chosen := [file for file in files if ending_of(file) == ending]:
            return chosen
    return []


def _names(column: Any, first: int) -> list[Any]:
    """Name a column's images without decoding them: by file, or by row if embedded; None for
    none.

    Raises:
        VLMIGError: the column holds something else.
    """
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return _flat_names(column, [f"row {first + i}" for i in range(len(column))])
    names: list[Any] = []
    for row, scalar in enumerate(column, first):
        if scalar.is_valid:
            embedded = [f"row {row}, picture {i}" for i in range(len(scalar.values))]
            names.append(_flat_names(scalar.values, embedded))
        else:
            names.append(None)
    return names


def _flat_names(column: Any, embedded: Sequence[str]) -> list[str | None]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.to_pylist()
    sizes, paths = [None] * len(column), [None] * len(column)
    if pa.types.is_struct(kind):
        fields = [field.name for field in kind]
        if "bytes" in fields:
            sizes = pc.binary_length(pc.struct_field(column, "bytes")).to_pylist()
        for name in ("path", "url"):
            if name in fields and not any(paths):
                paths = pc.struct_field(column, name).to_pylist()
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        sizes = pc.binary_length(column).to_pylist()
    elif not pa.types.is_null(kind):
        raise VLMIGError(
            f"the column of images holds {kind}; expected file names or images; name another one"
        )
    return [
        inside if size else path or None
        for inside, size, path in zip(embedded, sizes, paths, strict=True)
    ]
