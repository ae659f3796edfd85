"""Rows of JSON lines, CSV and parquet files, one at a time: a line that cannot be read is a bad record, no end."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used."""

    place: str
    """Where it is: file and line, image and region."""
    reason: str
    """Short and the same for all records of its kind, so that it can be counted: ``empty caption``, ``no such picture``."""
    dropped: bool = False
    """Left out by a rule of its source, such as a smallest side: nothing is wrong with it."""


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


FILES = (".txt", ".jsonl", ".csv")


def read_prompts(source: str | Path, column: str = "prompt", split: str = "train") -> list[str]:
    """Read distinct prompts in order: a file with one on each line, .jsonl, .csv, or a dataset's folder or hub id.

    Raises:
        VLMIGError: no such source, no such column, or no prompts at all.
    """
    path = Path(source)
    if path.suffix in FILES and not path.is_file():
        raise VLMIGError(
            f"no prompts at {source}; expected a text file with a prompt on each line, .jsonl, .csv or a dataset"
        )
    texts = _lines(path, column) if path.is_file() else _rows(str(source), column, split)
    found = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not found:
        raise VLMIGError(f"{source} holds no prompts; expected one on each line or row")
    return found


def _lines(path: Path, column: str) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as lines:  # a spreadsheet may put a mark before the first column
        try:
            if path.suffix == ".jsonl":
                return [_text(json.loads(line)[column]) for line in lines if line.strip()]
            if path.suffix == ".csv":
                return [_text(row[column]) for row in csv.DictReader(lines)]
            return list(lines)
        except UnicodeDecodeError as error:
            raise VLMIGError(f"{path} is not UTF-8 ({error}); save it in that encoding") from error
        except (KeyError, TypeError, csv.Error, json.JSONDecodeError) as error:
            raise VLMIGError(
                f"{path} has a row without {column} ({error}); expected that field in every row, or another --column"
            ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _rows(source: str, column: str, split: str) -> list[str]:
    """Read a column of a dataset, saved in a folder or on the hub."""
    import datasets

    try:
        rows = datasets.load_from_disk(source) if Path(source).is_dir() else datasets.load_dataset(source, split=split)
        rows = rows[split] if isinstance(rows, dict) else rows
        return [_text(text) for text in rows[column]]
    except Exception as error:  # datasets raises what its readers raise
        reason = str(error).strip().split("\n")[0]
        raise VLMIGError(
            f"cannot read prompts from {source}: {reason}; expected a text file with a prompt on each line, .jsonl, .csv, or a "
            f"dataset with the split {split} and the column {column}"
        ) from error


def shard_of(prompts: Sequence[str], index: int, count: int) -> list[str]:
    """Return shard ``index`` (from 0) of ``count``: by content, so that it does not depend on the order of the file."""
    return [p for p in prompts if int.from_bytes(hashlib.sha256(p.encode()).digest()[:8], "big") % count == index]
