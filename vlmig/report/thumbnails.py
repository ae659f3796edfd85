"""Images small enough that hundreds of them fit into one page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

from PIL import Image

from vlmig.imagination.store import FeatureStore

SIDE = 96
SIZES = ((1.0, 70), (1.0, 55), (0.8, 50), (0.65, 45), (0.5, 40), (0.5, 20))
"""Scale of the side and JPEG quality, tried in turn until an image fits."""


def thumbnail(image: Image.Image, allowance: float, side: int = SIDE) -> str:
    """Return a JPEG in base64, as large and fine as ``allowance`` characters permit."""
    written = b""
    for share, quality in SIZES:
        small, buffer = image.convert("RGB"), io.BytesIO()
        small.thumbnail((round(share * side), round(share * side)), Image.Resampling.LANCZOS)
        small.save(buffer, "JPEG", quality=quality, optimize=True)
        written = buffer.getvalue()
        if len(written) * 4 / 3 <= allowance:
            break
    return base64.b64encode(written).decode()


def thumbnails(store: FeatureStore, keys: Iterable[str], characters: int) -> list[str | None]:
    """Return each entry's image; None if the store has lost it, or holds features only.

    Args:
        characters: the size of all of them together.
    """
    keys = list(keys)
    allowance = characters / max(1, len(keys))
    images: list[str | None] = []
    for key in keys:
        item = store.get(key)
        if item is None or item.image is None:
            images.append(None)
        else:
            images.append(thumbnail(item.image, allowance))
    return images
