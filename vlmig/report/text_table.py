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
        line = ""
        for text, side, width in zip(row, align, widths, strict=True):
            line += f"{text:{side}{width}}  "
        lines.append(line.rstrip())
    return "\n".join(lines)
