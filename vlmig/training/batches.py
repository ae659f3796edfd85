"""Which pairs each step sees, as a function of seed, stage and step alone; and these as batches, for any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import Dataset

from vlmig.data.index import Index
from vlmig.data.pairs import BadPicture, Pair
from vlmig.errors import VLMIGError
from vlmig.io.rows import Bad
from vlmig.runtime import spread
from vlmig.training.pictures import Looked, Pictures
from vlmig.training.texts import Texts, Tokens

TRIES = 1000
"""Bad pictures in a row before a stage is given up."""


@dataclass
class Share:
    """Some rows of a source, and how much of the samples they make up."""

    index: Index
    rows: np.ndarray
    """The pairs that may be drawn, int64."""
    weight: float | None = None
    """Share of the samples; those without one divide the rest by their numbers of rows."""


class Order:
    """The order of all samples of a stage: every source shuffled anew in each of its epochs, mixed by weight.

    Position p is sample p of the stage. It does not depend on the number of processes or on where a run was stopped.

    Args:
        shares: what to draw from.
        samples: how many positions.
    """

    def __init__(self, shares: Sequence[Share], samples: int, seed: tuple[int, ...]) -> None:
        self.shares, self.seed = shares, seed
        rng = np.random.default_rng((*seed, 0))
        self.source = rng.choice(len(shares), samples, p=_probabilities(shares)).astype(np.int16)
        self.row = np.empty(samples, np.int64)
        for i, share in enumerate(shares):
            own = np.flatnonzero(self.source == i)
            epochs = range(-(-len(own) // len(share.rows)))
            drawn = [
                np.random.default_rng((*seed, 1, i, epoch)).permutation(share.rows)
                for epoch in epochs
            ]
            self.row[own] = np.concatenate([*drawn, np.empty(0, np.int64)])[: len(own)]

    def __len__(self) -> int:
        return len(self.row)

    def used(self, source: int) -> np.ndarray:
        """Return the rows of a source that occur, ascending."""
        return np.unique(self.row[self.source == source])

    def generator(self, position: int) -> np.random.Generator:
        """Return the source of all that is random about a sample."""
        return np.random.default_rng((*self.seed, 2, position))

    def instead(self, position: int, rng: np.random.Generator) -> int:
        """Draw another row for a position whose picture is bad."""
        own = self.row[self.source == self.source[position]]
        return int(own[rng.integers(len(own))])


def _probabilities(shares: Sequence[Share]) -> np.ndarray:
    given = sum(share.weight for share in shares if share.weight is not None)
    rows = sum(len(share.rows) for share in shares if share.weight is None)
    rest = max(0.0, 1 - given)
    parts = [
        own.weight if own.weight is not None else rest * len(own.rows) / rows for own in shares
    ]
    return np.array(parts) / sum(parts)


@dataclass
class Batch:
    """What goes through the model at a time."""

    texts: Texts
    looked: list[list[Looked]]
    """The pictures of each row, in order."""
    pairs: list[Pair]
    bad: list[Bad] = field(default_factory=list)
    """Pictures that could not be read and were replaced."""


class Batches(Dataset):
    """The micro-batches of each step for one of several processes; ``batches[step]`` lists them.

    Args:
        pictures: finds the pairs' pictures.
        size: samples per step over all processes.
        micro: most samples at a time.
        part: this process's number, and how many there are.
    """

    def __init__(
        self,
        order: Order,
        tokens: Tokens,
        pictures: Pictures,
        *,
        size: int,
        micro: int | None,
        blank_share: float,
        part: tuple[int, int],
    ) -> None:
        number, count = part
        if size % count:
            raise VLMIGError(
                f"batch: {size} over {count} processes; expected a multiple of {count}"
            )
        self.order, self.tokens, self.pictures, self.size, self.blank_share = (
            order,
            tokens,
            pictures,
            size,
            blank_share,
        )
        own = size // count
        self.offset, self.own, self.micro = number * own, own, min(micro or own, own)

    def __len__(self) -> int:
        return len(self.order) // self.size

    def __getitem__(self, step: int) -> list[Batch]:
        first = step * self.size + self.offset
        starts = range(first, first + self.own, self.micro)
        return [
            self.batch(range(start, min(start + self.micro, first + self.own))) for start in starts
        ]

    def batch(self, positions: Sequence[int]) -> Batch:
        """Put samples together."""
        rngs = [self.order.generator(position) for position in positions]
        parts = list(zip(positions, rngs, strict=True))
        if self.pictures.stored:  # a store's connection belongs to one thread
            drawn = [self._sample(part) for part in parts]
        else:
            drawn = spread(self._sample, parts, torch.device("cpu"))
        pairs, looked, bad = zip(*drawn, strict=True)
        texts = self.tokens.batch(list(pairs), rngs)
        rows = [[own for i in row for own in looked[i][: texts.shown[i]]] for row in texts.rows]
        return Batch(texts, rows, list(pairs), [one for own in bad for one in own])

    def _sample(
        self, drawn: tuple[int, np.random.Generator]
    ) -> tuple[Pair, list[Looked], list[Bad]]:
        """Return the pair and the pictures of a position, or of others in its place where its pictures cannot be read."""
        position, rng = drawn
        share, row = self.order.shares[self.order.source[position]], int(self.order.row[position])
        bad: list[Bad] = []
        blank = rng.random() < self.blank_share
        while len(bad) < TRIES:
            pair, source = share.index[row], share.index.source
            shown = self._shown(pair)
            try:
                return (
                    pair,
                    [None if blank else self.pictures.look(source, one) for one in shown],
                    bad,
                )
            except BadPicture as error:
                bad.append(Bad(f"{source.name}, {pair.picture}", str(error)))
                row = self.order.instead(position, rng)
        raise VLMIGError(
            f"{TRIES} pictures of {share.index.source.name} in a row could not be read, the last one because of: "
            f"{bad[-1].reason}; see what vlmig data check says of it"
        )

    def _shown(self, pair: Pair) -> list[Pair]:
        """Return a pair of one picture for each picture that is read with the text.

        Raises:
            VLMIGError: several for a model that reads each text beside one.
        """
        shown = pair.pictures() or ([pair] if pair.prompt else [])
        if self.tokens.early:
            return shown
        if len(shown) > 1:
            raise VLMIGError(
                f"{len(shown)} pictures in {pair.caption[:60]!r}; expected fusion: prefix, or one picture for each text"
            )
        return shown or [pair]  # read beside the empty picture
