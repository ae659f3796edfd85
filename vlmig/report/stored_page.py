"""Pages about runs, with their images from the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmig.evaluation.run_folder import Row
from vlmig.imagination.store import FeatureStore
from vlmig.report.items import Numbers
from vlmig.report.page import data_page, to_json, write_page
from vlmig.report.thumbnails import thumbnails

CHARACTERS = 9_300_000
"""Size of a page with its images; mail and browsers handle 10 MB easily."""


def write_stored_page(
    path: Path, title: str, data: Row, store: FeatureStore, numbers: Numbers
) -> Path:
    """Add the store's images to ``data``, as large as there is room for, and write the page.

    Raises:
        VLMIGError: the file cannot be written.
    """
    data = finite(data)
    room = CHARACTERS - len(to_json(data)) - 100_000
    pictures = thumbnails(store, numbers, room)
    return write_page(path, data_page(title, {**data, "pictures": pictures}))


def finite(value: Any) -> Any:
    """Replace NaN inside by None, which JSON has; every digit stays, to be rounded once, where it
    is shown."""
    if isinstance(value, float):
        return None if value != value else value
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value
