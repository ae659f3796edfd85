"""A task has items, an item has questions (its wordings), a question has candidates.

All questions of an item share one set of images, and an answer never reaches the image's prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from vlmig.data.pairs import Pair


def by_context(question: Question, apart: bool = False) -> list[tuple[str, list[str]]]:
    """Group a question's candidates by context: (context, its continuations) for each group.

    Args:
        apart: whether candidates that share a context are scored one by one.
    """
    if apart or len(question.contexts) > 1:
        numbers = range(len(question.continuations))
        return [(question.context(i), [question.continuations[i]]) for i in numbers]
    return [(question.contexts[0], list(question.continuations))]


@dataclass(frozen=True, slots=True)
class Question:
    """An item in one of its wordings."""

    contexts: tuple[str, ...]
    """What the LM reads: one text for all candidates, or one for each."""
    continuations: tuple[str, ...]
    """The scored texts after it, one for each candidate; none where text is generated. Of plain
    text, what is scored, if that is not all of it."""
    answer: int
    """Index of the right candidate; -1 where text is generated."""

    def context(self, candidate: int) -> str:
        """Return the text in front of a candidate."""
        return self.contexts[candidate if len(self.contexts) > 1 else 0]


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a benchmark."""

    id: str
    cluster: str
    """What the item is about; items that share it are not independent."""
    picture: str
    """What to imagine."""
    choices: tuple[str, ...]
    """The candidates by name; for generated answers, the right ones."""
    questions: tuple[Question, ...]
    things: tuple[str, ...] = ()
    """The two things that are contrasted, of items that are about two."""
    distribution: tuple[float, ...] = ()
    """Of items that people do not agree on, the share of them that says each candidate."""
    group: str = ""
    """How far they agree: a single candidate, multiple ones, or any (``tasks.people``)."""
    side: str = ""
    """Of a minimal pair, which of its sides; nothing is right then. The other one has the same
    cluster."""
    groups: tuple[tuple[str, str], ...] = ()
    """Of each grouping of the task's items, its name and this item's group."""
    pair: Pair | None = None
    """The training pair that the item was made of, whose image is its own."""

    @property
    def objects(self) -> tuple[str, ...]:
        """Name what the item is about: intervals are over these."""
        return self.things or (self.cluster,)

    @property
    def decided(self) -> bool:
        """Whether one candidate is right: more than half of the people say it."""
        return not self.side and (not self.distribution or max(self.distribution) > 0.5)

    def inside(self, covered: Callable[[str], bool]) -> bool:
        """Tell whether all that the item is about belongs to a subset."""
        return all(covered(name) for name in ((self.side,) if self.side else self.objects))

    @property
    def label(self) -> str:
        """Name the right answer (of the first wording)."""
        if self.side:
            return ""
        return self.choices[max(self.questions[0].answer, 0)] if self.choices else ""

    def described(self) -> dict[str, Any]:
        """Return all fields by name, for JSON; ``dataclasses.asdict`` takes ten times as long."""
        questions = []
        for question in self.questions:
            questions.append({name: getattr(question, name) for name in Question.__slots__})
        fields = {name: getattr(self, name) for name in Item.__slots__} | {"questions": questions}
        for name in ("things", "distribution", "group", "side", "groups", "pair"):
            if not fields[name]:  # most items have none, and keep their names in the journal
                del fields[name]
        if self.pair is not None:
            names = ("picture", "box", "version")
            fields["pair"] = {name: getattr(self.pair, name) for name in names}
        return fields

    def taught(self, demonstrations: Sequence[Item]) -> Item | None:
        """Prepend few-shot examples with the same candidates; None if there are none.

        Each example has the question's wording, with a full stop after its answer (Xia et al.
        2023).
        """
        examples = []
        for other in demonstrations:
            if set(self.choices) <= set(other.choices) and other.cluster != self.cluster:
                examples.append(other)
        if not examples:
            return None
        questions = []
        for i, question in enumerate(self.questions):
            lines = ""
            for example in examples:
                solved = example.questions[i]
                context = solved.context(solved.answer).strip()
                lines += f"{context} {solved.continuations[solved.answer].strip()}. "
            contexts = tuple(lines + context for context in question.contexts)
            questions.append(replace(question, contexts=contexts))
        return replace(self, questions=tuple(questions))


def groups_by_name(items: Sequence[Item]) -> dict[str, list[str]]:
    """Return by grouping the group of each item; the empty one belongs to none."""
    groups = [dict(item.groups) for item in items]
    by_name = {}
    for name in dict.fromkeys(chain(*groups)):
        by_name[name] = [of_item.get(name, "") for of_item in groups]
    return by_name


def drawn(items: Sequence[Item], count: int) -> Sequence[Item]:
    """Draw a part of a task's items, in their order.

    Files are often sorted, so the first items are no sample. An item's rank in the draw is a hash
    of its subject, image and first wording: it depends on no other item, so a longer file gives
    the same items, less those that new ones displace.
    """
    if count >= len(items):
        return items

    def rank(number: int) -> tuple[bytes, int]:
        item = items[number]
        content = f"{item.cluster}\n{item.picture}\n{item.questions[0].contexts[0]}"
        return hashlib.sha256(content.encode()).digest(), number

    return [items[i] for i in sorted(nsmallest(count, range(len(items)), key=rank))]


@dataclass(frozen=True)
class Task:
    """A named benchmark."""

    name: str
    load: Callable[[Path], Sequence[Item]]
    """Reads the items from a folder of benchmark files, at once or lazily, one by one."""
    files: tuple[str, ...] = ()
    """Files it needs below that folder."""
    version: int = 1
    kind: str = "choice"
    """``choice``: accuracy among candidates. ``generate``: generated text against the right
    answers. ``text``: perplexity."""
    scoring: str = "whole"
    """How a candidate is scored: its ``whole`` text after the context; as published, its
    ``first_token``, or the ``sequence`` of context and candidate by mean loss per token."""
    counted: str = "each"
    """``each`` wording counts; as in ViComTe, an item is right when ``any`` wording is."""
    paired: bool = False
    """Whether items are the sides of minimal pairs, two and two."""
    both_orders: bool = False
    """Whether the second half of an item's questions are the first half's in the other order."""
    policy: str = "item"
    """What is imagined: what the item is about (``item``), or what a policy of
    ``vlmig.imagination.prompts`` makes of each question."""
    mix: str | None = None
    """The mixing rule of the headline, where what is asked decides it; None for the model's."""
    weights: str | None = None
    """Image weights of a published script; None for the model's."""
    split: str = "test"
    demonstrations: Callable[[Path], list[Item]] = lambda _: []
    """Reads solved items for the few-shot control."""
    demonstration_files: tuple[str, ...] = ()
    max_new_tokens: int = 0
    statement: str = "{picture} {choice}"
    """The text that CLIP compares with the images, for each candidate."""
    open_image: Callable[[Path, Pair], Image.Image] | None = None
    """Reads an item's own image from a folder of benchmark files, where items have one."""

    @property
    def has_donors(self) -> bool:
        """Whether other items' images can stand in the place of an item's."""
        return self.open_image is not None or (self.kind == "choice" and not self.paired)
