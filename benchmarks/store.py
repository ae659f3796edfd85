"""The store at the size of a study: how large, how fast to open, look up, add to and merge.

python -m benchmarks.store --entries 1000000,10000000 --width 16 --shards 100

Synthetic entries: no image, features of P x C half-precision numbers that repeat one block of noise
(SQLite compresses nothing). Of each size the last entries are added by ``FeatureStore.put``, which
gives the rate of adding; those before by SQL alone, as padding of the same size under random keys,
which are read by nobody. Then the store is opened anew. ``--costs`` prints instead what one entry takes by encoder and dtype, written and
read back, and what a million prompts times ten images come to.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.side_by_side import introduction, machine
from vlmig.imagination.store import Address, FeatureStore, Imagined, describe, packed

IDENTITY = describe({"generator": "noise", "encoder": "none"})
STEP, BATCH, PADDED = 20_000, 240, 100_000
"""Entries of each size that are added as ever, how many at a time, and how much padding at a time."""
LOOKED_UP = 2000
"""Entries that are read at random, and as many keys that are not there."""
ENCODERS = {
    "ViT-B/32": (49, 768, 512),
    "ViT-B/16": (196, 768, 512),
    "ViT-L/14": (256, 1024, 768),
    "SigLIP-B/16, 224 pixels": (196, 768, 768),
    "DINOv2-B/14, 224 pixels": (256, 768, 768),
    "ViT-B/32, pooled": (1, 512, 512),
    "pocket": (64, 192, 128),
}
"""P, C and E of each encoder."""
DTYPES = {"float16": torch.float16, "float8": torch.float8_e4m3fn}
"""Precisions of patch features; the store holds float16 today, and half the bytes are float8's."""


def address(number: int) -> Address:
    """Return the address of a synthetic entry."""
    return Address(f"a thing numbered {number}", number, IDENTITY)


def entries(start: int, end: int, item: Imagined) -> Iterator[tuple[Address, Imagined]]:
    """Yield synthetic entries."""
    for number in range(start, end):
        yield address(number), item


def fill(store: FeatureStore, start: int, end: int, item: Imagined) -> float:
    """Add entries, and return how many a second."""
    begun = time.perf_counter()
    for first in range(start, end, BATCH):
        store.put(entries(first, min(first + BATCH, end), item))
    return (end - start) / (time.perf_counter() - begun)


