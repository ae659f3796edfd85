"""Images per second of one Ray actor and of several on this machine, and whether their stores are
the same.

python -m benchmarks.cluster --actors 1,2 --images 240

The embedded generator and encoder, one thread for each actor, a new store for each side. The clock
runs from the time when there are as many blocks as actors to the last one, so that starting the
actors, which takes as long as loading the models, is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import introduction, machine
from vlmig.imagination import requests_for
from vlmig.imagination.cluster import Cluster
from vlmig.imagination.pipeline import BATCH, Imagination
from vlmig.imagination.store import FeatureStore
from vlmig.models.checkpoint import POCKET
from vlmig.models.config import VLMIGConfig
from vlmig.runtime import Stopwatch


def measure(actors: int, images: int, folder: Path) -> dict[str, Any]:
    """Fill a store, and return the rate and what is in it."""
    config = VLMIGConfig.from_pretrained(POCKET)
    imagination = Imagination(config, POCKET, FeatureStore(folder), Stopwatch())
    requests = [requests_for([f"a thing numbered {i}"], 0)[0] for i in range(images)]
    missing = {request: imagination.address(request) for request in requests}
    cluster, times = Cluster(actors), []
    begun = time.perf_counter()
    for _ in cluster.make(imagination, missing):
        times.append(time.perf_counter() - begun)
    rows = imagination.store.base.execute("SELECT key, digest FROM entries").fetchall()
    first = actors * BATCH
    rate = (images - first) / (times[-1] - times[first - 1])
    told = {"actors": actors, "images per s": rate, "start, s": times[0], "whole, s": times[-1]}
    load = os.getloadavg()[0]
    spent = f"the first after {times[0]:.1f} s, all after {times[-1]:.1f} s"
    print(f"{actors} actors: {rate:.2f} images/s; {spent}; load {load:.1f}")
    return told | {"load": load, "rows": dict(rows)}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--actors", default="1,2", help="of each side (default: 1,2)")
    parser.add_argument("--images", type=int, default=240, help="of each side (default: 240)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure")
    arguments = parser.parse_args(argv)
    print(introduction(machine()))
    sides = []
    with tempfile.TemporaryDirectory() as folder:
        for actors in map(int, arguments.actors.split(",")):
            sides.append(measure(actors, arguments.images, Path(folder) / f"{len(sides)}"))
    one = sides[0]
    for side in sides[1:]:
        ratio = side["images per s"] / one["images per s"]
        same = "the same" if side["rows"] == one["rows"] else "ANOTHER"
        print(f"{side['actors']} / {one['actors']}: {ratio:.2f} times, {same} store")
    if arguments.json:
        kept = [{k: v for k, v in side.items() if k != "rows"} for side in sides]
        arguments.json.write_text(json.dumps(kept, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
