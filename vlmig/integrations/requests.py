"""What a harness asks, put in order: requests about one document are its candidates; and what to imagine for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmig.errors import VLMIGError

Shown = tuple[str, str]
"""What to imagine: a text, and the policy that makes prompts of it."""
CUE = re.compile(r"(?:a|ans|answer)?\W*", re.IGNORECASE)
"""A paragraph that only asks for the answer."""


@dataclass(frozen=True)
class Part:
    """Candidates that are read behind one context, beside one set of pictures."""

    context: str
    continuations: tuple[str, ...]
    shown: Shown | None
    """None: text alone."""


@dataclass
class Asked:
    """One document's candidates, or a lone text to score."""

    doc: Any
    pairs: list[tuple[str, str]] = field(default_factory=list)
    """Distinct (context, continuation), letter by letter."""
    parts: list[Part] = field(default_factory=list)
    """All candidates together, or one by one where contexts or pictures differ; in the order of ``pairs``."""

    @property
    def lone(self) -> bool:
        """Whether there is nothing to choose between."""
        return len(self.pairs) == 1

    @property
    def pictured(self) -> bool:
        """Whether there is anything to imagine."""
        return self.parts[0].shown is not None

    @property
    def shared(self) -> bool:
        """Whether all candidates are read beside the same pictures."""
        return len({part.shown for part in self.parts}) == 1


def gathered(
    requests: Sequence[Any], policy: str | None
) -> tuple[list[Asked], list[tuple[int, int]]]:
    """Put the requests about one document together, wherever they stand.

    Requests with an empty context beside others (lm-eval's ``acc_mutual_info``) ask for the candidates by themselves: they
    are a question of their own, which pictures have no say in.

    Args:
        requests: lm-eval's instances of (context, continuation).
        policy: what to imagine of a context, see ``shown``; nothing when None.

    Returns:
        The questions, and for each request its (question, candidate).
    """
    questions: dict[tuple[Any, ...], Asked] = {}
    names = []
    for i, request in enumerate(requests):
        document = (request.task_name, request.doc_id, i if request.doc_id is None else None)
        names.append((*document, bool(request.args[0].strip())))
        question = questions.setdefault(names[-1], Asked(request.doc))
        if request.args not in question.pairs:
            question.pairs.append(request.args)
    for name, question in questions.items():
        unconditional = not name[-1] and (*name[:-1], True) in questions
        question.parts = list(_parts(question, None if unconditional else policy))
    order = {name: i for i, name in enumerate(questions)}
    asked = list(questions.values())
    places = [
        (order[name], questions[name].pairs.index(r.args))
        for name, r in zip(names, requests, strict=True)
    ]
    return asked, places


def alike(questions: list[Asked], count: int) -> Iterator[list[int]]:
    """Yield the places of questions that can be answered together, at most ``count`` at a time."""
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for i, question in enumerate(questions):
        kinds.setdefault((question.lone, question.pictured), []).append(i)
    for members in kinds.values():
        for start in range(0, len(members), count):
            yield members[start : start + count]


def _parts(question: Asked, policy: str | None) -> Sequence[Part]:
    """Split a question where it must be; without a policy nothing is imagined."""
    own = []
    for pair in question.pairs:
        context, continuation = moved(*pair)
        option = "" if question.lone else continuation
        own.append(
            Part(
                context,
                (continuation,),
                shown(question.doc, context, policy, option) if policy else None,
            )
        )
    first = own[0]
    if all((part.context, part.shown) == (first.context, first.shown) for part in own):
        return [
            Part(first.context, tuple(c for part in own for c in part.continuations), first.shown)
        ]
    return own


def moved(context: str, continuation: str) -> tuple[str, str]:
    """Let the spaces at a context's end begin the continuation, as lm-eval's own models do: tokens begin with a space."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def shown(doc: Any, context: str, policy: str, option: str = "") -> Shown | None:
    """Say what to imagine: the document's field ``picture``, or what a policy makes of the context's last paragraph.

    Descriptions and few-shot examples stand in paragraphs of their own before the question, and are not what it is about.

    Args:
        option: the candidate, which only the policy ``option`` draws.

    Returns:
        None where there is no text at all.

    Raises:
        VLMIGError: the policy ``option`` where there is nothing to choose between.
    """
    picture = doc.get("picture") if isinstance(doc, Mapping) else None
    if isinstance(picture, str) and picture.strip():
        return picture.strip(), "question"
    text = last_paragraph(context)
    if policy == "option":
        if not option.strip():
            raise VLMIGError(
                "policy=option draws each answer of a choice, and this task has none to choose between; expected another policy"
            )
        return f"{text} {option.strip()}".strip(), "question"
    return (text, policy) if text else None


def last_paragraph(text: str) -> str:
    """Return a text's last paragraph that says more than ``Answer:``."""
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    return next((part for part in reversed(paragraphs) if not CUE.fullmatch(part)), "")
