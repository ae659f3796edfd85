"""What is measured: a task has items, an item has questions (its wordings), a question has candidates.

Every question of an item shares one set of pictures, and an answer never reaches the picture's prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


def parts_of(question: Question, apart: bool = False) -> list[tuple[str, list[str]]]:
    """Put a question's candidates behind the texts that they continue: all behind one, or each behind its own.

    Args:
        apart: whether they are scored one by one although they share their text.
    """
    whole = range(len(question.continuations))
    split = [(c,) for c in whole] if apart or len(question.contexts) > 1 else [tuple(whole)]
    return [
        (question.context(part[0]), [question.continuations[c] for c in part]) for part in split
    ]


@dataclass(frozen=True, slots=True)
class Question:
    """An item in one of its wordings."""

    contexts: tuple[str, ...]
    """What the LM reads: one text for all candidates, or one for each."""
    continuations: tuple[str, ...]
    """What is scored behind it, one for each candidate; none where text is generated."""
    answer: int
    """Index of the right candidate; -1 where text is generated."""

    def context(self, candidate: int) -> str:
        """Return what stands before a candidate."""
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

    @property
    def label(self) -> str:
        """Name the right answer (of the first wording)."""
        return self.choices[max(self.questions[0].answer, 0)] if self.choices else ""

    def described(self) -> dict[str, Any]:
        """Return all fields by name, as JSON takes them; ``dataclasses.asdict`` takes ten times as long."""
        own = {name: getattr(self, name) for name in Item.__slots__}
        return own | {
            "questions": [
                {name: getattr(q, name) for name in Question.__slots__} for q in self.questions
            ]
        }

    def taught(self, demonstrations: Sequence[Item]) -> Item | None:
        """Put solved items with these candidates in front of every question; None where there are none.

        Each stands in the question's own wording, with a full stop behind its answer (Xia et al. 2023).
        """
        shown = [
            d
            for d in demonstrations
            if set(self.choices) <= set(d.choices) and d.cluster != self.cluster
        ]
        if not shown:
            return None
        questions = []
        for i, question in enumerate(self.questions):
            solved = [(d.questions[i], d.questions[i].answer) for d in shown]
            lines = [f"{q.context(a).strip()} {q.continuations[a].strip()}. " for q, a in solved]
            questions.append(
                replace(question, contexts=tuple("".join(lines) + c for c in question.contexts))
            )
        return replace(self, questions=tuple(questions))


@dataclass(frozen=True)
class Task:
    """A named benchmark."""

    name: str
    load: Callable[[Path], Sequence[Item]]
    """Reads the items from a folder of benchmark files: a list, or a sequence that makes an item when it is asked for."""
    files: tuple[str, ...] = ()
    """Files it needs below that folder."""
    version: int = 1
    kind: str = "choice"
    """``choice``: accuracy among candidates. ``generate``: text against the right answers. ``text``: perplexity."""
    scoring: str = "whole"
    """How a candidate is scored: its ``whole`` text behind the context; as published, its ``first_token``, or the ``sequence`` of
    context and candidate by mean loss per token."""
    counted: str = "each"
    """``each`` wording counts; as ViComTe counts, an item is right when ``any`` wording is."""
    policy: str = "item"
    """What is imagined: what the item is about, or what a policy of ``vlmig.imagination.prompts`` makes of each question."""
    weights: str | None = None
    """Weights of the pictures where a published script has its own."""
    split: str = "test"
    demonstrations: Callable[[Path], list[Item]] = lambda _: []
    """Reads solved items for the few-shot control."""
    demonstration_files: tuple[str, ...] = ()
    max_new_tokens: int = 0
    statement: str = "{picture} {choice}"
    """What CLIP compares with the pictures, for each candidate."""
