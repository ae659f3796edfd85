"""The pairs of a source on disk: any of millions is read directly, and memory stays flat."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from vlmig.data.pairs import Pair, Source
from vlmig.errors import VLMIGError
from vlmig.io.atomic import write_json
from vlmig.io.hashing import numbers_of
from vlmig.io.rows import Bad

BATCH = 16_384
"""Rows written together."""
SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("picture", pa.string()),
        ("box", pa.list_(pa.int32(), 4)),
        ("prompt", pa.string()),
        ("group", pa.string()),
        ("version", pa.string()),
        ("clamped", pa.bool_()),
        ("more", pa.list_(pa.string())),
        ("learnt", pa.list_(pa.list_(pa.int32(), 2))),
    ]
)
"""The fields of a pair, in their order."""
PAIRS, BAD, COUNTS = "pairs.arrow", "bad.jsonl", "counts.json"


class Index:
    """The index that ``index`` wrote: pairs by row, and the faults of the other records.

    Args:
        folder: the index's folder.
        source: the source it was made from, which opens the images.

    Raises:
        VLMIGError: it was made from another source, or is damaged.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder, self.source = folder, source
        try:
            counts = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
            with pa.memory_map(str(folder / PAIRS)) as file:
                self.table: pa.Table = pa.ipc.open_file(file).read_all()
            self.records: int = counts["records"]
            self.bad: dict[str, int] = counts["bad"]
            self.dropped: dict[str, int] = counts["dropped"]
            self.clamped: int = counts["clamped"]
            self.mended: dict[str, int] = counts.get("mended", {})
            made_from, self.limit = counts["source"], counts["limit"]
            self.state: str = counts.get("state", "")
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise VLMIGError(
                f"no complete index in {folder} ({error}); remove the folder, and it is made again"
            ) from None
        if made_from != source.name:
            raise VLMIGError(
                f"{folder} is the index of {made_from}, expected {source.name}; name another folder"
            )
        self._batches = [batch.columns for batch in self.table.to_batches()]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Pair:
        """Return the pair of a row, from 0.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        columns = self._batches[row // BATCH]  # all batches but the last are full
        fields = {}
        for name, column in zip(SCHEMA.names, columns, strict=True):
            fields[name] = column[row % BATCH].as_py()
        fields["box"] = tuple(fields["box"]) if fields["box"] else None
        fields["more"] = tuple(fields["more"])
        fields["learnt"] = tuple(map(tuple, fields["learnt"]))
        return Pair(**fields)

    def hashed(self, texts: Callable[[pa.RecordBatch], Iterable[str]], seed: int = 0) -> np.ndarray:
        """Hash a text of every pair, uint64 (rows,).

        Args:
            texts: makes the texts of a batch of rows.
        """
        hashes = [np.empty(0, np.uint64)]
        for batch in self.table.to_batches():
            hashes.append(numbers_of(texts(batch), seed))
        return np.concatenate(hashes)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a field of all pairs, for work on whole columns."""
        return self.table[name]

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of records, pairs and clamped boxes, and of bad or dropped records by reason."""
        counts = {"records": self.records, "pairs": len(self), "clamped": self.clamped}
        return {**counts, **self.mended, **self.dropped, **self.bad}

    def faults(self) -> Iterator[Bad]:
        """Yield the bad and dropped records, in their order."""
        with (self.folder / BAD).open(encoding="utf-8") as lines:
            for line in lines:
                yield Bad(**json.loads(line))


def index(source: Source, folder: Path, limit: int | None = None, state: str = "") -> Index:
    """Write a source's pairs to a folder, or open the folder if it exists.

    It appears only when it is complete. Its name should depend on everything that the pairs depend
    on.

    Args:
        limit: read only so many records.
        state: of the source's files (``vlmig.io.shards.state_of``), which a later run must find
            unchanged; empty where it does not matter.

    Raises:
        VLMIGError: the source cannot be read, or changed since; the folder is damaged, another
            source's, or of another limit.
    """
    check_limit(limit, source.name)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.part")
        partial.mkdir()
        try:
            _write(source, partial, limit, state)
            try:
                os.rename(partial, folder)
            except OSError:  # another process was faster; its folder has the same content
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    pairs = Index(folder, source)
    if pairs.limit != limit:
        raise VLMIGError(
            f"{folder} was made with the limit {pairs.limit}, expected {limit}; name another folder"
        )
    if state and pairs.state and state != pairs.state:
        raise VLMIGError(
            f"the files of {source.name} changed since {folder} was made of them; restore them, or "
            "begin anew in another folder"
        )
    return pairs


def check_limit(limit: Any, name: str) -> None:
    """Insist on a number of records, or None for all.

    Raises:
        VLMIGError: it is something else; ``name`` says whose it is.
    """
    is_whole = isinstance(limit, int) and not isinstance(limit, bool)
    if limit is not None and not (is_whole and limit >= 1):
        raise VLMIGError(
            f"limit {limit!r} of {name}; expected a number of records from 1; correct it"
        )


def _write(source: Source, folder: Path, limit: int | None, state: str) -> None:
    bad: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    mended: Counter[str] = Counter()
    records = clamped = 0
    waiting: list[Pair] = []
    bar = tqdm(
        islice(source.pairs(), limit), f"indexing {source.name}", unit=" records", smoothing=0.1
    )
    with (
        pa.OSFile(str(folder / PAIRS), "wb") as file,
        pa.ipc.new_file(file, SCHEMA) as pairs,
        (folder / BAD).open("w", encoding="utf-8") as faults,
    ):
        for record in bar:
            records += 1
            if isinstance(record, Bad):
                (dropped if record.dropped else bad)[record.reason] += 1
                faults.write(json.dumps(vars(record)) + "\n")
                continue
            clamped += record.clamped
            if record.mended:
                mended[record.mended] += 1
            waiting.append(record)
            if len(waiting) == BATCH:
                pairs.write_batch(_batch(waiting))
                waiting = []
        pairs.write_batch(_batch(waiting))
    counts = {"source": source.name, "limit": limit, "records": records, "clamped": clamped}
    reasons = {"bad": bad, "dropped": dropped, "mended": mended}
    tallies = {name: dict(counter.most_common()) for name, counter in reasons.items()}
    write_json(folder / COUNTS, {**counts, **tallies, "state": state})


def _batch(pairs: Sequence[Pair]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([vars(pair) for pair in pairs], schema=SCHEMA)


def check_share(
    bad: Mapping[str, int], total: int, limit: float, where: str, listed: Path | None = None
) -> None:
    """Insist that few records are bad.

    Args:
        bad: number of bad records by reason.
        total: number of records.
        limit: largest share of bad ones.
        where: the source, for the error.
        listed: file that lists the bad ones.

    Raises:
        VLMIGError: there are more.
    """
    count = sum(bad.values())
    if count > limit * total:
        most_first = sorted(bad.items(), key=lambda item: -item[1])
        reasons = ", ".join(f"{number} {reason}" for reason, number in most_first)
        mend = f"mend them (listed in {listed})" if listed else "mend them"
        raise VLMIGError(
            f"{count} of {total} records of {where} are bad ({percent(count / total)} %): "
            f"{reasons}; at most {percent(limit)} % are skipped; {mend} or raise max_bad"
        )


def check_read(read: Index) -> None:
    """Insist that something was read.

    Raises:
        VLMIGError: there are no records, or all were left out.
    """
    if len(read):
        return
    name = read.source.name
    if not read.records:
        raise VLMIGError(
            f"{name} holds no records; expected some of its form; correct the path, or name its "
            "source"
        )
    reasons = ", ".join(f"{count} {why}" for why, count in {**read.dropped, **read.bad}.items())
    raise VLMIGError(
        f"no record of {name} can be used: {reasons}; expected pairs to learn from; correct the "
        "path or the source's options"
    )


def percent(share: float) -> str:
    """Write a share with two digits."""
    return f"{100 * share:.2g}" if share < 0.995 else f"{100 * share:.0f}"
