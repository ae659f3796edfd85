"""The store of imagined features: content-addressed, so that nothing is imagined or encoded twice.

One SQLite database (write-ahead log): entries appear whole or not at all, many processes of one machine may read and
write, a killed one leaves no trace. The key covers everything that decides the features; an entry carries a checksum over
all that it holds. The store is one folder: copy it, or merge it into another.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vlmig.errors import VLMIGError

logger = logging.getLogger(__name__)
FORMAT = 2
TABLES = f"""
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, prompt TEXT, seed INTEGER, identity TEXT, redraws INTEGER, digest TEXT, features BLOB, picture BLOB
);
CREATE TABLE IF NOT EXISTS uses (key TEXT PRIMARY KEY, bytes INTEGER, used REAL);
CREATE INDEX IF NOT EXISTS by_use ON uses (used);
PRAGMA user_version = {FORMAT};
COMMIT;
"""


# When an entry was used lies beside it: it changes, and is no part of what the checksum guards.
COLUMNS = "key, prompt, seed, identity, redraws, digest, features, picture"
Row = tuple[Any, ...]
"""The columns of an entry, in that order."""
DAMAGE = (ValueError, TypeError, KeyError, AttributeError, OSError, SafetensorError, sqlite3.DatabaseError)
"""What reading a damaged entry can raise."""


@dataclass
class Imagined:
    """One imagined picture and what the encoder saw in it."""

    picture: Image.Image | None
    """None where the imaginer gives embeddings, or the store keeps no pictures."""
    patches: Tensor
    """Patch features, (P, C), half precision."""
    pooled: Tensor
    """Unit embedding, (E,)."""
    redraws: int = 0
    """How often it was drawn again because a guard found it faulty; -1 where it stayed faulty."""


@dataclass(frozen=True)
class Address:
    """Everything that decides an entry."""

    prompt: str
    seed: int
    identity: str
    """Generator, encoder and their settings; see ``describe``."""

    @cached_property
    def key(self) -> str:
        """The entry's key."""
        described = json.dumps([self.prompt, self.seed, self.identity])
        return hashlib.sha256(described.encode()).hexdigest()


def describe(identity: Mapping[str, Any]) -> str:
    """Write an identity down, always alike."""
    return json.dumps(identity, sort_keys=True)


