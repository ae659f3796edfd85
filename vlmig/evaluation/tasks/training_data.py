"""Tasks about the pairs of a source of training data, of which each has an image of its own."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmig.errors import VLMIGError
from vlmig.io.records import Record
from vlmig.io.rows import Bad

if TYPE_CHECKING:
    from PIL import Image

    from vlmig.data.pairs import Pair, Source

logger = logging.getLogger(__name__)


def _source(spec: Mapping[str, Any], data: Path) -> Source:
    from vlmig.data.sources.build import build_source  # with libraries that few tasks need

    return build_source(spec, data)


def pair_records(spec: Mapping[str, Any], data: Path, task: str) -> Iterator[Record]:
    """Yield a source's pairs as rows with ``caption``, ``group`` and ``pair``; bad records are
    counted.

    Args:
        spec: the source, as in a recipe.
        data: folder of benchmark files.
        task: its name, for errors.

    Raises:
        VLMIGError: the source's files are missing or damaged, or all records are bad.
    """
    bad: Counter[str] = Counter()
    count = 0
    for count, record in enumerate(_source(spec, data).pairs(), 1):
        if isinstance(record, Bad):
            bad[record.reason] += 1
        else:
            row = {"caption": record.caption, "group": record.group, "pair": record}
            yield f"{task}, pair {count}", row
    reasons = ", ".join(f"{reason} {number}" for reason, number in bad.most_common())
    if reasons:
        logger.info("%s: left out: %s", task, reasons)
    if count == bad.total():
        raise VLMIGError(
            f"{task}: no pairs in {data} ({reasons or 'none of this split'}); expected the whole "
            "source, its images too; fetch it"
        )


def open_image(spec: Mapping[str, Any], data: Path, pair: Pair) -> Image.Image:
    """Read a pair's image.

    Raises:
        VLMIGError: it cannot be read.
    """
    from vlmig.vision.files import BadImage

    try:
        return _source(spec, data).open(pair)
    except BadImage as reason:
        raise VLMIGError(
            f"{pair.picture} in {data}: {reason}; expected an image; fetch it again"
        ) from None
