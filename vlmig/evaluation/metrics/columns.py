"""Numbers and names of many entries in compact arrays: eight bytes for each, where lists of
Python's objects take a hundred."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


class Column:
    """One kind of number of every question, as many as each has, one behind another.

    8 bytes for each number, and 8 for each question.
    """

    def __init__(self) -> None:
        self.items = 0
        """How many items brought their questions' numbers."""
        self._values, self._ends = array("d"), array("q", [0])

    def add(self, rows: Iterable[Any] | None) -> None:
        """Take an item's numbers, nested as they may be, None for those that are not known; no rows
        where it has none."""
        if rows is None:
            return
        self.items += 1
        for row in rows:
            self._values.frombytes(np.asarray(row, dtype=float).tobytes())
            self._ends.append(len(self._values))

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield each question's numbers, (n,)."""
        values, ends = np.asarray(self._values), np.asarray(self._ends)
        return (values[start:end] for start, end in zip(ends, ends[1:], strict=False))

    @property
    def sizes(self) -> np.ndarray:
        """How many numbers each question has."""
        return np.diff(np.asarray(self._ends))

    def of(self, questions: np.ndarray) -> np.ndarray:
        """Return the numbers of Q questions that have equally many, (Q, n)."""
        starts = np.asarray(self._ends)[questions]
        return np.asarray(self._values)[starts[:, None] + np.arange(self.sizes[questions[0]])]


def coded(names: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """Number names in their alphabetical order: (n,) numbers, and each name once, in that order."""
    known: dict[str, int] = {}
    numbers = np.array(array("q", (known.setdefault(name, len(known)) for name in names)))
    ordered = sorted(known)
    ranks = np.empty(len(known), dtype=int)
    ranks[[known[name] for name in ordered]] = np.arange(len(known))
    return ranks[numbers], ordered
