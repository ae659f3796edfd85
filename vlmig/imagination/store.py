"""The store of imagined features: content-addressed, so that nothing is imagined or encoded twice.

It is one SQLite database with a write-ahead log. An entry is written whole or not at all, and
many processes of a machine may read and write. The key of an entry covers everything that decides
its features, and its checksum covers everything in it. The store is one folder, which can be
copied, or merged into another store.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.io.places import cache_folder

logger = logging.getLogger(__name__)
FORMAT, NAME = 2, "imagined.sqlite"
TABLES = f"""
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, prompt TEXT, seed INTEGER, identity TEXT, redraws INTEGER, digest TEXT,
    features BLOB, picture BLOB
);
CREATE TABLE IF NOT EXISTS uses (key TEXT PRIMARY KEY, bytes INTEGER, used REAL);
CREATE INDEX IF NOT EXISTS by_use ON uses (used);
PRAGMA user_version = {FORMAT};
COMMIT;
"""
# The time of last use changes, so it has its own table, which the checksum does not cover.
COLUMNS = "key, prompt, seed, identity, redraws, digest, features, picture"
MERGED = 64
"""Entries of another store that are imported in one transaction."""
Key = TypeVar("Key")
Row = tuple[Any, ...]
"""The columns of an entry, in this order."""
DAMAGE: tuple[type[Exception], ...] = (ValueError, TypeError, KeyError, AttributeError, OSError)
DAMAGE += (SafetensorError, sqlite3.DatabaseError)
"""Errors that a damaged entry can cause."""


@dataclass
class Imagined:
    """An imagined image and its features."""

    image: Image.Image | None
    """None where the source gives embeddings, or the store holds no images."""
    patches: Tensor
    """Patch features, (P, C), half precision."""
    pooled: Tensor
    """Unit embedding, (E,)."""
    redraws: int = 0
    """How often it was drawn again because it was faulty; -1 if it stayed faulty."""


@dataclass(frozen=True)
class Address:
    """Everything that decides an entry."""

    prompt: str
    seed: int
    identity: str
    """Image source, encoder and their settings; see ``describe``."""

    @cached_property
    def key(self) -> str:
        """The entry's key."""
        described = json.dumps([self.prompt, self.seed, self.identity])
        return hashlib.sha256(described.encode()).hexdigest()


def describe(identity: Mapping[str, Any]) -> str:
    """Write an identity as text, the same for equal identities."""
    return json.dumps(identity, sort_keys=True)


def default_store() -> Path:
    """Return the store's folder: ``VLMIG_STORE``, or ``vlmig`` in the user's cache folder."""
    return Path(os.environ.get("VLMIG_STORE", cache_folder()))


class Damaged(VLMIGError):
    """The database of a store is damaged."""


