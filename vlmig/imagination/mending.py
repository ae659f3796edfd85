"""Mend a feature store: keep what of it can be read."""

from __future__ import annotations

import shutil
from pathlib import Path

from vlmig.errors import VLMIGError
from vlmig.imagination.store import NAME, Damaged, FeatureStore, whole

MOST = 100
"""How many times shorter a file may be than its head says: of a shorter one nothing is left."""


def mend(folder: str | Path) -> tuple[int, int]:
    """Rewrite a store, also one that was cut off, with its undamaged entries. No other process may
    use it meanwhile.

    Returns:
        The number of entries kept, and of damaged ones as far as their pages can be read.

    Raises:
        VLMIGError: it cannot be written, or nothing of it can be read.
    """
    path = Path(folder) / NAME
    try:
        _lengthen(path)
        return _rewrite(FeatureStore(folder))
    except Damaged as error:
        raise VLMIGError(
            f"nothing of the feature store {folder} can be read ({error.__cause__}); remove "
            f"{path}, and its images are drawn again"
        ) from error


def _rewrite(store: FeatureStore) -> tuple[int, int]:
    """Write the undamaged entries into a new store, which replaces the old one."""
    folder = store.path.parent / "mending"
    shutil.rmtree(folder, ignore_errors=True)  # an earlier one was killed
    new = FeatureStore(folder)
    intact = damaged = 0
    for row in store.rows():
        if whole(row):
            new.write([row])
            intact += 1
        else:
            damaged += 1
    for each in (new, store):
        each.base.close()
    for suffix in ("-wal", "-shm"):  # the old log must not be replayed over the new file
        Path(f"{store.path}{suffix}").unlink(missing_ok=True)
    new.path.replace(store.path)
    shutil.rmtree(folder)
    return intact, damaged


def _lengthen(path: Path) -> None:
    """Fill up a database that was cut off, so that SQLite reads its first part.

    The head tells the size of a page at byte 16 and the number of pages at byte 28
    (https://sqlite.org/fileformat.html).
    """
    if not path.is_file():
        return
    with path.open("rb+") as file:
        head = file.read(32)
        if head.startswith(b"SQLite format 3") and len(head) == 32:
            size = int.from_bytes(head[16:18], "big") * int.from_bytes(head[28:32], "big")
            length = path.stat().st_size
            if length < size < MOST * length:
                file.truncate(size)
