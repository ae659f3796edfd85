"""The one reader of rows: text, JSON lines and lists, CSV and its kin, and parquet files, one row
at a time.

A line that cannot be read either becomes a ``Bad`` record and does not stop the file
(``text_rows``: training data), or raises an error (``strict_rows``: benchmark files and prompts).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError, one_line
from vlmig.io import delimited
from vlmig.io.delimited import (
    NOT_UTF8,
    Row,
    Unreadable,
    bounded,
    delimited_rows,
    not_utf8,
    open_text,
)
from vlmig.io.hashing import number_of
from vlmig.io.hub_datasets import load_dataset, parquet_types
from vlmig.io.json_stream import DAMAGE, holds_list, json_items
from vlmig.io.shards import check_fetched

BATCH = 4096
"""Rows of a parquet file in memory at a time."""
ROW_ENDINGS = (".jsonl", ".ndjson", ".json", *delimited.ENDINGS)
"""Endings of files with rows; ``.gz`` or ``.zip`` may follow."""


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used."""

    place: str
    """Its location: file and line, image and region."""
    reason: str
    """Short, and the same for all records of its kind, so that it can be counted: ``empty
    caption``."""
    dropped: bool = False
    """Left out by a rule of its source, such as a smallest side: nothing is wrong with it."""


def ending_of(path: Path) -> str:
    """Return a file's ending, ``.jsonl`` of ``x.jsonl.zip``."""
    return Path(path.name.removesuffix(".gz").removesuffix(".zip")).suffix.lower()


def text_rows(path: Path) -> Iterator[tuple[str, Row] | Bad]:
    """Yield the location and the fields of every row of a file: JSON lines, a JSON list, or
    delimited (see ``vlmig.io.delimited``).

    An unreadable line becomes a bad record.

    Raises:
        VLMIGError: no such file, it is damaged, or delimited and empty.
    """
    for inner, row in _numbered_rows(path):
        location = f"{path.name}, {inner}"
        yield Bad(location, row.reason) if isinstance(row, Unreadable) else (location, row)


def strict_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield the location and the fields of every row of a file, as ``text_rows`` does.

    Raises:
        VLMIGError: no such file, or a line that cannot be read.
    """
    for inner, row in _numbered_rows(path):
        location = f"{path}, {inner}"
        if isinstance(row, Unreadable):
            raise _broken(location, row)
        yield location, row


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, with or without a byte order mark.

    Raises:
        VLMIGError: not UTF-8.
    """
    with open_text(path, newline=None) as lines:
        for number, line in enumerate(lines, 1):
            if fault := not_utf8(line):
                raise _broken(f"{path}, line {number}", fault)
            yield line


def _broken(location: str, fault: Unreadable) -> VLMIGError:
    cure = "save the file as UTF-8" if fault.reason == NOT_UTF8 else "correct the line"
    reason = f"{fault.reason} ({fault.detail})"
    return VLMIGError(f"{location}: {reason}; {cure}, or fetch the file again")


def _numbered_rows(path: Path) -> Iterator[tuple[str, Row | Unreadable]]:
    """Yield the location in the file of every row, and its fields or why they cannot be read."""
    if not path.is_file():
        raise VLMIGError(f"no file {path}; expected a .jsonl or .csv file; check the path")
    check_fetched(path)
    try:
        if ending_of(path) == ".json" and holds_list(path):
            yield from _json_list(path)
            return
        is_table = ending_of(path) in delimited.ENDINGS
        for line, row in delimited_rows(path) if is_table else _json_lines(path):
            yield f"line {line}", row
    except DAMAGE as error:
        raise VLMIGError(
            f"{path} is damaged ({one_line(error)}); expected a whole file; fetch it again"
        ) from None


def _json_list(path: Path) -> Iterator[tuple[str, Row | Unreadable]]:
    for number, record in enumerate(json_items(path), 1):
        is_row = isinstance(record, dict)
        yield f"record {number}", record if is_row else _no_object(record)


def _json_lines(path: Path) -> Iterator[tuple[int, Row | Unreadable]]:
    with open_text(path, newline="\n") as lines:  # JSON texts may hold other ends of lines
        for number, line in enumerate(bounded(lines), 1):
            if isinstance(line, Unreadable):
                yield number, line
            elif fault := not_utf8(line):
                yield number, fault
            elif line.strip():
                yield number, _json_object(line.strip())


def _json_object(text: str) -> Row | Unreadable:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unreadable("not JSON", one_line(error))
    return value if isinstance(value, dict) else _no_object(value)


def _no_object(value: Any) -> Unreadable:
    return Unreadable("not a JSON object", f"got a {type(value).__name__}")


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Yield the location and the named columns of every row of a parquet file, in batches.

    Raises:
        VLMIGError: no such file, not a parquet file, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    require(columns, list(parquet_types(path)), path)
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


def is_unicode(*texts: str) -> bool:
    """Return whether texts can be encoded: JSON and file systems allow lone surrogates."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


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


def failed(status: object) -> str | None:
    """Return why a row is left out: img2dataset says that its image was not downloaded."""
    is_failure = isinstance(status, str) and status.lower().startswith(("fail", "error"))
    return f"status {status}" if is_failure else None


FILES = (".txt", ".jsonl", ".csv")
ANOTHER = "name another --column, or correct the row"
PROMPTS = "a text file with a prompt on each line, .jsonl, .csv, or a dataset's folder or hub id"


def read_prompts(source: str | Path, column: str = "prompt", split: str = "train") -> list[str]:
    """Read distinct prompts in order: a text file with one on each line, .jsonl, .csv, or a
    dataset.

    Raises:
        VLMIGError: no such source, an unreadable line, no such column, or no prompts at all.
    """
    path = Path(source)
    if path.suffix in FILES and not path.is_file():
        raise VLMIGError(f"no prompts at {source}; expected {PROMPTS}")
    prompts: dict[str, None] = {}
    for location, text in _prompt_values(source, column, split):
        if not (isinstance(text, str) and is_unicode(text)):
            raise VLMIGError(
                f"{location}: {column} is {text!r}; expected Unicode text in every row; {ANOTHER}"
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
        for i, value in enumerate(rows[column]):
            yield f"{source}, row {i}", value
    elif path.suffix in (".jsonl", ".csv"):
        for location, row in strict_rows(path):
            require([column], list(row), location, ANOTHER)
            yield location, row[column]
    else:
        for line in text_lines(path):
            yield str(path), line


def shard_of(prompts: Sequence[str], index: int, count: int) -> list[str]:
    """Return shard ``index`` (from 0) of ``count``: by content, whatever the order of the
    prompts."""
    return [prompt for prompt in prompts if number_of(prompt) % count == index]
