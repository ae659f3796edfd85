"""Datasets of the hub, and what goes wrong when one is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError
from vlmig.io.rows import one_line


def _load(path: Path, split: str) -> Any:
    import datasets

    if path.suffix == ".parquet" and not path.is_file():
        raise VLMIGError(f"no file {path}; expected a .jsonl, .csv or .parquet table; correct the path")
    try:
        if path.suffix == ".parquet":
            rows = datasets.Dataset.from_parquet(str(path))
        else:
            rows = datasets.load_from_disk(str(path)) if path.is_dir() else datasets.load_dataset(str(path))
    except Exception as error:  # datasets raises what its readers raise
        raise VLMIGError(
            f"cannot read the table {path}: {one_line(getattr(error, '__cause__', None) or error)}; expected .jsonl, .csv, .parquet, a folder of datasets or a hub id; correct the path, or fetch it again"
        ) from error
    if isinstance(rows, datasets.DatasetDict):
        if split not in rows:
            raise VLMIGError(f"{path} has no split {split}; expected one of {', '.join(rows)}; name it with split")
        return rows[split]
    return rows


def _dataset(source: str) -> Any:
    from datasets import DatasetDict, load_dataset, load_from_disk

    try:
        rows = load_from_disk(source) if Path(source).is_dir() else load_dataset(source)
    except Exception as error:  # datasets raises what its readers raise
        reason = str(error).strip().split("\n")[0]
        raise VLMIGError(
            f"cannot load pictures from {source}: {reason}; expected a folder or a dataset's id"
        ) from error
    if isinstance(rows, DatasetDict):
        rows = rows["train"] if "train" in rows else next(iter(rows.values()))
    if "image" not in rows.column_names:
        raise VLMIGError(f"{source} has the columns {', '.join(rows.column_names)}; expected one named image")
    return rows
