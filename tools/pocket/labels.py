"""Write colors and shapes, computed from the pixels, into ``concepts.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from vlmig.pocket.concepts import CONCEPTS_FILE, load_concepts
from vlmig.pocket.scenes import glyph, read_color, read_shape


def label_concepts() -> None:
    """Compute every glyph's color and shape, and write them with its name, one line per concept."""
    lines = []
    for concept in load_concepts():
        ink = glyph(concept.glyph)
        color, shape = read_color(ink)[0], read_shape(ink)[0]
        lines.append(
            json.dumps(asdict(replace(concept, color=color, shape=shape)), ensure_ascii=False)
        )
    CONCEPTS_FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    load_concepts.cache_clear()
