"""The one reader of rows: text, JSON lines, CSV and parquet files, one row at a time.

A line that cannot be read either becomes a ``Bad`` record and does not stop the file (``text_rows``:
training data), or raises an error (``strict_rows``: benchmark files and prompts).
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError, one_line
from vlmig.io.hub_datasets import load_dataset

Row = dict[str, Any]
NOT_UTF8 = "not UTF-8"
BATCH = 4096
"""Rows of a parquet file in memory at a time."""


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used."""

    place: str
    """Its location: file and line, image and region."""
    reason: str
    """Short, and the same for all records of its kind, so that it can be counted: ``empty caption``."""
    dropped: bool = False
    """Left out by a rule of its source, such as a smallest side: nothing is wrong with it."""


@dataclass(frozen=True)
class _Unreadable:
    """Why a line is not a row."""

    reason: str
    detail: str


def text_rows(path: Path) -> Iterator[tuple[str, Row] | Bad]:
    """Yield the location and the fields of every row of a ``.jsonl`` or ``.csv`` file.

    An unreadable line becomes a bad record.

    Raises:
        VLMIGError: no such file, or a CSV file without a first line of names.
    """
    for line, row in _numbered_rows(path):
        place = f"{path.name}, line {line}"
        yield Bad(place, row.reason) if isinstance(row, _Unreadable) else (place, row)


def strict_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield the location and the fields of every row of a ``.jsonl`` or ``.csv`` file.

    Raises:
        VLMIGError: no such file, or a line that cannot be read.
    """
    for line, row in _numbered_rows(path):
        place = f"{path}, line {line}"
        if isinstance(row, _Unreadable):
            raise _broken(place, row)
        yield place, row


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, with or without a byte order mark.

    Raises:
        VLMIGError: not UTF-8.
    """
    with _open(path, newline=None) as lines:
        for number, line in enumerate(lines, 1):
            if fault := _not_utf8(line):
                raise _broken(f"{path}, line {number}", fault)
            yield line


def _broken(place: str, fault: _Unreadable) -> VLMIGError:
    cure = "save the file as UTF-8" if fault.reason == NOT_UTF8 else "correct the line"
    return VLMIGError(f"{place}: {fault.reason} ({fault.detail}); {cure}, or fetch the file again")


def _numbered_rows(path: Path) -> Iterator[tuple[int, Row | _Unreadable]]:
    """Yield the line number of every row, and its fields or why they cannot be read."""
    if not path.is_file():
        raise VLMIGError(f"no file {path}; expected a .jsonl or .csv file; check the path")
    return _csv(path) if path.suffix == ".csv" else _json_lines(path)


def _open(path: Path, newline: str | None) -> Any:
    # Bytes that are not UTF-8 become lone surrogates, so that one bad line does not end the file.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _not_utf8(text: str) -> _Unreadable | None:
    """Find the first byte that ``_open`` could not decode."""
    found = re.search("[\udc80-\udcff]", text)
    return _Unreadable(NOT_UTF8, f"byte {ord(found[0]) - 0xDC00:#x}") if found else None


def _json_lines(path: Path) -> Iterator[tuple[int, Row | _Unreadable]]:
    with _open(path, newline="\n") as lines:  # JSON texts may hold other ends of lines
        for number, line in enumerate(lines, 1):
            if fault := _not_utf8(line):
                yield number, fault
            elif line.strip():
                yield number, _json_object(line.strip())


def _json_object(text: str) -> Row | _Unreadable:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _Unreadable("not JSON", one_line(error))
    if not isinstance(value, dict):
        return _Unreadable("not a JSON object", f"got a {type(value).__name__}")
    return value


def _csv(path: Path) -> Iterator[tuple[int, Row | _Unreadable]]:
    with _open(path, newline="") as lines:
        rows = csv.reader(lines, strict=True)
        try:
            names = next(rows, [])
        except csv.Error as error:
            raise VLMIGError(
                f"{path} is not CSV ({error}); expected a first line of column names; correct it"
            ) from None
        if not any(names):
            raise VLMIGError(
                f"{path} is empty; expected a first line of column names; fetch the file again"
            )
        while True:
            number = rows.line_num + 1
            try:
                values = next(rows, None)
            except csv.Error as error:
                yield number, _Unreadable("not CSV", str(error))
                continue
            if values is None:
                return
            if not values:  # a blank line
                continue
            if len(values) != len(names):
                counts = f"got {len(values)}, expected {len(names)}"
                yield number, _Unreadable("wrong number of fields", counts)
            else:
                row = dict(zip(names, values, strict=True))
                yield number, _not_utf8("".join(values)) or row


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Yield the location and the named columns of every row of a parquet file, in batches.

    Raises:
        VLMIGError: no such file, not a parquet file, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    require(columns, parquet_columns(path), path)
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield f"{path.name}, row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise VLMIGError(
            f"{path} is damaged after row {number} ({one_line(error)}); fetch it again"
        ) from None