class FeatureStore:
    """Store imagined images and their features in a folder; in ``default_store`` when None.

    Args:
        limit: greatest size of all entries in bytes; beyond it, those used longest ago are
            evicted. None: no limit.
        images: whether to store the images with their features.

    Raises:
        VLMIGError: the folder cannot be written, or contains a store of another format.
    """

    def __init__(
        self, folder: str | Path | None = None, limit: int | None = None, images: bool = True
    ) -> None:
        self.path = Path(folder or default_store()) / NAME
        self.limit, self.images = limit, images
        self.open()

    def open(self) -> None:
        """Connect; a forked process has to connect again."""
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.base = sqlite3.connect(self.path, timeout=120, isolation_level=None)
            # Damaged text fails the checksum.
            self.base.text_factory = partial(bytes.decode, errors="replace")
            self.base.execute("PRAGMA busy_timeout = 120000")
            # Tables and version appear at once, so the version is read second.
            (tables,) = self.base.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (version,) = self.base.execute("PRAGMA user_version").fetchone()
            if tables and version != FORMAT:
                raise VLMIGError(
                    f"the feature store {self.path.parent} has format {version or 1}, this version "
                    f"has {FORMAT}; choose another folder with --store or VLMIG_STORE, or remove "
                    "that one"
                )
            if not tables:
                self.base.executescript(TABLES)
            self.base.execute("PRAGMA synchronous = NORMAL")  # only a power cut can lose entries

    def get(self, key: str, image: bool = True) -> Imagined | None:
        """Return an entry; None if there is none, or a damaged one, which is logged; ``put``
        repairs it.

        Args:
            image: whether to decode the image too, which may take a hundred times as long.
        """
        try:
            query = f"SELECT {COLUMNS} FROM entries WHERE key = ?"
            row = self.base.execute(query, (key,)).fetchone()
            return None if row is None else _unpacked(row, key, image)
        except DAMAGE as error:
            logger.warning("entry %.12s of %s is damaged (%s): made again", key, self.path, error)
            return None

    def find(self, addresses: Mapping[Key, Address]) -> dict[Key, Imagined]:
        """Read the entries that are there, by the caller's names, and record their use."""
        entries: dict[Key, Imagined] = {}
        for name, address in addresses.items():
            if (item := self.get(address.key)) is not None:
                entries[name] = item
        self.touch([addresses[name].key for name in entries])
        return entries

    def put(self, items: Iterable[tuple[Address, Imagined]]) -> None:
        """Write new entries, all or none, and evict the oldest beyond the limit.

        Raises:
            VLMIGError: the database itself is damaged, or the disk is full.
        """
        self.write([packed(address, item, self.images) for address, item in items])

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows of another store that are not here, all or none."""
        with self._writing():
            there = self.present([row[0] for row in rows])
            for row in rows:
                if row[0] in there:
                    if self.get(row[0], image=False) is not None:  # another process was faster
                        continue
                    self._remove(row[0])
                there.add(row[0])
                marks = ", ".join("?" * len(row))
                self.base.execute(f"INSERT INTO entries ({COLUMNS}) VALUES ({marks})", row)
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
        """Evict the entries used longest ago, down to 90 % of the limit."""
        size = self.size()
        if size <= limit:
            return
        oldest = self.base.execute("SELECT key, bytes FROM uses ORDER BY used, rowid").fetchall()
        for key, count in oldest:
            if size <= 0.9 * limit:
                break
            self._remove(key)
            size -= count

    def touch(self, keys: Sequence[str]) -> None:
        """Record that entries were used; does nothing without a limit."""
        if self.limit is not None and keys:
            with self._writing():
                now = [(time.time(), key) for key in keys]
                self.base.executemany("UPDATE uses SET used = ? WHERE key = ?", now)

    def present(self, keys: Sequence[str]) -> set[str]:
        """Return the keys that have an entry, without reading the entries."""
        query = "SELECT key FROM entries WHERE key IN (SELECT value FROM json_each(?))"
        return {key for (key,) in self._read(query, [json.dumps(list(keys))])}

    def _read(self, query: str, parameters: Sequence[str] = ()) -> list[Row]:
        with self._explained():
            return self.base.execute(query, parameters).fetchall()

    def size(self) -> int:
        """Return the size of all entries in bytes."""
        return int(self._read("SELECT total(bytes) FROM uses")[0][0])

    def __len__(self) -> int:
        return int(self._read("SELECT count(*) FROM uses")[0][0])

    def statistics(self) -> list[dict[str, Any]]:
        """Return prompts, entries, bytes, redrawn and faulty images of each identity."""
        query = """SELECT identity, count(DISTINCT prompt), count(*), total(bytes),
                          total(redraws > 0), total(redraws < 0)
                   FROM entries JOIN uses USING (key) GROUP BY identity ORDER BY identity"""
        names = ("prompts", "entries", "bytes", "redrawn", "faulty")
        rows = []
        for identity, *counts in self._read(query):
            rows.append({"identity": identity, **dict(zip(names, map(int, counts), strict=True))})
        return rows

    def merge(self, other: FeatureStore) -> int:
        """Import the undamaged entries of another store that are not here; return their number."""
        imported, rows = 0, other.rows()
        while batch := list(islice(rows, MERGED)):
            there = self.present([row[0] for row in batch if isinstance(row[0], str)])
            new = [row for row in batch if row[0] not in there and whole(row)]
            self.write(new)
            imported += len(new)
        return imported

    def rows(self) -> Iterator[Row]:
        """Yield all rows that can be read; from both ends, if a page in the middle is damaged."""
        yielded = set()
        query = f"SELECT rowid, {COLUMNS} FROM entries ORDER BY rowid"
        for order in ("ASC", "DESC"):
            try:
                for number, *row in self.base.execute(f"{query} {order}"):
                    if number not in yielded:
                        yielded.add(number)
                        yield tuple(row)
                return
            except sqlite3.DatabaseError as error:
                logger.warning("%s is damaged (%s)", self.path, error)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Run a block as one transaction."""
        with self._explained():
            self.base.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self.base.in_transaction:  # SQLite itself ends one on a full disk
                    self.base.execute("ROLLBACK")
                raise
            self.base.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the database's errors into a ``VLMIGError`` that says what to do."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise VLMIGError(
                f"cannot use the feature store {self.path.parent}: {error}; choose a writable "
                "folder with room by --store or VLMIG_STORE"
            ) from error
        except sqlite3.Error as error:
            raise Damaged(
                f"the feature store {self.path.parent} is damaged ({error}); vlmig imagine --mend "
                f"--store {self.path.parent} keeps what can be read"
            ) from error


def packed(address: Address, item: Imagined, images: bool) -> Row:
    """Turn an entry into a row of the store, with its checksum.

    Args:
        images: whether the row has the image.
    """
    features = save({"patches": item.patches.contiguous(), "pooled": item.pooled.contiguous()})
    buffer = io.BytesIO()
    if item.image is not None and images:
        item.image.save(buffer, "PNG", compress_level=1)
    fields = (address.key, address.prompt, address.seed, address.identity, item.redraws)
    return *fields, _digest(*fields, features, buffer.getvalue()), features, buffer.getvalue()


def _unpacked(row: Row, key: str, decode: bool = True) -> Imagined:
    """Turn a row into an entry.

    Raises:
        ValueError: the row was changed, or has another key.
    """
    *fields, digest, features, png = row
    if not fields[0] == key == Address(*fields[1:4]).key:
        raise ValueError("key differs")
    if _digest(*fields, features, png) != digest:
        raise ValueError("checksum differs")
    tensors = load(features)
    image = Image.open(io.BytesIO(png)).convert("RGB") if png and decode else None
    return Imagined(image, tensors["patches"], tensors["pooled"], fields[4])


def whole(row: Row) -> bool:
    """Tell whether a row is undamaged."""
    try:
        return bool(_unpacked(row, row[0]))
    except DAMAGE:
        return False


def _digest(*fields: str | int | bytes) -> str:
    """Hash the values of an entry with their types and lengths."""
    digest = hashlib.sha256()
    for field in fields:
        raw = field if isinstance(field, bytes) else repr(field).encode()
        digest.update(f"{type(field).__name__} {len(raw)} ".encode())
        digest.update(raw)
    return digest.hexdigest()
