"""A ceiling for the pocket model: how often the colour of a glyph's own pixels is the benchmark's
label.

python -m eval.pixel_reader ../shared/data
"""

from __future__ import annotations

import sys
from pathlib import Path

from vlmig.evaluation.tasks.yaml_task import declaration
from vlmig.pocket.concepts import find_concept
from vlmig.pocket.tasks import covered


def main(data: Path) -> None:
    """Print right answers and n over the covered objects of memory_color."""
    items = [
        item for item in declaration("memory_color").made().load(data) if covered(item.cluster)
    ]
    read = [getattr(find_concept(item.cluster), "color", None) for item in items]
    right = sum(color == item.label for color, item in zip(read, items, strict=True))
    print(f"memory_color, covered: {right} of {len(items)} ({100 * right / len(items):.1f} %)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