def parquet_columns(path: Path) -> list[str]:
    """Read the names of a parquet file's columns.

    Raises:
        VLMIGError: no such file, or not a parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise VLMIGError(
            f"{path} is not a parquet file ({one_line(error)}); fetch it again"
        ) from None


def require(
    columns: Sequence[str],
    given: Sequence[str],
    where: Path | str,
    cure: str = "name the right one in the source's options",
) -> None:
    """Insist on columns.

    Raises:
        VLMIGError: one is missing.
    """
    for name in columns:
        if name not in given:
            raise VLMIGError(
                f"{where} has no column {name}; it has {', '.join(map(str, given))}; {cure}"
            )


def lowest_values(at_least: Mapping[str, float] | None, where: Path | str) -> dict[str, float]:
    """Check a source's option ``at_least``: the lowest value that a row may have in each column.

    Raises:
        VLMIGError: not a mapping from columns to numbers.
    """
    lowest = {} if at_least is None else at_least
    numbers = lowest.values() if isinstance(lowest, Mapping) else [None]
    if not all(map(_is_finite, numbers)):
        raise VLMIGError(
            f"at_least of {where} is {at_least!r}; expected a number for each column, such as "
            "{clip_similarity: 0.3}; correct it"
        )
    return dict(lowest)


def _is_finite(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def below(row: Mapping[str, Any], lowest: Mapping[str, float]) -> str | None:
    """Return why a row is left out: a column is below its lowest value, or not a number."""
    for column, least in lowest.items():
        value = row.get(column)
        try:
            readable = isinstance(value, int | float | str) and not isinstance(value, bool)
            number = float(value) if readable else math.nan  # type: ignore[arg-type]
        except (ValueError, OverflowError):
            number = math.nan
        if not number >= least:
            return f"{column} under {least:g}"
    return None


FILES = (".txt", ".jsonl", ".csv")
ANOTHER = "name another --column, or correct the row"
PROMPTS = "a text file with a prompt on each line, .jsonl, .csv, or a dataset's folder or hub id"


def read_prompts(source: str | Path, column: str = "prompt", split: str = "train") -> list[str]:
    """Read distinct prompts in order: a text file with one on each line, .jsonl, .csv, or a dataset.

    Raises:
        VLMIGError: no such source, an unreadable line, no such column, or no prompts at all.
    """
    path = Path(source)
    if path.suffix in FILES and not path.is_file():
        raise VLMIGError(f"no prompts at {source}; expected {PROMPTS}")
    prompts: dict[str, None] = {}
    for place, text in _prompt_values(source, column, split):
        if not isinstance(text, str):
            raise VLMIGError(
                f"{place}: {column} is {text!r}; expected text in every row; {ANOTHER}"
            )
        if text.strip():
            prompts[text.strip()] = None
    if not prompts:
        raise VLMIGError(f"{source} holds no prompts; expected one on each line or row")
    return list(prompts)


def _prompt_values(source: str | Path, column: str, split: str) -> Iterator[tuple[str, object]]:
    path = Path(source)
    if not path.is_file():
        rows = load_dataset(source, PROMPTS, split)
        require([column], rows.column_names, source, ANOTHER)
        yield from ((f"{source}, row {i}", value) for i, value in enumerate(rows[column]))
    elif path.suffix in (".jsonl", ".csv"):
        for place, row in strict_rows(path):
            require([column], list(row), place, ANOTHER)
            yield place, row[column]
    else:
        yield from ((str(path), line) for line in text_lines(path))


def shard_of(prompts: Sequence[str], index: int, count: int) -> list[str]:
    """Return shard ``index`` (from 0) of ``count``: by content, whatever the order of the prompts."""
    shard = []
    for prompt in prompts:
        number = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big")
        if number % count == index:
            shard.append(prompt)
    return shard
