"""States of texts by a frozen causal LM, made once before training, like the features of images.

A state depends on nothing that stands behind it. So of a text only what stands before the last
token to predict is read, and texts that are equal so far share their states.
Axes: B rows, T tokens, D LM width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vlmig.training.images import batched
from vlmig.training.texts import IGNORED, Texts

TOKENS = 2048
"""Most tokens that the LM reads at a time."""
ENDING = ".states"


class States:
    """Last hidden states of many texts, float32, in one file.

    Args:
        texts: batches of all texts that will be asked for.
        folder: for the file, whose name tells texts and LM.
        width: D.
        base: what tells the LM.
    """

    def __init__(self, texts: Iterable[Texts], folder: Path, width: int, base: str) -> None:
        unique: dict[bytes, None] = {}
        for some in texts:
            unique |= dict.fromkeys(map(_key, _read_tokens(some)))
        # By length: those read together need no padding.
        keys = sorted(unique, key=lambda key: (len(key), key))
        lengths = [len(key) // 4 for key in keys]
        ends = np.cumsum([0, *lengths])
        self.keys, self.width, self.total = keys, width, int(ends[-1])
        self.first = dict(zip(keys, ends.tolist(), strict=False))
        digest = hashlib.sha256(f"{base} {width} ".encode() + b" ".join(keys)).hexdigest()
        self.path = folder / f"{digest[:16]}{ENDING}"
        self._rows: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file out: a process that loads data opens its own."""
        return {**self.__dict__, "_rows": None}

    def fill(self, read: Callable[[Tensor], Tensor], quiet: bool = False) -> None:
        """Read every text, or those that are missing after a kill.

        Args:
            read: runs the LM over token ids (B, T): states (B, T, D).
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        row_bytes = 4 * self.width
        with self.path.open("ab") as file:
            done = file.tell() // row_bytes
            bar = tqdm(total=self.total, desc="reading texts", unit=" tokens", disable=quiet)
            for ids in self._batches():
                start = self.first[_key(ids[0])]
                if start + ids.numel() > done:
                    file.truncate(start * row_bytes)
                    file.write(read(ids).float().cpu().numpy().tobytes())
                bar.update(ids.numel())
            bar.close()

    def _batches(self) -> Iterator[Tensor]:
        """Yield the texts as token ids, those of one length together."""
        for size, keys in groupby(self.keys, key=len):
            for some in batched(keys, max(1, TOKENS // (size // 4))):
                yield torch.tensor(np.stack([np.frombuffer(key, np.int32) for key in some])).long()

    def attach(self, texts: Texts) -> Texts:
        """Add its states to a batch, cut where no row has more to predict.

        Raises:
            KeyError: a text that was not among those read.
        """
        if self._rows is None:
            self._rows = np.memmap(self.path, np.float32, "r", shape=(self.total, self.width))
        rows = _read_tokens(texts)
        longest = max(map(len, rows))
        states = torch.zeros(len(rows), longest, self.width)
        samples = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, ids in enumerate(rows):
            start = self.first[_key(ids)]
            states[i, : len(ids)] = torch.from_numpy(self._rows[start : start + len(ids)].copy())
            samples[i, : len(ids)] = 1
        return replace(
            texts,
            input_ids=texts.input_ids[:, :longest],
            samples=samples,
            labels=texts.labels[:, :longest],
            states=states,
        )


def _read_tokens(texts: Texts) -> list[Tensor]:
    """Return each row's tokens up to the last that has a token to predict, at least one."""
    columns = torch.arange(1, texts.labels.shape[1] + 1)
    lengths = (columns * (texts.labels != IGNORED)).amax(1).clamp_min(1)
    return [ids[:n] for ids, n in zip(texts.input_ids, lengths.tolist(), strict=True)]


def _key(ids: Tensor) -> bytes:
    return ids.numpy().astype(np.int32).tobytes()
