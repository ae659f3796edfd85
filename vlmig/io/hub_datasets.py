"""Datasets of the Hugging Face Hub, or saved by ``datasets``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError, one_line
from vlmig.io.hub import settle_hub
from vlmig.io.shards import check_fetched, files_of, is_pattern, of_split

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
FILE_ENDING = re.compile(r"(?i).*\.(parquet|jsonl?|ndjson|[ct]sv|txt|tar|tgz|t?gz|zip)")


def load_dataset(
    source: str | Path, expected: str, split: str | None = None, subset: str | None = None
) -> Any:
    """Load one split as a ``datasets.Dataset``.

    Args:
        source: a ``.parquet`` file, a folder or pattern of them, as downloaded from the hub, a
            folder saved by ``datasets``, or a hub id.
        expected: what the caller takes, for the error.
        split: None for ``train``, or the first one where there is no ``train``.
        subset: configuration of a hub dataset.

    Raises:
        VLMIGError: no such dataset or split, or it is damaged.
    """
    path = Path(source)
    shards = parquet_shards(path, split)
    is_hub_id = HUB_ID.fullmatch(str(source)) and not FILE_ENDING.fullmatch(str(source))
    if not (shards or path.is_dir() or is_hub_id):
        raise VLMIGError(f"no file or folder {source}; expected {expected}; correct the path")
    for shard in shards:
        parquet_types(shard)  # says which one is damaged
    settle_hub(path)
    import datasets

    # datasets logs what it then raises.
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        if shards:
            rows = datasets.Dataset.from_parquet([str(shard) for shard in shards])
        elif path.is_dir():
            rows = datasets.load_from_disk(str(path))
        else:
            rows = datasets.load_dataset(str(source), subset, split=split)
    except Exception as error:  # datasets raises whatever its readers raise
        raise VLMIGError(
            f"cannot load {source}: {one_line(error.__cause__ or error)}; expected {expected}; "
            "correct the path, or fetch it again"
        ) from error
    finally:
        datasets.logging.set_verbosity(verbosity)
    if not isinstance(rows, datasets.DatasetDict):
        return rows
    chosen = split or ("train" if "train" in rows else next(iter(rows)))
    if chosen not in rows:
        raise VLMIGError(
            f"{source} has no split {chosen}; expected one of {', '.join(rows)}; choose one of them"
        )
    return rows[chosen]


def parquet_shards(path: Path, split: str | None = None) -> list[Path]:
    """List the parquet files of a path: itself, or those of a folder or pattern that belong to a
    split (None: ``train``).

    Raises:
        VLMIGError: there are some, but none of the split.
    """
    if not (path.suffix == ".parquet" or path.is_dir() or is_pattern(path)):
        return []
    files = [file for file in files_of(path, (".parquet",)) if file.suffix == ".parquet"]
    shards = files if path.is_file() else of_split(files, path, split or "train")
    if split is None and not shards:
        return files
    if files and not shards:
        raise VLMIGError(
            f"{path} has no parquet files of the split {split}, but {files[0].name} and "
            "others; choose another split"
        )
    return shards


def parquet_types(path: Path) -> dict[str, str]:
    """Read the names and types of a parquet file's columns.

    Raises:
        VLMIGError: no such file, or not a parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_fetched(path)
    try:
        return {field.name: str(field.type) for field in pq.read_schema(path)}
    except (OSError, pa.ArrowException) as error:
        raise VLMIGError(
            f"{path} is not a parquet file ({one_line(error)}); fetch it again"
        ) from None
