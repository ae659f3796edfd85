"""The files that a path means: one, those of a folder, or those of a pattern."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from vlmig.errors import VLMIGError

READ = 2**26
"""Bytes up to which a file's content is hashed."""
SPLITS = ("train", "validation", "valid", "val", "dev", "test")


POINTER = b"version https://git-lfs"
"""How a file begins whose content git-lfs has not fetched."""


def is_pointer(file: Path) -> bool:
    """Return whether git-lfs has not fetched a file."""
    if not file.is_file() or file.stat().st_size > 1024:
        return False
    return file.read_bytes().startswith(POINTER)


def check_fetched(file: Path) -> None:
    """Insist on a file's content.

    Raises:
        VLMIGError: it is a pointer of git-lfs.
    """
    if is_pointer(file):
        raise VLMIGError(f"{file} is a git-lfs pointer, not the file; run git lfs pull")


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts image 10 after image 9."""
    runs = re.split(r"(\d+)", name)
    return [(int(run), "") if run.isdigit() else (0, run) for run in runs]


def is_pattern(path: str | Path) -> bool:
    """Return whether a path stands for several files, such as ``shards/{00..09}.tar``."""
    return not Path(path).exists() and any(mark in str(path) for mark in "*?[{")


def files_of(path: str | Path, endings: Sequence[str]) -> list[Path]:
    """List files in natural order.

    Args:
        path: a file, a folder whose files with one of these endings are taken at any depth, or a
            pattern: with ``*``, or with one ``{00000..00009}``, whose files are listed whether they
            exist or not.
    """
    folder = Path(path)
    span = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", str(path))
    if folder.is_dir():
        files = [file for file in folder.rglob("*") if file.name.endswith(tuple(endings))]
        files = [file for file in files if file.is_file() and not file.name.startswith(".")]
    elif span and not folder.exists():
        head, first, last, tail = span.groups()
        numbers = range(int(first), int(last) + 1)
        return [Path(f"{head}{number:0{len(first)}}{tail}") for number in numbers]
    elif is_pattern(path):
        files = [Path(name) for name in glob.glob(str(path), recursive=True)]
    else:
        files = [folder] if folder.is_file() else []
    return sorted(files, key=lambda file: natural(str(file)))


def of_split(files: Sequence[Path], folder: Path, split: str) -> list[Path]:
    """Choose the files of a split by their names, as on the hub: ``train-00000-of-00002.parquet``,
    ``default/train/0000.parquet``. Where no name has a split, all files are of it."""
    of_any, chosen = False, []
    for file in files:
        of_any = of_any or any(_names(file, folder, name) for name in (*SPLITS, split))
        if _names(file, folder, split):
            chosen.append(file)
    return chosen if of_any else list(files)


def _names(file: Path, folder: Path, split: str) -> bool:
    inner = file.relative_to(folder) if file.is_relative_to(folder) else Path(file.name)
    return re.search(rf"(^|[/_.-]){re.escape(split)}([/_.-]|$)", inner.as_posix()) is not None


def state_of(files: Sequence[Path]) -> str:
    """Hash names and contents of files; of those above ``READ`` bytes size and time stand for the
    content."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} ".encode(errors="surrogateescape"))
        large = status.st_size > READ
        digest.update(str(status.st_mtime_ns).encode() if large else file.read_bytes())
    return digest.hexdigest()[:16]
