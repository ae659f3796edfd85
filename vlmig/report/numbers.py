"""Numbers for readers, digit for digit as the script of the pages formats them (assets/dom.js)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal


def fixed(value: float, digits: int) -> str:
    """Round once, from all digits; halves go away from zero, as JavaScript's ``toFixed`` does."""
    if not math.isfinite(value):
        return str(value)
    return f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


def percent(share: float, digits: int = 1) -> str:
    """Format a share in percent, without the sign."""
    return fixed(100 * share, digits)


def signed(share: float, digits: int = 1) -> str:
    """Format a difference of shares in points; one that rounds to zero has no sign."""
    text = percent(abs(share), digits)
    return text if not float(text) else f"{'-' if share < 0 else '+'}{text}"


def interval(ends: Sequence[float]) -> str:
    """Format an interval of shares in percent, ``[3, 13]``."""
    return f"[{percent(ends[0], 0)}, {percent(ends[1], 0)}]"


def listed(names: Sequence[str]) -> str:
    """Join words as a sentence does: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