def default_store() -> Path:
    """Return the store's folder: ``VLMIG_STORE``, or ``vlmig`` in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("VLMIG_STORE", cache / "vlmig"))


class FeatureStore:
    """Keep imagined pictures and their features under a folder.

    Args:
        limit: bytes of entries to keep; beyond it those that were used longest ago are left out. None keeps all.
        pictures: whether to keep the pictures beside their features.

    Raises:
        VLMIGError: the folder cannot be written, or holds a store of another format.
    """

    def __init__(self, folder: str | Path, limit: int | None = None, pictures: bool = True) -> None:
        self.path, self.limit, self.pictures = Path(folder) / "imagined.sqlite", limit, pictures
        self.open()

    def open(self) -> None:
        """Connect; a process that was forked needs a connection of its own."""
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.base = sqlite3.connect(self.path, timeout=120, isolation_level=None)
            self.base.text_factory = lambda text: text.decode(errors="replace")  # what is damaged fails the checksum
            self.base.execute("PRAGMA busy_timeout = 120000")
            tables = self.base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            found = self.base.execute("PRAGMA user_version").fetchone()[0]  # second: both appear at once
            if tables and found != FORMAT:
                raise VLMIGError(
                    f"the feature store {self.path.parent} has format {found or 1}, this version has {FORMAT}; choose another "
                    "folder with --store or VLMIG_STORE, or remove that one"
                )
            if not tables:
                self.base.executescript(TABLES)
            self.base.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing; only a power cut may

    def get(self, key: str, picture: bool = True) -> Imagined | None:
        """Return an entry, or None when there is none or it is damaged (which is logged, and cured by ``put``).

        Args:
            picture: whether to decode the picture too, which may take a hundred times as long as the rest.
        """
        try:
            row = self.base.execute(f"SELECT {COLUMNS} FROM entries WHERE key = ?", (key,)).fetchone()
            return None if row is None else _unpacked(row, key, picture)
        except DAMAGE as error:
            logger.warning("entry %s of %s is damaged (%s); it is made again", key[:12], self.path, error)
            return None

    def put(self, items: Iterable[tuple[Address, Imagined]]) -> None:
        """Write entries, all of them or none, and leave out the oldest where there is no room; what is there stays.

        Raises:
            VLMIGError: the database itself is damaged, or the disk is full.
        """
        self._write([_packed(address, item, self.pictures) for address, item in items])

    def _write(self, rows: Sequence[Row]) -> None:
        with self._writing():
            for row in rows:
                if self.get(row[0], picture=False) is not None:  # another process was faster
                    continue
                self._remove(row[0])
                self.base.execute(f"INSERT INTO entries ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
                size = len(row[6]) + len(row[7])
                self.base.execute("INSERT INTO uses VALUES (?, ?, ?)", (row[0], size, time.time()))
            if self.limit is not None:
                self._evict(self.limit)
        if self.limit is not None:
            self.base.execute("PRAGMA incremental_vacuum").fetchall()

    def _remove(self, key: str) -> None:
        self.base.execute("DELETE FROM entries WHERE key = ?", (key,))
        self.base.execute("DELETE FROM uses WHERE key = ?", (key,))

    def _evict(self, limit: int) -> None:
        """Leave out what was used longest ago, and some more, so that this is not done at every writing."""
        size = self.size()
        if size <= limit:
            return
        for key, count in self.base.execute("SELECT key, bytes FROM uses ORDER BY used, rowid").fetchall():
            if size <= 0.9 * limit:
                break
            self._remove(key)
            size -= count

    def touch(self, keys: Sequence[str]) -> None:
        """Note that entries were used; costs nothing where no limit makes it matter."""
        if self.limit is not None and keys:
            with self._writing():
                self.base.executemany("UPDATE uses SET used = ? WHERE key = ?", [(time.time(), key) for key in keys])

    def present(self, keys: Sequence[str]) -> set[str]:
        """Say which of the keys have an entry, without reading it."""
        found: set[str] = set()
        for start in range(0, len(keys), 500):  # SQLite takes a limited number of parameters
            part = list(keys[start : start + 500])
            marks = ",".join("?" * len(part))
            found |= {key for (key,) in self._read(f"SELECT key FROM entries WHERE key IN ({marks})", part)}
        return found

    def _read(self, query: str, parameters: Sequence[str] = ()) -> list[Row]:
        with self._explained():
            return self.base.execute(query, parameters).fetchall()

    def size(self) -> int:
        """Return the bytes of all entries."""
        return int(self._read("SELECT total(bytes) FROM uses")[0][0])

    def __len__(self) -> int:
        return int(self._read("SELECT count(*) FROM uses")[0][0])

    def statistics(self) -> list[dict[str, Any]]:
        """Describe what is stored, a row per identity: prompts, entries, bytes, how many were redrawn or stayed faulty."""
        query = """SELECT identity, count(DISTINCT prompt), count(*), total(bytes), total(redraws > 0), total(redraws < 0)
                   FROM entries JOIN uses USING (key) GROUP BY identity ORDER BY identity"""
        names = ("prompts", "entries", "bytes", "redrawn", "faulty")
        rows = self._read(query)
        return [{"identity": i, **dict(zip(names, map(int, counts), strict=True))} for i, *counts in rows]

    def mend(self) -> tuple[int, int]:
        """Write the store anew with the entries that are whole; no other process may use it meanwhile.

        Returns:
            How many entries were kept, and how many were damaged. Pages that cannot be read at all are not counted.
        """
        folder = self.path.parent / "mending"
        shutil.rmtree(folder, ignore_errors=True)
        new = FeatureStore(folder)
        kept = damaged = 0
        for row in self._rows():
            if whole(row):
                new._write([row])
                kept += 1
            else:
                damaged += 1
        for store in (new, self):
            store.base.close()
        for beside in ("-wal", "-shm"):  # a log of the old file must not be replayed over the new one
            Path(f"{self.path}{beside}").unlink(missing_ok=True)
        new.path.replace(self.path)
        shutil.rmtree(folder)
        self.open()
        return kept, damaged

    def merge(self, other: FeatureStore) -> int:
        """Take over the entries of another store that are whole and not here; return how many."""
        taken = 0
        for row in other._rows():
            if whole(row) and not self.present([row[0]]):
                self._write([row])
                taken += 1
        return taken

    def _rows(self) -> Iterator[Row]:
        """Yield all rows that can be read: from the other end too, where a page in the middle is damaged."""
        seen = set()
        for order in ("ASC", "DESC"):
            try:
                for number, *row in self.base.execute(f"SELECT rowid, {COLUMNS} FROM entries ORDER BY rowid {order}"):
                    if number not in seen:
                        seen.add(number)
                        yield tuple(row)
                return
            except sqlite3.DatabaseError as error:
                logger.warning("%s is damaged (%s)", self.path, error)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Make what is written appear whole or not at all."""
        with self._explained():
            self.base.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.base.execute("ROLLBACK")
                raise
            self.base.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what to do where the database cannot be used."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise VLMIGError(
                f"cannot use the feature store {self.path.parent}: {error}; choose a writable folder with room by --store or "
                "VLMIG_STORE, or mend a damaged store with vlmig imagine --mend"
            ) from error


def _packed(address: Address, item: Imagined, pictures: bool) -> Row:
    """Turn an entry into a row with its checksum."""
    features = save({"patches": item.patches.contiguous(), "pooled": item.pooled.contiguous()})
    buffer = io.BytesIO()
    if item.picture is not None and pictures:
        item.picture.save(buffer, "PNG", compress_level=1)
    parts = (address.key, address.prompt, address.seed, address.identity, item.redraws)
    return *parts, _digest(*parts, features, buffer.getvalue()), features, buffer.getvalue()


def _unpacked(row: Row, key: str, shown: bool = True) -> Imagined:
    """Turn a row into an entry.

    Raises:
        ValueError: the row is not what was written, or lies under another key.
    """
    *parts, digest, features, picture = row
    if parts[0] != key or Address(*parts[1:4]).key != key or _digest(*parts, features, picture) != digest:
        raise ValueError("checksum differs")
    tensors = load(features)
    seen = Image.open(io.BytesIO(picture)).convert("RGB") if picture and shown else None
    return Imagined(seen, tensors["patches"], tensors["pooled"], parts[4])


def whole(row: Row) -> bool:
    """Tell whether a row is what was written."""
    try:
        return bool(_unpacked(row, row[0]))
    except DAMAGE:
        return False


def _digest(*parts: str | int | bytes) -> str:
    """Hash all parts of an entry with their lengths and kinds."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(f"{type(part).__name__} {len(raw)} ".encode())
        digest.update(raw)
    return digest.hexdigest()
