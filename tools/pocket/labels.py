"""Fill ``concepts.json`` with the colours and shapes that the pixels show."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from vlmig.pocket.concepts import CONCEPTS_FILE, load_concepts
from vlmig.pocket.scenes import glyph, read_color, read_shape


def label_concepts() -> None:
    """Read every glyph's colour and silhouette and write them beside its name, one line per concept."""
    lines = []
    for concept in load_concepts():
        ink = glyph(concept.glyph)
        color, shape = read_color(ink)[0], read_shape(ink)
        lines.append(json.dumps(asdict(replace(concept, color=color, shape=shape)), ensure_ascii=False))
    CONCEPTS_FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    load_concepts.cache_clear()
