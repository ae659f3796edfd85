"""Benchmark files as rows: CSV, JSON lines and nested JSON. What is wrong is said with file, row and cure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError

Row = dict[str, Any]


def read_rows(path: Path, columns: Sequence[str], each: Sequence[str] = (), repeated: int = 0) -> list[Row]:
    """Read a file's rows; texts lose the spaces around them.

    Args:
        columns: fields that every row must have.
        each: for nested JSON, the lists to walk down; a row has the fields of all levels.
        repeated: rows known to occur twice in the public file.

    Raises:
        VLMIGError: no such file, not UTF-8, not its format, no rows, a row without a field, repeated rows.
    """
    if not path.is_file():
        raise VLMIGError(f"no file {path}; pass --data (or VLMIG_DATA) a folder that has it (README, Benchmark data)")
    reader = {".csv": _csv, ".jsonl": _json_lines}.get(path.suffix, lambda p, text: _nested(p, text, each))
    rows = [
        {k: v.strip() if isinstance(v, str) else v for k, v in row.items()} for row in reader(path, read_text(path))
    ]
    if not rows:
        raise VLMIGError(f"{path} has no rows; fetch the file again from its source")
    for number, row in enumerate(rows, 1):
        missing = [column for column in columns if column not in row]
        if missing:
            where = "" if path.suffix == ".csv" else f", row {number},"
            raise VLMIGError(
                f"{path}{where} has no column {missing[0]}; expected {', '.join(columns)}, found {', '.join(map(str, row))}; fetch the file again from its source"
            )
    _refuse_repeated(path, rows, repeated)
    return rows


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without its mark.

    Raises:
        VLMIGError: not UTF-8.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise VLMIGError(
            f"{path}, line {line}, is not UTF-8 (byte {content[error.start]:#x}); save the file as UTF-8, or fetch it again from its source"
        ) from None


def _csv(path: Path, text: str) -> Iterator[Row]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, row in enumerate(rows, 1):
            if None in row or None in row.values():
                found = sum(value is not None for key, value in row.items() if key is not None) + len(
                    row.get(None) or []
                )  # type: ignore[call-overload]
                expected = sum(key is not None for key in row)
                raise VLMIGError(f"{path}, row {number}, has {found} fields, expected {expected}; correct the row")
            yield row
    except csv.Error as error:
        raise VLMIGError(
            f"{path}, behind line {rows.line_num}, is not CSV ({error}); correct it, or fetch the file again"
        ) from None


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(
        text.split("\n"), 1
    ):  # a JSON text may hold what str.splitlines takes for a line's end
        if line.strip():
            yield _object(path, line, f"row {number}")


def _object(path: Path, text: str, where: str) -> Row:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise VLMIGError(
            f"{path}, {where}, is not JSON ({error.msg}, line {error.lineno}, column {error.colno}); correct it, or fetch the file again"
        ) from None
    if not isinstance(value, dict):
        raise VLMIGError(f"{path}, {where}, is a JSON {type(value).__name__}, expected an object; correct it")
    return value


def _nested(path: Path, text: str, each: Sequence[str]) -> Iterator[Row]:
    """Walk down lists by name; a row inherits the fields of the levels above it."""
    rows = [_object(path, text, "the file")]
    for name in each:
        deeper = []
        for row in rows:
            inner = row.get(name)
            if not isinstance(inner, list) or not all(isinstance(part, dict) for part in inner):
                raise VLMIGError(f"{path} has no list {name!r} of objects in {', '.join(row)}; fetch the file again")
            outer = {key: value for key, value in row.items() if key != name}
            deeper += [{**outer, **part} for part in inner]
        rows = deeper
    yield from rows


def _refuse_repeated(path: Path, rows: Sequence[Row], known: int) -> None:
    first: dict[str, int] = {}
    repeated = []
    for number, row in enumerate(rows, 1):
        same = first.setdefault(json.dumps(row, sort_keys=True, default=str), number)
        if same != number:
            repeated.append((number, same))
    if len(repeated) > known:
        number, same = repeated[-1]
        raise VLMIGError(f"{path}, row {number}, repeats row {same}; remove one of them")
