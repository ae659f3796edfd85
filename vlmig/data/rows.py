"""Rows of JSON lines, CSV and parquet files, one at a time: a line that cannot be read is a bad record, no end."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmig.data.pairs import Bad
from vlmig.errors import VLMIGError

Row = dict[str, Any]
BATCH = 4096
"""Rows of a parquet file in memory at a time."""


def text_rows(path: Path) -> Iterator[tuple[str, Row] | Bad]:
    """Yield the place and the fields of every row of a ``.jsonl`` or ``.csv`` file.

    Raises:
        VLMIGError: no such file, or a CSV file without a first line of names.
    """
    if not path.is_file():
        raise VLMIGError(f"no file {path}; expected a .jsonl or .csv file; check the path")
    return _csv(path) if path.suffix == ".csv" else _json_lines(path)


def _json_lines(path: Path) -> Iterator[tuple[str, Row] | Bad]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{path.name}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row = json.loads(text) if text else None
            except UnicodeDecodeError:
                yield Bad(place, "not UTF-8")
                continue
            except (ValueError, RecursionError):
                yield Bad(place, "not JSON")
                continue
            if isinstance(row, dict):
                yield place, row
            elif text:
                yield Bad(place, "not a JSON object")


def _csv(path: Path) -> Iterator[tuple[str, Row] | Bad]:
    # Bytes that are no UTF-8 become lone surrogates, so that one bad line does not end the file.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.reader(lines, strict=True)
        try:
            names = next(rows, [])
        except csv.Error as error:
            raise VLMIGError(
                f"{path} is not CSV ({error}); expected a first line of column names; correct it"
            ) from None
        if not any(names):
            raise VLMIGError(f"{path} is empty; expected a first line of column names; fetch the file again")
        while True:
            number = rows.line_num + 1
            place = f"{path.name}, line {number}"
            try:
                values = next(rows, None)
            except csv.Error:
                yield Bad(place, "not CSV")
                continue
            if values is None:
                return
            if not values:  # a blank line
                continue
            if len(values) != len(names):
                yield Bad(place, "wrong number of fields")
            elif any("\udc80" <= letter <= "\udcff" for value in values for letter in value):
                yield Bad(place, "not UTF-8")
            else:
                yield place, dict(zip(names, values, strict=True))


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Yield the place and the named columns of every row of a parquet file, in portions.

    Raises:
        VLMIGError: no such file, no parquet file, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise VLMIGError(f"{path} is no parquet file ({one_line(error)}); fetch it again") from None
    require(columns, file.schema_arrow.names, path)
    number = 0
    try:
        for batch in file.iter_batches(BATCH, columns=list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield f"{path.name}, row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise VLMIGError(f"{path} is damaged behind row {number} ({one_line(error)}); fetch it again") from None


def require(columns: Sequence[str], found: Sequence[str], where: Path | str) -> None:
    """Insist on columns.

    Raises:
        VLMIGError: one is missing.
    """
    missing = [name for name in columns if name not in found]
    if missing:
        raise VLMIGError(
            f"{where} has no column {missing[0]}; found {', '.join(map(str, found))}; name the right one in the source's options"
        )


def floors(at_least: Mapping[str, float] | None, where: Path | str) -> dict[str, float]:
    """Check the lowest values that a source's option ``at_least`` asks of columns.

    Raises:
        VLMIGError: no mapping from columns to numbers.
    """
    found = {} if at_least is None else at_least
    numbers = found.values() if isinstance(found, Mapping) else [None]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
        raise VLMIGError(
            f"at_least of {where} is {at_least!r}; expected a number for each column, such as {{clip_similarity: 0.3}}; correct it"
        )
    return dict(found)


def below(row: Mapping[str, Any], lowest: Mapping[str, float]) -> str | None:
    """Return why a row is left out: a column's value is under the lowest one, or is no number at all."""
    for column, least in lowest.items():
        value = row.get(column)
        try:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not number >= least:
            return f"{column} under {least:g}"
    return None


def one_line(error: Exception) -> str:
    """Return the first line of what a library says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
