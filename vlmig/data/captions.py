"""Captions as records hold them: one text, several, or something that is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vlmig.config import IMAGE
from vlmig.data.pairs import Bad, Pair


def captioned(captions: Any, place: str, pair: Pair) -> Iterator[Pair | Bad]:
    """Yield a pair for each caption of a record.

    Args:
        captions: a text, a list of texts, or whatever else stands there.
        place: where the record is.
        pair: the rest of it.
    """
    many = captions if isinstance(captions, list) and captions else [captions]
    for number, caption in enumerate(many, 1):
        own = place if len(many) == 1 else f"{place}, caption {number}"
        if caption is None or caption == []:
            yield Bad(own, "no caption")
        elif not isinstance(caption, str):
            yield Bad(own, "caption is no text")
        elif not caption.strip():
            yield Bad(own, "empty caption")
        elif not all(map(is_unicode, (caption, pair.picture, pair.prompt))):
            yield Bad(own, "not Unicode")
        elif caption.count(IMAGE) > bool(pair.picture or pair.prompt):
            yield Bad(own, f"more {IMAGE} than pictures" if pair.picture else f"{IMAGE} without picture")
        else:
            yield replace(pair, caption=caption.strip())


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written down: JSON and file systems allow halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def inert(text: str) -> str:
    """Change marks of pictures that happen to stand in other people's words, so that they stand for no picture."""
    return text.replace(IMAGE, IMAGE.upper())
