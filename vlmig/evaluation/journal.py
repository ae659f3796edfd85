"""What has been measured, item by item, so that a stopped run goes on and several processes share one.

Every process appends to a file of its own, ``OUT/journal/*.jsonl``, a line per item; all of them read all files. A line cut off by a
kill is no line. The key names everything that decides a measurement, so that another model or setting never meets old lines.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from vlmig.errors import VLMIGError
from vlmig.predictor import VLMIG

POLL = 0.2
"""Seconds between looks at what other processes have done."""


class Journal:
    """Measurements by key.

    Args:
        folder: where the files lie.

    Raises:
        VLMIGError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, dict[str, Any]] = {}
        self._read: dict[Path, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VLMIGError(f"cannot write to {folder}: {error}; choose another --out") from error
        self.own = folder / f"{os.uname().nodename}-{os.getpid()}-{time.time_ns()}.jsonl"
        self.refresh()

    def refresh(self) -> None:
        """Read what was added to any file since the last look."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as lines:
                lines.seek(self._read.get(path, 0))
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            self.known[entry["key"]] = entry["record"]
        except (ValueError, KeyError, TypeError):  # two halves of lines, where a disk was full or a process killed
            return

    def put(self, key: str, record: dict[str, Any]) -> None:
        """Keep a measurement; it is on disk when this returns."""
        line = json.dumps({"key": key, "record": record}) + "\n"
        with self.own.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.known[key] = record

    def wait(self, keys: Iterable[str]) -> None:
        """Wait until other processes have measured all of these."""
        missing = set(keys) - self.known.keys()
        while missing:
            time.sleep(POLL)
            self.refresh()
            missing -= self.known.keys()


def fingerprint(model: VLMIG) -> str:
    """Digest what decides a model's numbers: its settings, every weight, and where its pictures come from."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    digest.update(json.dumps(model.imagination.identity, sort_keys=True).encode())
    for name, tensor in model.model.state_dict().items():
        if tensor.device.type == "meta":  # offloaded
            continue
        content = tensor.reshape(-1).view(torch.uint8)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        if name.startswith("language_model."):  # large: integer sums are exact in any order, and quick on any device
            digest.update(str(content.sum(dtype=torch.int64).item()).encode())
        else:
            digest.update(content.cpu().numpy().tobytes())
    return digest.hexdigest()


def key_of(**parts: Any) -> str:
    """Name a measurement."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
