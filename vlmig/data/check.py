"""Checking training data before hours of training: every record is read and every picture decoded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from torch import Tensor
from tqdm import tqdm

from vlmig.data.curation import Curation, caption_words, curate
from vlmig.data.index import Index, index
from vlmig.data.pairs import BadPicture, Pair, Source
from vlmig.io.hashing import numbers_of
from vlmig.io.rows import Bad

Aligning = Callable[[Source, Sequence[Pair]], "np.ndarray | Tensor"]
"""From pairs of a source to the cosines of picture and caption, (n,); NaN where there is nothing to compare."""
EXAMPLES = 3
"""Places named for each reason."""
LISTED = 500
"""Bad records that a page lists."""
PORTION = 256
"""Pictures that wait for the threads at a time, so that memory stays flat."""


@dataclass
class Findings:
    """What a check found in one source."""

    index: Index
    pictures: int
    """Distinct pictures that could be opened."""
    groups: int
    sizes: np.ndarray
    """Width and height of each of them, (pictures, 2)."""
    words: np.ndarray
    """Words of each pair's caption, (pairs,)."""
    good: np.ndarray
    """Rows whose pictures can all be read, or that have none, ascending."""
    bad: dict[str, int]
    """Bad records by reason: those of the index and those whose picture or box is bad."""
    examples: dict[str, list[str]]
    """Places of the first bad or left out records by reason."""
    listed: list[Bad]
    """The first of them all."""
    duplicates: int
    rules: dict[str, int]
    """What each rule of curation would drop."""
    kept: int
    """Pairs left by all of them."""
    alignment: np.ndarray
    """Cosines of pictures and captions where a rule asks for them, (n,)."""

    @property
    def share(self) -> float:
        """Part of the records that are bad."""
        return sum(self.bad.values()) / max(1, self.index.records)


def check(
    source: Source,
    folder: Path,
    rules: Curation,
    limit: int | None = None,
    alignment: Aligning | None = None,
) -> Findings:
    """Read all of a source.

    Args:
        folder: where its index is written.
        rules: curation whose effect is told.
        limit: read only so many records.
        alignment: compares pictures with captions, for ``min_alignment``.

    Raises:
        VLMIGError: the source as a whole cannot be read.
    """
    pairs = index(source, folder, limit)
    sizes, faults = _open_all(pairs)
    bad, examples, listed = Counter(pairs.bad), dict[str, list[str]](), list[Bad]()
    for fault in pairs.faults():
        _note(fault, examples, listed)
    for fault in faults.values():
        bad[fault.reason] += 1
        _note(fault, examples, listed)
    good = np.setdiff1d(np.arange(len(pairs)), np.fromiter(faults, np.int64), assume_unique=True)
    groups = pairs.column("group")
    cosines: list[np.ndarray] = []

    def compare(those: Sequence[Pair]) -> np.ndarray:
        cosines.append(np.asarray(alignment(source, those)))  # type: ignore[misc]
        return cosines[-1]

    kept, dropped = curate(pairs, rules, compare if alignment is not None else None)
    aligned = np.concatenate([np.empty(0), *cosines])
    return Findings(
        index=pairs,
        pictures=len(sizes),
        groups=pc.count_distinct(groups.filter(pc.not_equal(groups, ""))).as_py(),
        sizes=sizes,
        words=caption_words(pairs),
        good=good,
        bad=dict(bad.most_common()),
        examples=examples,
        listed=listed,
        duplicates=curate(pairs, Curation(duplicates=True))[1]["duplicates"],
        rules=dropped,
        kept=len(kept),
        alignment=aligned[~np.isnan(aligned)],
    )


def _open_all(pairs: Index) -> tuple[np.ndarray, dict[int, Bad]]:
    """Decode every distinct picture once.

    Returns:
        Width and height of the good ones, (n, 2), and by row what is wrong with the first of the others, or with a box.
    """
    numbers, rows, turns = _pictures(pairs)
    _, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    sizes = np.zeros((len(first), 2), dtype=np.int32)
    reasons: dict[int, str] = {}
    order = np.lexsort((turns[first], rows[first]))  # as they lie on disk
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(order), desc="opening", unit=" pictures", smoothing=0.1) as bar,
    ):
        for start in range(0, len(order), PORTION):
            part = order[start : start + PORTION]
            found = pool.map(
                lambda one: _open(pairs, int(rows[first[one]]), int(turns[first[one]])), part
            )
            for one, result in zip(part, found, strict=True):
                if isinstance(result, str):
                    reasons[int(one)] = result
                else:
                    sizes[one] = result
            bar.update(len(part))
    broken = np.isin(which, np.fromiter(reasons, np.int64))
    faults: dict[int, Bad] = {}
    for one in np.flatnonzero(broken):  # a row's first picture comes before its others
        row, turn = int(rows[one]), int(turns[one])
        if row not in faults:
            faults[row] = Bad(_place(pairs[row], turn), reasons[int(which[one])])
    for row in map(int, _outside(pairs, sizes[which[: len(pairs)]])):
        if row not in faults:
            faults[row] = Bad(_place(pairs[row]), "box outside the picture")
    return sizes[sizes[:, 0] > 0], dict(sorted(faults.items()))


