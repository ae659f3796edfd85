"""What the options of the command line understand; anything else is a line that says what was expected."""

from __future__ import annotations

import argparse
import re


def words(text: str) -> list[str]:
    """Split a comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    """Split a comma-separated list of whole numbers."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected comma-separated whole numbers") from None


def pictures(text: str) -> int | str:
    """Understand a number of pictures, or ``auto``."""
    try:
        return text if text.partition(":")[0] == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number or auto") from None


def each_pictures(text: str) -> list[int | str]:
    """Split a comma-separated list of numbers of pictures, ``auto`` among them."""
    return [pictures(word) for word in text.split(",")]


def size(text: str) -> int:
    """Understand a number of bytes such as 20GB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of bytes such as 500MB or 20GB")
    return int(float(found[1]) * 1000 ** " kMGT".index(found[2] or " "))


def shard(text: str) -> tuple[int, int]:
    """Understand a part of a whole such as 2/4: (1, 4)."""
    part, _, count = text.partition("/")
    if not (part.isdigit() and count.isdigit() and 1 <= int(part) <= int(count)):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected I/N with I from 1 to N, such as 2/4")
    return int(part) - 1, int(count)
