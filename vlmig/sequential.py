"""Asking with as many pictures as the answer needs (``k="auto"``): texts are read once, every picture is looked at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from vlmig.reader import Reader
from vlmig.scores import Scores, Setting
from vlmig.scoring import score_reading
from vlmig.stopping import Stopping
from vlmig.threads import spread
from vlmig.visuals import Visuals


class Asked:
    """Questions that share their pictures, which come in groups.

    Args:
        reader: scores them.
        questions: of each its texts, with the candidates behind them, letter by letter: one text for all, or one for each.
        rule: when to stop.
        setting: how candidates are mixed, see ``VLMIGConfig.setting``.
        least: pictures that are there in any case.
        first: score each candidate's first sub-token only, as published.
    """

    def __init__(
        self,
        reader: Reader,
        questions: Sequence[Sequence[tuple[str, Sequence[str]]]],
        rule: Stopping,
        setting: Setting,
        *,
        least: int = 0,
        first: bool = False,
    ) -> None:
        self.reader, self.parts = reader, [len(parts) for parts in questions]
        self.contexts, self.choices = zip(*(part for parts in questions for part in parts), strict=True)
        self.rule, self.setting, self.least, self.first = rule, setting, least, first
        self.visuals = Visuals.none(reader.config)

    @property
    def wanted(self) -> int | None:
        """How many pictures there have to be next; None where there are enough."""
        seen = len(self.visuals.features)
        if seen < self.least:
            return self.least
        if all(self.rule.enough(own, seen, self.setting) for own in self.scores):
            return None
        return self.rule.after(seen)

    @property
    def scores(self) -> list[Scores]:
        """What the candidates of each question got so far."""
        flat = iter(self._scores)
        joined = [Scores.joined([next(flat) for _ in range(count)]) for count in self.parts]
        return [replace(own, alignment=self._scores[0].alignment) for own in joined]

    def read(self) -> None:
        """Read the texts, and score the candidates by text alone."""
        bare = [self.visuals] * len(self.contexts)
        self._scores = [Scores.zero(len(own), self.visuals.alignment.numpy()) for own in self.choices]
        readings = self.reader.readings(self.contexts, self.choices, bare, first=self.first)
        self._readings = [(jobs, reading) for jobs, _, reading in readings]
        for jobs, reading in self._readings:
            score_reading(self.reader.model, reading, jobs, None, self._scores)

    def look(self, visuals: Visuals) -> None:
        """Look at the pictures that were not there before."""
        fresh = visuals.between(len(self.visuals.features), len(visuals.features))
        added = [Scores.zero(len(own), fresh.alignment.numpy()) for own in self.choices]
        for jobs, reading in self._readings:
            score_reading(self.reader.model, reading, jobs, self.reader.sights([fresh] * len(jobs)), added)
        self._scores = [before.beside(more) for before, more in zip(self._scores, added, strict=True)]
        self.visuals = visuals


def ask_all(
    asked: Sequence[Asked],
    draw: Callable[[Sequence[int], int], Sequence[Visuals]],
    device: torch.device | None = None,
) -> None:
    """Give each of many its pictures, those that come next together, until all have enough.

    Args:
        draw: gives the first k pictures of some of them, by their numbers.
        device: where texts are read, each by itself, so that no number depends on the others; together with all threads when None.
    """
    work = partial(spread, device=device) if device is not None else _one_by_one
    work(Asked.read, asked)
    while wanted := {i: k for i, own in enumerate(asked) if (k := own.wanted) is not None}:
        k = min(wanted.values())
        members = [i for i, own in wanted.items() if own == k]
        work(_look, list(zip([asked[i] for i in members], draw(members, k), strict=True)))


def _look(pair: tuple[Asked, Visuals]) -> None:
    pair[0].look(pair[1])


@torch.inference_mode()
def _one_by_one(work: Callable[[Any], None], parts: Sequence[Any]) -> None:
    for part in parts:
        work(part)