def _pictures(pairs: Index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the first picture of every row, then all others.

    Returns:
        Their names as numbers, uint64, their rows, and which of a row's pictures each is, from 0: all (n,).
    """
    numbers, rows, turns = (
        [_numbers(pairs, "picture")],
        [np.arange(len(pairs))],
        [np.zeros(len(pairs), np.int64)],
    )
    start = 0
    for batch in pairs.table.to_batches():
        lengths = pc.list_value_length(batch["more"]).to_numpy(zero_copy_only=False)
        if lengths.any():
            numbers.append(numbers_of(batch["more"].flatten().to_pylist()))
            rows.append(start + np.repeat(np.arange(len(batch)), lengths))
            begins = np.repeat(np.cumsum(lengths) - lengths, lengths)
            turns.append(1 + np.arange(len(begins)) - begins)
        start += len(batch)
    return np.concatenate(numbers), np.concatenate(rows), np.concatenate(turns)


def _open(pairs: Index, row: int, turn: int) -> tuple[int, int] | str:
    """Return the size of one of a row's whole pictures, nothing where it has none, or what is wrong with it."""
    pictures = pairs[row].pictures()
    try:
        return pairs.source.open(replace(pictures[turn], box=None)).size if pictures else (0, 0)
    except BadPicture as reason:
        return str(reason)


def _outside(pairs: Index, sizes: np.ndarray) -> Iterator[int]:
    """Yield the rows whose box lies outside the picture as it is; sizes are (rows, 2), 0 where they are not known."""
    start = 0
    for batch in pairs.table.to_batches():
        rows = np.flatnonzero(batch["box"].is_valid().to_numpy(zero_copy_only=False)) + start
        corners = batch["box"].flatten().to_numpy().reshape(-1, 4)[:, :2]
        yield from rows[((corners >= sizes[rows]) & (sizes[rows] > 0)).any(axis=1)]
        start += len(batch)


def _numbers(pairs: Index, name: str) -> np.ndarray:
    """Number a column's texts, uint64 (rows,)."""
    parts = [numbers_of(batch[name].to_pylist()) for batch in pairs.table.to_batches()]
    return np.concatenate([np.empty(0, np.uint64), *parts])


def _note(fault: Bad, examples: dict[str, list[str]], listed: list[Bad]) -> None:
    places = examples.setdefault(fault.reason, [])
    if len(places) < EXAMPLES:
        places.append(fault.place)
    if len(listed) < LISTED:
        listed.append(fault)


def _place(pair: Pair, turn: int = 0) -> str:
    return f'{(pair.picture, *pair.more)[turn]} "{pair.caption[:40]}"'


def summary(found: Findings) -> list[tuple[str, str, str]]:
    """Write findings down as rows of a table: what, how much, and a remark."""
    pairs = found.index
    rows = [("records", str(pairs.records), ""), ("pairs", str(len(pairs)), "")]
    rows += [("pictures", str(found.pictures), ""), ("groups", str(found.groups), "")]
    rows += [("bad", str(sum(found.bad.values())), f"{100 * found.share:.2g} % of the records")]
    rows += [
        (f"  {reason}", str(n), "; ".join(found.examples[reason]))
        for reason, n in found.bad.items()
    ]
    rows += [("left out", str(sum(pairs.dropped.values())), "")]
    rows += [
        (f"  {reason}", str(n), "; ".join(found.examples[reason]))
        for reason, n in pairs.dropped.items()
    ]
    rows += [("clamped boxes", str(pairs.clamped), ""), ("duplicates", str(found.duplicates), "")]
    rows += [("caption words", _spread(found.words), "fewest / median / most")]
    rows += [
        (f"picture {name}", _spread(found.sizes[:, i]), "pixels")
        for i, name in enumerate(("width", "height"))
    ]
    rows += [("alignment", _spread(found.alignment.round(3)), "lowest / median / highest cosine")][
        : len(found.alignment)
    ]
    rows += [(f"curation: {rule}", str(n), "would be dropped") for rule, n in found.rules.items()]
    return rows + ([("curation", str(found.kept), "would be left")] if found.rules else [])


def _spread(values: np.ndarray) -> str:
    return f"{values.min()} / {np.median(values):g} / {values.max()}" if len(values) else "-"
