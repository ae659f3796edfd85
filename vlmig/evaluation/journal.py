"""What has been measured, item by item, so that a stopped run goes on and several processes share one.

Every process appends to a file of its own, ``OUT/journal/*.jsonl``, a line per item; all of them read all files. A line cut off by a
kill is no line. The key names everything that decides a measurement, so that another model or setting never meets old lines.
In memory are only the keys and where their lines begin, about 180 bytes for each.
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
from typing import Any, cast

import torch

from vlmig.errors import VLMIGError
from vlmig.evaluation.records import Record
from vlmig.predict.predictor import VLMIG

POLL = 0.2
"""Seconds between looks at what other processes have done."""
SYNC = 1.0
"""Seconds between waits for the disk, which may take longer than measuring an item."""
SPAN = 2**48
"""More bytes than a file has: a place is the file's number times this, and where the line begins."""


class Journal:
    """Measurements by key.

    Args:
        folder: where the files lie.

    Raises:
        VLMIGError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, int] = {}
        self._files: dict[Path, int] = {}
        self._read: dict[Path, int] = {}
        self._synced = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VLMIGError(f"cannot write to {folder}: {error}; choose another --out") from error
        self.own = folder / f"{os.uname().nodename}-{os.getpid()}-{time.time_ns()}.jsonl"
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def refresh(self) -> None:
        """Find what was added to any file since the last look."""
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
                self._place(str(entry["key"]), path, start)
        except (
            ValueError,
            KeyError,
            TypeError,
        ):  # two halves of lines, where a disk was full or a process killed
            return

    def _place(self, key: str, path: Path, start: int) -> None:
        self._places[key] = self._files.setdefault(path, len(self._files)) * SPAN + start

    def put(self, key: str, record: Record) -> None:
        """Keep a measurement: no kill takes it from now on; a power cut may take those of the last ``SYNC`` seconds."""
        line = json.dumps({"key": key, "record": record}) + "\n"
        with self.own.open("ab") as file:
            start = file.tell()
            file.write(line.encode())
            file.flush()
            if time.monotonic() - self._synced > SYNC:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        self._place(key, self.own, start)

    def records(self, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Read measurements from their files, one after another.

        Raises:
            KeyError: a key without a measurement.
        """
        places = (divmod(self._places[key], SPAN) for key in keys)
        for number, together in groupby(places, key=itemgetter(0)):
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
    """Digest what decides a model's numbers: its settings, every weight, and where its pictures come from."""
    digest = hashlib.sha256(
        json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode()
    )
    digest.update(json.dumps(model.imagination.identity, sort_keys=True).encode())
    for name, tensor in model.model.state_dict().items():
        if tensor.device.type == "meta":  # offloaded
            continue
        content = tensor.reshape(-1).view(torch.uint8)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        if name.startswith(
            "language_model."
        ):  # large: integer sums are exact in any order, and quick on any device
            digest.update(str(content.sum(dtype=torch.int64).item()).encode())
        else:
            digest.update(content.cpu().numpy().tobytes())
    return digest.hexdigest()


def key_of(**parts: Any) -> str:
    """Name a measurement."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
