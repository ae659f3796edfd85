"""Pictures small enough that hundreds of them travel inside one page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

from PIL import Image

from vlmig.imagination.store import FeatureStore

SIDE = 96
SIZES = ((1.0, 70), (1.0, 55), (0.8, 50), (0.65, 45), (0.5, 40), (0.5, 20))
"""Side as a share and JPEG's quality, taken one after the other until a picture fits."""


def thumbnail(picture: Image.Image, allowance: float, side: int = SIDE) -> str:
    """Return a picture as base64 of a JPEG, smaller and coarser where the allowance, in characters, asks for it."""
    written = b""
    for share, quality in SIZES:
        small, buffer = picture.convert("RGB"), io.BytesIO()
        small.thumbnail((round(share * side), round(share * side)), Image.Resampling.LANCZOS)
        small.save(buffer, "JPEG", quality=quality, optimize=True)
        written = buffer.getvalue()
        if len(written) * 4 / 3 <= allowance:
            break
    return base64.b64encode(written).decode()


def thumbnails(store: FeatureStore, keys: Iterable[str], characters: int) -> list[str | None]:
    """Return each entry's picture; None where the store has it no more, or keeps features only.

    Args:
        characters: how much all of them may take together.
    """
    found = list(keys)
    allowance = characters / max(1, len(found))
    return [_thumbnail(store, key, allowance) for key in found]


def _thumbnail(store: FeatureStore, key: str, allowance: float) -> str | None:
    item = store.get(key)
    return None if item is None or item.picture is None else thumbnail(item.picture, allowance)
