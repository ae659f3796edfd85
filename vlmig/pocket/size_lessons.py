"""Training pairs on size: scenes of several things at random scale, so that only the image tells
which is larger."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image

from vlmig.data.pairs import Pair
from vlmig.io.rows import Bad
from vlmig.models.checkpoint import POCKET
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.scene_source import CAPTIONS, RecoloredScenes, draw_glyph
from vlmig.pocket.scenes import recolored
from vlmig.pocket.side_by_side import draw_group, random_sizes, side_by_side
from vlmig.pocket.size_text import SIGHT, SIZE, Told, comparison, naming_sentence

COUNTS = (0.7, 0.2, 0.1)
"""Shares of scenes with one, two and three things. One thing is learned best; sizes need two."""
RECOLORED = 0.5
"""Share of recolored things, where sizes are compared; others are as the names are learned."""
NAMING = {True: 1, False: 3}
"""Texts of names for each scene, of several things and of one."""
DRAWN = 2
"""Changes with what scenes show, so that features of before are not taken for theirs."""


class Group(NamedTuple):
    """What a scene of several things shows."""

    concepts: list[Concept]
    sizes: list[float]
    """In the scene."""
    compared: bool
    """Whether texts say what is larger, not how well each thing is seen."""


class ComparedScenes(RecoloredScenes):
    """Scenes of up to three things at random scale; every other one passes the autoencoder.

    Some show supervised concepts, with texts that say which is larger. ``named`` of them show any
    concepts, held-out ones too, with texts that name them, or say which of two is seen better: the
    one that is there, or the one that this scene shows larger, which is no size of a thing. So the
    adapter learns to find by name and to compare what it finds, and nothing of their sizes. Of a
    text only that is learned which the image tells: names and answers.

    Args:
        scenes: number of scenes.
        named: share of the scenes whose texts tell no size.
        less: whether texts ask for the smaller or less visible thing too.
        generator, sets: see ``RecoloredScenes``.
    """

    def __init__(
        self,
        scenes: int = 6000,
        named: float = 0.8,
        less: bool = True,
        generator: str = str(POCKET / "generator"),
        *,
        sets: Sequence[Callable[[Concept], Image.Image]] = (draw_glyph,),
    ) -> None:
        super().__init__(scenes, generator, sets=sets)
        self.name, self.named, self.less = "pocket_sizes", named, less

    def __len__(self) -> int:
        """Return the number of pairs."""
        return CAPTIONS * self.scenes

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield six texts of each scene."""
        version = f"{self.version} {self.named} {DRAWN}"
        for number in range(self.scenes):
            group, _ = self._group(number)
            names = " ".join(concept.name for concept in group.concepts)
            for text, spans in _texts(group, random.Random(f"sizes {number}"), self.less):
                yield Pair(
                    text,
                    f"{number}",
                    group=f"{number}",
                    version=f"{version} {names}",
                    learnt=spans,
                )

    def open(self, pair: Pair) -> Image.Image:
        """Draw a scene."""
        number = int(pair.picture)
        group, rng = self._group(number)
        draw = self.sets[number // 2 % len(self.sets)]
        inks = []
        for concept in group.concepts:
            ink = draw(concept)
            changes = group.compared and rng.random() < RECOLORED
            inks.append(recolored(ink, rng) if changes else ink)
        return self._finished(side_by_side(inks, group.sizes, rng), number)

    def _group(self, number: int) -> tuple[Group, np.random.Generator]:
        """Draw what a scene shows; return its generator too."""
        rng = np.random.default_rng((17, number))
        compared = bool(rng.random() >= self.named)
        concepts = self.concepts if compared else load_concepts()
        count = 1 + int(rng.choice(len(COUNTS), p=COUNTS))
        things = draw_group(concepts, max(2, count) if compared else count, rng)
        return Group(things, random_sizes(len(things), rng), compared), rng


def _texts(group: Group, rng: random.Random, asks_less: bool) -> Iterator[Told]:
    """Yield six texts: of names, and such as compare two things by the scene: sizes, or how well
    each is seen. A thing alone is compared with one that is not there."""
    names = [concept.names for concept in group.concepts]
    for _ in range(NAMING[len(names) > 1]):
        nouns = [rng.choice(some) for some in names]
        yield naming_sentence(rng.sample(nouns, len(nouns)), rng)
    falling = sorted(zip(group.sizes, names, strict=True), reverse=True)
    compared = list(pairwise(names for _, names in falling))
    others = [concept for concept in load_concepts() if concept not in group.concepts]
    for _ in range(CAPTIONS - NAMING[len(names) > 1]):
        if compared:
            more, less = rng.choice(compared)
        else:
            more, less = rng.choice(names), rng.choice(others).names
        words = SIZE if group.compared else SIGHT
        yield comparison(rng.choice(more), rng.choice(less), words, rng, asks_less)
