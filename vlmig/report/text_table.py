"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], align: str) -> str:
    """Lay rows of text out in columns, each as wide as its widest cell.

    Args:
        align: ``<`` or ``>`` for each column.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, align, widths, strict=True)
        lines.append("  ".join(f"{text:{side}{width}}" for text, side, width in cells).rstrip())
    return "\n".join(lines)
