"""Benchmark files as checked records: CSV, JSON lines and nested JSON. Any fault is an error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError
from vlmig.io.rows import Row, strict_rows, text_lines

AGAIN = "fetch the file again from its source"
Record = tuple[str, Row]
"""A location, for errors, and the fields found there."""


def read_records(
    path: Path,
    columns: Sequence[str],
    each: Sequence[str] = (),
    repeated: int = 0,
    also: Mapping[str, str] | None = None,
) -> list[Record]:
    """Read a file's records; texts lose the spaces around them.

    Args:
        columns: fields that every record must have.
        each: for nested JSON, the lists to walk down; a record has the fields of all levels.
        repeated: records known to occur twice in the public file.
        also: other names that columns have, such as ``{Color: Shape}``.

    Raises:
        VLMIGError: no such file, not UTF-8, not its format, no records, a record without a field,
            repeated records.
    """
    if not path.is_file():
        raise VLMIGError(
            f"no file {path}; pass --data (or VLMIG_DATA) a folder that has it (README, Benchmark "
            "data)"
        )
    rows = _nested(path, each) if each else strict_rows(path)
    records = []
    for location, row in rows:
        for other, column in (also or {}).items():
            if other in row:
                row.setdefault(column, row[other])
        for column in columns:
            if column not in row:
                raise VLMIGError(
                    f"{location} has no column {column}; expected {', '.join(columns)}, "
                    f"got {', '.join(map(str, row))}; {AGAIN}"
                )
        records.append((location, {name: _stripped(value) for name, value in row.items()}))
    if not records:
        raise VLMIGError(f"{path} has no rows; {AGAIN}")
    _refuse_repeated(records, repeated)
    return records


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Raises:
        VLMIGError: not UTF-8.
    """
    return "".join(text_lines(path))


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _nested(path: Path, each: Sequence[str]) -> Iterator[Record]:
    """Walk down lists by name; a record inherits the fields of the levels above it."""
    try:
        whole = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise VLMIGError(f"{path} is not JSON ({error}); correct it, or fetch it again") from None
    if not isinstance(whole, dict):
        kind = type(whole).__name__
        raise VLMIGError(f"{path} is a JSON {kind}; expected an object; correct it")
    rows: list[Row] = [whole]
    for name in each:
        deeper: list[Row] = []
        for row in rows:
            inner = row.get(name)
            if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
                raise VLMIGError(
                    f"{path} has no list {name!r} of objects in "
                    f"{', '.join(row) or 'an empty object'}; fetch it again"
                )
            outer = {key: value for key, value in row.items() if key != name}
            deeper.extend({**outer, **one} for one in inner)
        rows = deeper
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def _refuse_repeated(records: Iterable[Record], known: int) -> None:
    first: dict[str, str] = {}
    repeated = []
    for location, row in records:
        same = first.setdefault(json.dumps(row, sort_keys=True, default=str), location)
        if same != location:
            repeated.append(f"{location}, repeats {same}; remove one of them")
    if len(repeated) > known:
        raise VLMIGError(repeated[-1])
