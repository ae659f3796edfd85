"""Atomic writes: a file appears complete or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a text file atomically: one text, or many one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines([text] if isinstance(text, str) else text)
    os.replace(partial, path)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def written_lines(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Write a file line by line; it appears when it is complete. Without a path, write nothing."""
    if path is None:
        yield lambda line: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as lines:
            yield lambda line: print(line, file=lines)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
