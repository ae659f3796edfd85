"""The page of ``vlmig data check``: for each source a summary, some pairs, and the bad records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmig.data.check import Findings, summary
from vlmig.data.pairs import Pair
from vlmig.report.page import page_text, style, write_page
from vlmig.report.thumbnails import thumbnail
from vlmig.vision.files import BadImage

SAMPLES = 24
SIDE = 224
"""Longest side of an image on the page, in pixels."""
ROOM = 50_000
"""Most characters of an image."""


def write_findings(path: Path, findings: Sequence[Findings], seed: int = 0) -> None:
    """Write a page of several sources' findings; the seed chooses the samples.

    Raises:
        VLMIGError: the file cannot be written.
    """
    sources = [_source(found, seed) for found in findings]
    values = {"style": style("data_check.css"), "sources": sources}
    write_page(path, page_text("data_check.html", title="vlmig: training data", **values))


def _source(found: Findings, seed: int) -> dict[str, Any]:
    rows = np.random.default_rng(seed).permutation(found.good)[:SAMPLES]
    samples = []
    for row in np.sort(rows):
        sample = _sample(found, found.index[int(row)])
        if sample is not None:
            samples.append(sample)
    return {
        "name": found.index.source.name,
        "summary": summary(found),
        "samples": samples,
        "bad": found.listed,
        "every": sum(found.bad.values()) + sum(found.index.dropped.values()),
    }


def _sample(found: Findings, pair: Pair) -> dict[str, Any] | None:
    """Describe a pair; None if an image changed since it was checked and cannot be read."""
    images = []
    for name in pair.images():
        try:
            images.append(thumbnail(found.index.source.open(name), ROOM, SIDE))
        except BadImage:
            return None
    return {"pictures": images, "caption": pair.caption, "prompt": pair.prompt}
