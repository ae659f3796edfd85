"""The journal of measurements, item by item: a stopped run resumes, and several processes share one
run.

Every process appends to one file, ``OUT/journal/*.jsonl``, a line per item, and reads the files of
all. A line cut off by a kill is ignored. The key covers everything that decides a measurement, so
that another model or setting never finds old lines. Memory holds only the keys and the positions of
their lines, about 180 bytes for each.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError
from vlmig.evaluation.records import Record
from vlmig.io.hashing import content_of, source_of
from vlmig.models.config import COMPONENTS, VLMIGConfig
from vlmig.predict.predictor import VLMIG

POLL = 0.2
"""Seconds between looks at the files of other processes."""
SYNC = 1.0
"""Seconds between calls of fsync, which may take longer than measuring an item."""
SPAN = 2**48
"""More bytes than a file has: an address is the file's number times this, plus the position of the
line."""


class Journal:
    """Measurements by key.

    Args:
        folder: of the files.

    Raises:
        VLMIGError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._addresses: dict[str, int] = {}
        self._files: dict[Path, int] = {}
        self._read: dict[Path, int] = {}
        self._synced = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VLMIGError(f"cannot write to {folder}: {error}; choose another --out") from error
        self.path = folder / f"{os.uname().nodename}-{os.getpid()}-{time.time_ns()}.jsonl"
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._addresses

    def __len__(self) -> int:
        return len(self._addresses)

    def refresh(self) -> None:
        """Read what was added to any file since the last call."""
        for path in sorted(self.folder.glob("*.jsonl")):
            start = self._read.get(path, 0)
            with path.open("rb") as lines:
                lines.seek(start)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    self._take(line, path, start)
                    start += len(line)
            self._read[path] = start

    def _take(self, line: bytes, path: Path, start: int) -> None:
        try:
            entry = json.loads(line)
            if isinstance(entry["record"], dict):
                self._remember(str(entry["key"]), path, start)
        except (ValueError, KeyError, TypeError):
            return  # two halves of lines, after a full disk or a kill

    def _remember(self, key: str, path: Path, start: int) -> None:
        self._addresses[key] = self._files.setdefault(path, len(self._files)) * SPAN + start

    def put(self, key: str, record: Record) -> None:
        """Write a measurement. A kill cannot lose it; a power cut may lose those of the last
        ``SYNC`` seconds."""
        line = json.dumps({"key": key, "record": record}) + "\n"
        with self.path.open("ab") as file:
            start = file.tell()
            file.write(line.encode())
            file.flush()
            if time.monotonic() - self._synced > SYNC:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        self._remember(key, self.path, start)

    def records(self, keys: Iterable[str]) -> Iterator[Record]:
        """Read measurements from their files, one after another.

        Raises:
            KeyError: a key without a measurement.
        """
        addresses = (divmod(self._addresses[key], SPAN) for key in keys)
        for number, together in groupby(addresses, key=itemgetter(0)):
            with list(self._files)[number].open("rb") as lines:
                for _, start in together:
                    lines.seek(start)
                    yield json.loads(lines.readline())["record"]

    def wait(self, keys: Iterable[str]) -> None:
        """Wait until other processes have measured all of these."""
        missing = [key for key in keys if key not in self]
        while missing:
            time.sleep(POLL)
            self.refresh()
            missing = [key for key in missing if key not in self]


def fingerprint(model: VLMIG) -> str:
    """Hash what decides a model's numbers, by content alone: its settings, every weight, tokenizer,
    encoder and image source. The same checkpoint in another place has the same."""
    config, digest = model.config, hashlib.sha256()
    encoder = source_of(config.locate(config.vision_encoder, model.folder))
    for component in (
        _settings(config),
        _tokenizer(model.tokenizer),
        encoder,
        model.imagination.identity,
    ):
        digest.update(json.dumps(component, sort_keys=True, default=str).encode())
    for name, tensor in model.model.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if tensor.device.type != "meta":
            digest.update(content_of(tensor))
    if any(tensor.device.type == "meta" for tensor in model.model.state_dict().values()):
        # Offloaded weights are read as they were saved.
        source = config.locate(config.language_model, model.folder)
        digest.update(source_of(source, config.language_model_revision).encode())
    return digest.hexdigest()


def _settings(config: VLMIGConfig) -> dict[str, Any]:
    """Return the fields that decide numbers: those of the image source are in its identity, names
    of components in their contents, and how a checkpoint was trained is in its weights."""
    fields = config.to_dict()
    names = VLMIGConfig.__annotations__.keys() - {"training"}
    decisive = {name: fields.get(name) for name in names if not name.startswith(COMPONENTS)}
    return {"transformers": fields.get("transformers_version"), **_without_paths(decisive)}


def _without_paths(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out where configurations, one in another, were loaded from."""
    cleaned = {}
    for name, value in fields.items():
        if name != "_name_or_path":
            cleaned[name] = _without_paths(value) if isinstance(value, dict) else value
    return cleaned


def _tokenizer(tokenizer: Any) -> list[Any]:
    """Return what decides token ids."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if fast is None else json.loads(fast.to_str())
    if fast is not None:  # what the last call asked for
        rules.update(padding=None, truncation=None)
    return [rules, tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None)]


def key_of(**fields: Any) -> str:
    """Name a measurement."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:32]
