"""The page of ``vlmig data check``: for each source a summary, some pairs, and the bad records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmig.data.check import Findings, summary
from vlmig.data.index import Index
from vlmig.data.pairs import Pair, Source
from vlmig.report.page import page_text, style, write_page
from vlmig.report.thumbnails import thumbnail
from vlmig.vision.files import BadImage

SAMPLES = 24
SIDE = 448
"""Longest side of an image on the page, in pixels; a click shows it so large."""
ROOM = 90_000
"""Most characters of an image."""
BARS = 24
"""Most bars of a histogram."""


def write_findings(path: Path, findings: Sequence[Findings], seed: int = 0) -> None:
    """Write a page of several sources' findings; the seed chooses the samples.

    Raises:
        VLMIGError: the file cannot be written.
    """
    sources = [_source(of_source, seed) for of_source in findings]
    values = {"style": style("data_check.css"), "sources": sources}
    write_page(path, page_text("data_check.html", title="vlmig: training data", **values))


def _source(findings: Findings, seed: int) -> dict[str, Any]:
    source = findings.index.source
    return {
        "name": source.name,
        "summary": summary(findings),
        "histograms": [histogram(*values) for values in _measured(findings)],
        "samples": samples(source, findings.index, findings.good, seed),
        "bad": findings.listed,
        "every": sum(findings.bad.values()) + sum(findings.index.dropped.values()),
    }


def _measured(findings: Findings) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what has a histogram: what differs from pair to pair."""
    aligned = findings.alignment[np.isfinite(findings.alignment)]
    for title, values in (
        ("words of a caption", findings.words),
        ("width of an image, pixels", findings.sizes[:, 0]),
        ("height of an image, pixels", findings.sizes[:, 1]),
        ("CLIP similarity of image and caption", aligned),
    ):
        if len(np.unique(values)) > 1:
            yield title, values


def histogram(title: str, values: np.ndarray) -> dict[str, Any]:
    """Describe the bars of a histogram: place and height of each as shares of the drawing."""
    low, high = float(values.min()), float(values.max())
    kinds = len(np.unique(values))
    counts, _ = np.histogram(values, bins=max(1, min(BARS, kinds)))
    top = int(counts.max())
    bars = [
        {"x": i / len(counts), "width": 1 / len(counts), "height": count / top, "n": int(count)}
        for i, count in enumerate(counts)
    ]
    ends = [f"{end:g}" for end in (round(low, 3), round(high, 3))]
    return {"title": title, "bars": bars, "low": ends[0], "high": ends[1], "top": top}


def samples(
    source: Source, pairs: Index, rows: np.ndarray, seed: int, count: int = SAMPLES
) -> list[dict[str, Any]]:
    """Describe some pairs with their images; one whose image cannot be read (any more) is left
    out."""
    chosen = np.random.default_rng(seed).permutation(rows)[:count]
    described = []
    for row in np.sort(chosen):
        sample = _sample(source, pairs[int(row)])
        if sample is not None:
            described.append(sample)
    return described


def _sample(source: Source, pair: Pair) -> dict[str, Any] | None:
    """Describe a pair; None if an image cannot be read."""
    images = []
    for name in pair.images():
        try:
            images.append(thumbnail(source.open(name), ROOM, SIDE))
        except BadImage:
            return None
    return {"pictures": images, "caption": pair.caption, "prompt": pair.prompt}
