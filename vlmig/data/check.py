"""Check training data before hours of training: read every record and decode every image."""

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
from vlmig.data.index import Index, index, percent
from vlmig.data.pairs import Pair, Source
from vlmig.io.hashing import numbers_of
from vlmig.io.rows import Bad
from vlmig.vision.files import BadImage

Aligning = Callable[[Source, Sequence[Pair]], "np.ndarray | Tensor"]
"""From pairs of a source to the CLIP similarity of image and caption, (n,); NaN without an
image."""
EXAMPLES = 3
"""Records named for each reason."""
LISTED = 500
"""Bad records that a page lists."""
PORTION = 256
"""Images queued for the threads at a time, so that memory stays flat."""


@dataclass
class Findings:
    """The result of checking one source."""

    index: Index
    images: int
    """Distinct images that could be opened."""
    groups: int
    sizes: np.ndarray
    """Width and height of each of them, (images, 2)."""
    words: np.ndarray
    """Words of each pair's caption, (pairs,)."""
    good: np.ndarray
    """Rows whose images can all be read, or that have none, ascending."""
    bad: dict[str, int]
    """Bad records by reason: those of the index and those whose image or box is bad."""
    examples: dict[str, list[str]]
    """Where the first bad or left out records are, by reason."""
    listed: list[Bad]
    """The first bad or left out records."""
    duplicates: int
    rules: dict[str, int]
    """What each rule of curation would drop."""
    kept: int
    """Pairs that all rules together keep."""
    alignment: np.ndarray
    """CLIP similarities if a rule needs them, (n,)."""

    @property
    def share(self) -> float:
        """Share of the records that are bad."""
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
        rules: curation whose effect is reported.
        limit: read only so many records.
        alignment: compares images with captions, for ``min_alignment``.

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

    rows, dropped = curate(pairs, rules, compare if alignment is not None else None)
    aligned = np.concatenate([np.empty(0), *cosines])
    return Findings(
        index=pairs,
        images=len(sizes),
        groups=pc.count_distinct(groups.filter(pc.not_equal(groups, ""))).as_py(),
        sizes=sizes,
        words=caption_words(pairs),
        good=good,
        bad=dict(bad.most_common()),
        examples=examples,
        listed=listed,
        duplicates=curate(pairs, Curation(duplicates=True))[1]["duplicates"],
        rules=dropped,
        kept=len(rows),
        alignment=aligned[~np.isnan(aligned)],
    )


def _open_all(pairs: Index) -> tuple[np.ndarray, dict[int, Bad]]:
    """Decode every distinct image once.

    Returns:
        Width and height of the good ones, (n, 2), and by row the first fault of an image, or of a
        box.
    """
    numbers, rows, turns = _images(pairs)
    _, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    sizes = np.zeros((len(first), 2), dtype=np.int32)
    reasons: dict[int, str] = {}
    order = np.lexsort((turns[first], rows[first]))  # the order on disk

    def size_or_fault(number: int) -> tuple[int, int] | str:
        return _open(pairs, int(rows[first[number]]), int(turns[first[number]]))

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(order), desc="opening", unit=" images", smoothing=0.1) as bar,
    ):
        for start in range(0, len(order), PORTION):
            portion = order[start : start + PORTION]
            for number, result in zip(portion, pool.map(size_or_fault, portion), strict=True):
                if isinstance(result, str):
                    reasons[int(number)] = result
                else:
                    sizes[number] = result
            bar.update(len(portion))
    broken = np.isin(which, np.fromiter(reasons, np.int64))
    faults: dict[int, Bad] = {}
    for i in np.flatnonzero(broken):  # a row's first image comes before its others
        row, turn = int(rows[i]), int(turns[i])
        faults.setdefault(row, Bad(_location(pairs[row], turn), reasons[int(which[i])]))
    for row in map(int, _outside(pairs, sizes[which[: len(pairs)]])):
        faults.setdefault(row, Bad(_location(pairs[row]), "box outside the image"))
    return sizes[sizes[:, 0] > 0], dict(sorted(faults.items()))


def _images(pairs: Index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the first image of every row, then all others.

    Returns:
        Hashes of their names, uint64, their rows, and their positions in the row, from 0: all (n,).
    """
    numbers = [pairs.hashed(lambda batch: batch["picture"].to_pylist())]
    rows, turns = [np.arange(len(pairs))], [np.zeros(len(pairs), np.int64)]
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
    """Return the size of one of a row's images, (0, 0) where it has none, or what is wrong with
    it."""
    images = pairs[row].images()
    try:
        return pairs.source.open(replace(images[turn], box=None)).size if images else (0, 0)
    except BadImage as reason:
        return str(reason)


def _outside(pairs: Index, sizes: np.ndarray) -> Iterator[int]:
    """Yield the rows whose box lies outside the image; sizes are (rows, 2), 0 where unknown."""
    start = 0
    for batch in pairs.table.to_batches():
        rows = np.flatnonzero(batch["box"].is_valid().to_numpy(zero_copy_only=False)) + start
        corners = batch["box"].flatten().to_numpy().reshape(-1, 4)[:, :2]
        yield from rows[((corners >= sizes[rows]) & (sizes[rows] > 0)).any(axis=1)]
        start += len(batch)


def _note(fault: Bad, examples: dict[str, list[str]], listed: list[Bad]) -> None:
    locations = examples.setdefault(fault.reason, [])
    if len(locations) < EXAMPLES:
        locations.append(fault.place)
    if len(listed) < LISTED:
        listed.append(fault)


def _location(pair: Pair, turn: int = 0) -> str:
    return f'{(pair.picture, *pair.more)[turn]} "{pair.caption[:40]}"'


def summary(findings: Findings) -> list[tuple[str, str, str]]:
    """Return findings as rows of a table: what, how much, and a remark."""
    pairs = findings.index
    bad = sum(findings.bad.values())
    rows = [
        ("records", str(pairs.records), ""),
        ("pairs", str(len(pairs)), ""),
        ("images", str(findings.images), ""),
        ("groups", str(findings.groups), ""),
        ("bad", str(bad), f"{percent(findings.share)} % of the records"),
        *_by_reason(findings.bad, findings.examples),
        ("left out", str(sum(pairs.dropped.values())), ""),
        *_by_reason(pairs.dropped, findings.examples),
        ("mended", str(sum(pairs.mended.values())), "; ".join(pairs.mended)),
        ("clamped boxes", str(pairs.clamped), ""),
        ("duplicates", str(findings.duplicates), ""),
        ("caption words", _spread(findings.words), "fewest / median / most"),
        ("image width", _spread(findings.sizes[:, 0]), "pixels"),
        ("image height", _spread(findings.sizes[:, 1]), "pixels"),
    ]
    if len(findings.alignment):
        similarities = _spread(findings.alignment.round(3))
        rows.append(("alignment", similarities, "lowest / median / highest cosine"))
    for rule, number in findings.rules.items():
        rows.append((f"curation: {rule}", str(number), "would be dropped"))
    if findings.rules:
        rows.append(("curation", str(findings.kept), "would be left"))
    return rows


def _by_reason(
    counts: dict[str, int], examples: dict[str, list[str]]
) -> Iterator[tuple[str, str, str]]:
    for reason, number in counts.items():
        yield f"  {reason}", str(number), "; ".join(examples[reason])


def _spread(values: np.ndarray) -> str:
    return f"{values.min()} / {np.median(values):g} / {values.max()}" if len(values) else "-"
