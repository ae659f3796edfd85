"""The pairs of a source on disk: any of millions is read at once, and memory stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from vlmig.data.pairs import Pair, Source
from vlmig.errors import VLMIGError
from vlmig.io.atomic import write_json
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
    """What ``index`` wrote: pairs by row, and what was wrong with the other records.

    Args:
        folder: where it lies.
        source: what it was made from, which opens the pictures.

    Raises:
        VLMIGError: it was made from another source, or is damaged.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder, self.source = folder, source
        try:
            found = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
            with pa.memory_map(str(folder / PAIRS)) as file:
                self.table: pa.Table = pa.ipc.open_file(file).read_all()
            self.records: int = found["records"]
            self.bad: dict[str, int] = found["bad"]
            self.dropped: dict[str, int] = found["dropped"]
            self.clamped: int = found["clamped"]
            made_from, self.limit = found["source"], found["limit"]
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise VLMIGError(
                f"no whole index in {folder} ({error}); remove the folder, and it is made again"
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
        columns, place = (
            self._batches[row // BATCH],
            row % BATCH,
        )  # all batches but the last are full
        caption, picture, box, *others, more, learnt = (column[place].as_py() for column in columns)
        values = [
            caption,
            picture,
            tuple(box) if box else None,
            *others,
            tuple(more),
            tuple(map(tuple, learnt)),
        ]
        return Pair(*values)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a field of all pairs, for work on whole columns."""
        return self.table[name]

    @property
    def counts(self) -> dict[str, int]:
        """How many records and pairs there are, clamped boxes among them, and records for each reason against them."""
        counts = {"records": self.records, "pairs": len(self), "clamped": self.clamped}
        return {**counts, **self.dropped, **self.bad}

    def faults(self) -> Iterator[Bad]:
        """Yield the records that are no pairs, in their order."""
        with (self.folder / BAD).open(encoding="utf-8") as lines:
            for line in lines:
                yield Bad(**json.loads(line))


def index(source: Source, folder: Path, limit: int | None = None) -> Index:
    """Write a source's pairs to a folder, or open them where that was done before.

    The folder appears whole or not at all. Whoever names it, names it after everything the pairs depend on.

    Args:
        limit: read only so many records.

    Raises:
        VLMIGError: the source cannot be read; the folder is damaged, another source's, or of another limit.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise VLMIGError(
            f"limit {limit!r} of {source.name}; expected a number of records from 1; correct it"
        )
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.part")
        part.mkdir()
        try:
            _write(source, part, limit)
            try:
                os.rename(part, folder)
            except OSError:  # another process was faster; its folder says the same
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    found = Index(folder, source)
    if found.limit != limit:
        raise VLMIGError(
            f"{folder} was made with the limit {found.limit}, expected {limit}; name another folder"
        )
    return found


def _write(source: Source, folder: Path, limit: int | None) -> None:
    bad: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
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
            waiting.append(record)
            if len(waiting) == BATCH:
                pairs.write_batch(_batch(waiting))
                waiting = []
        pairs.write_batch(_batch(waiting))
    counts = {"source": source.name, "limit": limit, "records": records, "clamped": clamped}
    write_json(
        folder / COUNTS,
        {**counts, "bad": dict(bad.most_common()), "dropped": dict(dropped.most_common())},
    )


def _batch(pairs: Iterable[Pair]) -> pa.RecordBatch:
    columns: list[tuple[Any, ...]] = list(
        zip(*(vars(pair).values() for pair in pairs), strict=True)
    )
    columns = columns or [()] * len(SCHEMA)
    return pa.record_batch(
        [pa.array(own, field.type) for own, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def check_share(
    bad: Mapping[str, int], total: int, limit: float, where: str, listed: Path | None = None
) -> None:
    """Insist that few records are bad.

    Args:
        bad: how many records there are for each reason.
        total: how many records there are.
        limit: largest share of bad ones.
        where: whose records.
        listed: file that lists the bad ones.

    Raises:
        VLMIGError: there are more.
    """
    count = sum(bad.values())
    if count > limit * total:
        reasons = ", ".join(
            f"{n} {reason}" for reason, n in sorted(bad.items(), key=lambda item: -item[1])
        )
        mend = f"mend them (listed in {listed})" if listed else "mend them"
        raise VLMIGError(
            f"{count} of {total} records of {where} are bad ({100 * count / total:.2g} %): {reasons}; at most {100 * limit:.2g} % are skipped; {mend} or raise max_bad"
        )
