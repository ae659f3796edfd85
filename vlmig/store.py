"""The store of imagined features: content-addressed, so that nothing is imagined or encoded twice.

One SQLite database (write-ahead log): entries appear whole or not at all, many processes may read and write, a killed one
leaves no trace. The key covers everything that decides the features; the value carries its own checksum.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vlmig.errors import VLMIGError

logger = logging.getLogger(__name__)


@dataclass
class Imagined:
    """One imagined picture and what the encoder saw in it."""

    picture: Image.Image
    patches: Tensor
    """Patch features, (P, C), half precision."""
    pooled: Tensor
    """Unit embedding, (E,)."""


def default_store() -> Path:
    """Return the store's folder: ``VLMIG_STORE``, or ``vlmig`` in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("VLMIG_STORE", cache / "vlmig"))


class FeatureStore:
    """Keep imagined pictures and their features under a folder.

    Raises:
        VLMIGError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "imagined.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.base = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self.base.execute("PRAGMA journal_mode=WAL")
            self.base.execute(
                "CREATE TABLE IF NOT EXISTS imagined (key TEXT PRIMARY KEY, digest TEXT, features BLOB, picture BLOB)"
            )
        except (OSError, sqlite3.Error) as error:
            raise VLMIGError(
                f"cannot write the feature store {folder}: {error}; choose a writable folder with --store or VLMIG_STORE"
            ) from error

    def get(self, key: str) -> Imagined | None:
        """Return an entry, or None when there is none or it is damaged (which is logged, and cured by ``put``)."""
        row = self.base.execute("SELECT digest, features, picture FROM imagined WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        digest, features, picture = row
        try:
            if hashlib.sha256(features + picture).hexdigest() != digest:
                raise ValueError("checksum differs")
            tensors = load(features)
            return Imagined(Image.open(io.BytesIO(picture)).convert("RGB"), tensors["patches"], tensors["pooled"])
        except (ValueError, OSError, SafetensorError) as error:
            logger.warning("entry %s of %s is damaged (%s); it is made again", key[:12], self.path, error)
            return None

    def put(self, key: str, item: Imagined) -> None:
        """Write an entry whole."""
        features = save({"patches": item.patches.contiguous(), "pooled": item.pooled.contiguous()})
        buffer = io.BytesIO()
        item.picture.save(buffer, "PNG")
        picture = buffer.getvalue()
        digest = hashlib.sha256(features + picture).hexdigest()
        self.base.execute("INSERT OR REPLACE INTO imagined VALUES (?, ?, ?, ?)", (key, digest, features, picture))

    def present(self, keys: Sequence[str]) -> set[str]:
        """Say which of the keys have an entry, without reading it."""
        marks = ",".join("?" * len(keys))
        return {key for (key,) in self.base.execute(f"SELECT key FROM imagined WHERE key IN ({marks})", list(keys))}

    def size(self) -> int:
        """Return the bytes of all entries."""
        return int(self.base.execute("SELECT total(length(features) + length(picture)) FROM imagined").fetchone()[0])

    def __len__(self) -> int:
        return int(self.base.execute("SELECT count(*) FROM imagined").fetchone()[0])


def store_key(prompt: str, seed: int, identity: Mapping[str, str | int | float]) -> str:
    """Hash everything that decides an entry: prompt, seed, generator, encoder and their settings."""
    described = json.dumps({"prompt": prompt, "seed": seed, **identity}, sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()