def resident() -> float:
    """Return this process's resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def pad(store: FeatureStore, count: int, item: Imagined) -> None:
    """Add padding: rows of the same size under random keys."""
    row = packed(address(1), item, False)
    for start in range(0, count, PADDED):
        part = min(PADDED, count - start)
        store.base.execute("BEGIN")
        store.base.execute("CREATE TEMP TABLE IF NOT EXISTS new (key TEXT)")
        store.base.execute("DELETE FROM new")
        store.base.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO new SELECT lower(hex(randomblob(32))) FROM n",
            [part],
        )
        marks = ", ".join("?" * (len(row) - 1))
        store.base.execute(f"INSERT INTO entries SELECT key, {marks} FROM new", row[1:])
        store.base.execute(
            "INSERT INTO uses SELECT key, ?, ? FROM new", [len(row[6]) + len(row[7]), time.time()]
        )
        store.base.execute("COMMIT")


def measure(folder: Path, count: int, known: list[int]) -> dict[str, float]:
    """Open a store anew, and time what is done with it.

    Args:
        known: numbers of the entries that are no padding.
    """
    begun = time.perf_counter()
    store = FeatureStore(folder)
    opened = time.perf_counter() - begun
    numbers = random.Random(0).sample(known, min(LOOKED_UP, len(known)))
    keys = [address(number).key for number in numbers]
    absent = [address(-1 - number).key for number in numbers]
    told = {"entries": count, "GB": store.path.stat().st_size / 1e9, "open, ms": 1000 * opened}
    begun = time.perf_counter()
    assert all(store.get(key) is not None for key in keys)
    told["read, ms"] = 1000 * (time.perf_counter() - begun) / len(keys)
    begun = time.perf_counter()
    assert store.present([*keys, *absent]) == set(keys)
    told["present, ms"] = 1000 * (time.perf_counter() - begun) / (2 * len(keys))
    begun = time.perf_counter()
    assert len(store) == count
    told["count, s"] = time.perf_counter() - begun
    store.base.close()
    return told


def grow(sizes: list[int], item: Imagined, folder: Path) -> list[dict[str, float]]:
    """Fill one store to each size in turn, and measure it there."""
    rows: list[dict[str, float]] = []
    known: list[int] = []
    done = 0
    for size in sizes:
        step = min(STEP, size - done)
        store = FeatureStore(folder)
        pad(store, size - step - done, item)
        rate = fill(store, size - step, size, item)
        store.base.close()
        known += range(size - step, size)
        done = size
        row = measure(folder, size, known) | {"added per s": rate, "MiB": resident()}
        rows.append(row)
        print("  ".join(f"{name} {value:,.4g}" for name, value in row.items()), flush=True)
    return rows


def merge(shards: int, each: int, item: Imagined, folder: Path) -> dict[str, float]:
    """Merge many stores into one, and check that it has everything."""
    for number in range(shards):
        fill(FeatureStore(folder / f"{number}"), number * each, (number + 1) * each, item)
    whole, begun = FeatureStore(folder / "whole"), time.perf_counter()
    imported = sum(whole.merge(FeatureStore(folder / f"{i}")) for i in range(shards))
    spent = time.perf_counter() - begun
    assert imported == len(whole) == shards * each
    begun = time.perf_counter()
    assert not any(whole.merge(FeatureStore(folder / f"{i}")) for i in range(shards))
    again = time.perf_counter() - begun
    told = {"shards": shards, "entries": imported, "per s": imported / spent, "again, s": again}
    print("merged: " + "  ".join(f"{name} {value:,.4g}" for name, value in told.items()))
    return told


def costs(folder: Path) -> list[dict[str, Any]]:
    """Write entries of each encoder and dtype, and print what they take."""
    rows = []
    for name, (patches, width, embedding) in ENCODERS.items():
        for kind, dtype in DTYPES.items():
            features = torch.rand(patches, width).to(dtype)
            item = Imagined(None, features, torch.rand(embedding))
            place = folder / f"{len(rows)}"
            count = max(20, 2**24 // (patches * width))
            rate = fill(FeatureStore(place), 0, count, item)
            store = FeatureStore(place)
            store.base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            each = store.path.stat().st_size / count
            begun = time.perf_counter()
            assert all(store.get(address(number).key) for number in range(count))
            read = count / (time.perf_counter() - begun)
            row = {"encoder": name, "dtype": kind, "kB": each / 1e3, "TB": each * 1e7 / 1e12}
            rows.append(row | {"added per s": rate, "read per s": read})
            print(
                f"| {name} | {kind} | {each / 1e3:.1f} | {each * 1e7 / 1e12:.2f} "
                f"| {rate:,.0f} | {read:,.0f} |"
            )
            shutil.rmtree(place)
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--entries", default="100000,1000000,10000000", help="sizes (default: to 10 million)")
    add("--width", type=int, default=16, help="numbers of an entry's features (default: 16)")
    add("--shards", type=int, default=100, help="stores to merge; 0: none (default: 100)")
    add("--each", type=int, default=1000, help="entries of each of them (default: 1000)")
    add("--costs", action="store_true", help="what an entry takes, by encoder and dtype")
    add("--folder", type=Path, help="where to write (default: the temporary folder)")
    add("--json", type=Path, metavar="FILE", help="also write every figure to a file")
    arguments = parser.parse_args(argv)
    told: dict[str, Any] = {"machine": machine()}
    print(introduction(told["machine"]))
    item = Imagined(None, torch.rand(1, arguments.width).half(), torch.rand(arguments.width))
    print(f"a row of {sum(map(_size, packed(address(1), item, False)))} bytes")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if arguments.costs:
            told["costs"] = costs(folder)
        else:
            sizes = [int(size) for size in arguments.entries.split(",")]
            told["sizes"] = grow(sizes, item, folder / "one")
            if arguments.shards:
                told["merge"] = merge(arguments.shards, arguments.each, item, folder / "shards")
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, bytes | str) else 8


if __name__ == "__main__":
    main()
