"""Rows of a task's file, joined with what further files say of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlmig.errors import VLMIGError
from vlmig.io.records import Record, read_records, read_text
from vlmig.io.rows import Row


def add_labels(records: Sequence[Record], path: Path) -> None:
    """Add a file's labels, line by line, as the rows' field ``label``.

    Raises:
        VLMIGError: there are more or fewer labels than rows.
    """
    labels = read_text(path).split() if path.is_file() else []
    if len(labels) != len(records):
        raise VLMIGError(
            f"{path} has {len(labels)} labels for {len(records)} rows; fetch both files again"
        )
    for (_, row), label in zip(records, labels, strict=True):
        row["label"] = label


def add_people(records: Sequence[Record], path: Path, by: str) -> None:
    """Add what people said, the file's rows with the same value in a field, as the field
    ``people``.

    Raises:
        VLMIGError: the file's rows do not have the field.
    """
    said: dict[str, list[Row]] = {}
    for _, row in read_records(path, [by]):
        said.setdefault(str(row[by]), []).append(row)
    for _, row in records:
        row["people"] = said.get(str(row[by]), [])
