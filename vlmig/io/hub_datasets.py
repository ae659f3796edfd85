"""Datasets of the Hugging Face Hub, or saved by ``datasets``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError, one_line


def load_dataset(
    source: str | Path, expected: str, split: str | None = None, subset: str | None = None
) -> Any:
    """Load one split as a ``datasets.Dataset``.

    Args:
        source: a ``.parquet`` file, a folder saved by ``datasets``, or a hub id.
        expected: what the caller takes, for the error.
        split: None for ``train``, or the first one where there is no ``train``.
        subset: configuration of a hub dataset.

    Raises:
        VLMIGError: no such dataset or split, or it is damaged.
    """
    import datasets

    path = Path(source)
    try:
        if path.suffix == ".parquet":
            rows = datasets.Dataset.from_parquet(str(path))
        elif path.is_dir():
            rows = datasets.load_from_disk(str(path))
        else:
            rows = datasets.load_dataset(str(source), subset, split=split)
    except Exception as error:  # datasets raises whatever its readers raise
        raise VLMIGError(
            f"cannot load {source}: {one_line(error.__cause__ or error)}; expected {expected}; "
            "correct the path, or fetch it again"
        ) from error
    if not isinstance(rows, datasets.DatasetDict):
        return rows
    chosen = split or ("train" if "train" in rows else next(iter(rows)))
    if chosen not in rows:
        raise VLMIGError(
            f"{source} has no split {chosen}; expected one of {', '.join(rows)}; choose one of them"
        )
    return rows[chosen]
