"""The samples of each step, which depend on seed, stage and step alone, as batches of each
process."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch.utils.data import Dataset

from vlmig.data.index import Index
from vlmig.data.pairs import Pair
from vlmig.errors import VLMIGError
from vlmig.io.rows import Bad
from vlmig.runtime import deterministic_map
from vlmig.training.images import ImageFeatures, Loaded
from vlmig.training.states import States
from vlmig.training.texts import Texts, Tokens
from vlmig.vision.files import BadImage

TRIES = 1000
"""Bad images in a row before a stage stops with an error."""


@dataclass
class Share:
    """Some rows of a source, and their share of the samples."""

    index: Index
    rows: np.ndarray
    """The pairs that may be drawn, int64."""
    weight: float | None = None
    """Share of the samples; sources without a weight divide the rest by their numbers of rows."""


class Order:
    """The order of all samples of a stage: every source reshuffled in each epoch, mixed by weight.

    Position p is sample p of the stage, whatever the number of processes and wherever a run
    stopped.

    Args:
        shares: sources to draw from.
        samples: number of positions.
    """

    def __init__(self, shares: Sequence[Share], samples: int, seed: tuple[int, ...]) -> None:
        self.shares, self.seed = shares, seed
        rng = np.random.default_rng((*seed, 0))
        self.source = rng.choice(len(shares), samples, p=_probabilities(shares)).astype(np.int16)
        self.row = np.empty(samples, np.int64)
        for i, share in enumerate(shares):
            positions = np.flatnonzero(self.source == i)
            rows = [np.empty(0, np.int64)]
            for epoch in range(math.ceil(len(positions) / len(share.rows))):
                rows.append(np.random.default_rng((*seed, 1, i, epoch)).permutation(share.rows))
            self.row[positions] = np.concatenate(rows)[: len(positions)]

    def __len__(self) -> int:
        return len(self.row)

    def used(self, source: int) -> np.ndarray:
        """Return the rows of a source that are drawn at all, ascending."""
        return np.unique(self.row[self.source == source])

    def pairs(self) -> Iterator[Pair]:
        """Yield every pair that is drawn at all, once."""
        for i, share in enumerate(self.shares):
            for row in self.used(i):
                yield share.index[int(row)]

    def generator(self, position: int) -> np.random.Generator:
        """Return the random generator of a sample."""
        return np.random.default_rng((*self.seed, 2, position))

    def instead(self, position: int, rng: np.random.Generator) -> int:
        """Draw another row for a position whose image is bad."""
        rows = self.row[self.source == self.source[position]]
        return int(rows[rng.integers(len(rows))])


def _probabilities(shares: Sequence[Share]) -> np.ndarray:
    """Return each source's share of the samples, (n,); they add up to 1."""
    given, rows = 0.0, 0
    for share in shares:
        if share.weight is None:
            rows += len(share.rows)
        else:
            given += share.weight
    rest = max(0.0, 1 - given)
    weights = []
    for share in shares:
        weights.append(rest * len(share.rows) / rows if share.weight is None else share.weight)
    return np.array(weights) / sum(weights)


@dataclass
class Batch:
    """Samples that go through the model together."""

    texts: Texts
    images: list[list[Loaded]]
    """The images of each row, in order."""
    pairs: list[Pair]
    bad: list[Bad] = field(default_factory=list)
    """Images that could not be read and were replaced."""


class Batches(Dataset):
    """The micro-batches of each step for one of several processes; ``batches[step]`` lists them.

    Args:
        images: loads the pairs' images.
        size: samples per step over all processes.
        micro: most samples at a time.
        process: this process's number, and the number of processes.
    """

    def __init__(
        self,
        order: Order,
        tokens: Tokens,
        images: ImageFeatures,
        *,
        size: int,
        micro: int | None,
        blank_share: float,
        process: tuple[int, int],
    ) -> None:
        number, count = process
        if size % count:
            raise VLMIGError(
                f"batch: {size} over {count} processes; expected a multiple of {count}"
            )
        self.order, self.tokens, self.images = order, tokens, images
        self.size, self.blank_share = size, blank_share
        self.each = size // count  # samples of this process in a step
        self.offset, self.micro = number * self.each, min(micro or self.each, self.each)
        self.states: States | None = None

    def __len__(self) -> int:
        return len(self.order) // self.size

    def __getitem__(self, step: int) -> list[Batch]:
        first = step * self.size + self.offset
        last = first + self.each
        batches = []
        for start in range(first, last, self.micro):
            batches.append(self.batch(range(start, min(start + self.micro, last))))
        return batches

    def batch(self, positions: Sequence[int]) -> Batch:
        """Put samples together."""
        rngs = [self.order.generator(position) for position in positions]
        drawn = list(zip(positions, rngs, strict=True))
        if self.images.stored:  # a store's connection belongs to one thread
            samples = [self._sample(one) for one in drawn]
        else:
            samples = deterministic_map(self._sample, drawn, torch.device("cpu"))
        pairs, loaded, bad = zip(*samples, strict=True)
        texts = self.tokens.batch(pairs, rngs)
        rows: list[list[Loaded]] = []
        for numbers in texts.rows:  # the texts that share a row
            images: list[Loaded] = []
            for i in numbers:
                images += loaded[i][: texts.shown[i]]
            rows.append(images)
        if self.states is not None:
            texts = self.states.attach(texts)
        return Batch(texts, rows, list(pairs), list(chain.from_iterable(bad)))

    def _sample(
        self, drawn: tuple[int, np.random.Generator]
    ) -> tuple[Pair, list[Loaded], list[Bad]]:
        """Return the pair and the images of a position; another pair if its images cannot be
        read."""
        position, rng = drawn
        share, row = self.order.shares[self.order.source[position]], int(self.order.row[position])
        bad: list[Bad] = []
        blank = rng.random() < self.blank_share
        while len(bad) < TRIES:
            pair, source = share.index[row], share.index.source
            read = self._with_images(pair)
            try:
                images = [None if blank else self.images.load(source, one) for one in read]
                return pair, images, bad
            except BadImage as error:
                bad.append(Bad(f"{source.name}, {pair.picture}", str(error)))
                row = self.order.instead(position, rng)
        raise VLMIGError(
            f"{TRIES} images of {share.index.source.name} in a row could not be read, the last "
            f"one because of: {bad[-1].reason}; see what vlmig data check says of it"
        )

    def _with_images(self, pair: Pair) -> list[Pair]:
        """Return a pair of one image for each image that is read with the text.

        Raises:
            VLMIGError: several images for a late-fusion model, which reads each text beside one.
        """
        pairs = pair.images() or ([pair] if pair.prompt else [])
        if self.tokens.early:
            return pairs
        if len(pairs) > 1:
            raise VLMIGError(
                f"{len(pairs)} images in {pair.caption[:60]!r}; expected fusion: prefix, or one "
                "image for each text"
            )
        return pairs or [pair]  # read beside the blank image
