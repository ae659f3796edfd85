"""Pictures and Visual Genome files that tests of training data write."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlmig.data.pairs import Pair, Source
from vlmig.io.rows import Bad


def noise(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def read(source: Source) -> tuple[list[Pair], list[Bad]]:
    records = list(source.pairs())
    return [r for r in records if isinstance(r, Pair)], [r for r in records if isinstance(r, Bad)]


def reasons(bad: list[Bad]) -> dict[str, int]:
    found: dict[str, int] = {}
    for own in bad:
        found[own.reason] = found.get(own.reason, 0) + 1
    return found


def region(
    number: int, box: tuple[Any, Any, Any, Any], phrase: Any = "a thing", **more: Any
) -> dict[str, Any]:
    x, y, width, height = box
    return {
        "region_id": number,
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "phrase": phrase,
        **more,
    }


def visual_genome(folder: Path, sizes: bool = True) -> Path:
    """Write Visual Genome's raw format, with everything wrong in it that is found in such data."""
    for inner in ("VG_100K", "VG_100K_2/VG_100K_2"):
        (folder / inner).mkdir(parents=True)
    noise(1).save(folder / "VG_100K/1.jpg", quality=95)
    noise(2).convert("L").save(folder / "VG_100K_2/VG_100K_2/2.jpg")
    noise(3).quantize(16).save(folder / "VG_100K/3.png")
    whole = io.BytesIO()
    noise(4, (200, 200)).save(whole, "JPEG", quality=95)
    (folder / "VG_100K/4.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    regions = [
        region(10, (5, 6, 20, 10), "  a red ball "),
        region(11, (-4, -2, 20, 20), "beyond left and top"),
        region(12, (30, 20, 100, 100), "beyond right and bottom"),
        region(13, (40, 0, 10, 10)),
        region(14, (0, -20, 10, 10)),
        region(15, (5, 5, 0, 10)),
        region(16, (5, 5, 7, 20)),
        region(17, (33, 0, 20, 20), "under 8 once clamped"),
        region(18, (0, 0, 20, 20), " \n"),
        region(19, ("0", 0, 20, 20)),
        {"region_id": 20, "x": 1},
        region(21, (0, 0, 40, 30), None),
        region(22, (0, 0, 1e300, 9)),
    ]
    images = [
        {"id": 1, "regions": [{**own, "image_id": 1} for own in regions]},
        {
            "image_id": 2,
            "regions": [region(30, (0, 0, 40, 30), "grey"), region(31, (1, 2, 9, 8), "small grey")],
        },
        {"id": 3, "regions": [region(40, (2.4, 3.4, 10.2, 10.2), "palette")]},
        {"id": 4, "regions": [region(50, (0, 0, 200, 200), "broken off")]},
        {"id": 5, "regions": [region(60, (0, 0, 20, 20), "missing")]},
        {"id": 6, "regions": []},
        {"id": 7},
    ]
    (folder / "region_descriptions.json").write_text(json.dumps(images))
    if sizes:
        known = [{"image_id": i, "width": 40, "height": 30, "url": ""} for i in (1, 2, 3)]
        known.append({"image_id": 4, "width": 200, "height": 200, "url": ""})
        (folder / "image_data.json").write_text(json.dumps(known))
    return folder
