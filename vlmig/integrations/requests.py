"""lm-eval's requests, grouped: those about one document are its candidates; what to imagine for
them, and where an answer ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmig.errors import VLMIGError
from vlmig.processing.pairs import moved

ImagePrompt = tuple[str, str]
"""What to imagine: a text, and the policy that turns it into prompts."""
CUE = re.compile(r"(?:a|ans|answer)?\W*", re.IGNORECASE)
"""A paragraph that only asks for the answer."""


@dataclass(frozen=True)
class ContextGroup:
    """Candidates with one context and one set of images."""

    context: str
    continuations: tuple[str, ...]
    prompt: ImagePrompt | None
    """None: text alone."""


@dataclass
class Candidates:
    """One document's candidates, or a single text to score."""

    doc: Any
    pairs: list[tuple[str, str]] = field(default_factory=list)
    """Distinct (context, continuation), verbatim."""
    groups: list[ContextGroup] = field(default_factory=list)
    """All candidates together, or one by one where contexts or images differ; in the order of
    ``pairs``."""

    @property
    def single(self) -> bool:
        """Whether there is nothing to choose between."""
        return len(self.pairs) == 1

    @property
    def with_images(self) -> bool:
        """Whether there is anything to imagine."""
        return self.groups[0].prompt is not None

    @property
    def shared(self) -> bool:
        """Whether all candidates have the same images."""
        return len({group.prompt for group in self.groups}) == 1


def gathered(
    requests: Sequence[Any], policy: str | None
) -> tuple[list[Candidates], list[tuple[int, int]]]:
    """Put the requests about one document together, in whatever order they come.

    Requests with an empty context next to others (lm-eval's ``acc_mutual_info``) score the
    candidates by themselves: they are a question of their own, without images.

    Args:
        requests: lm-eval's instances of (context, continuation).
        policy: what to imagine of a context, see ``image_prompt``; nothing when None.

    Returns:
        The questions, and for each request its (question, candidate).
    """
    questions: dict[tuple[Any, ...], Candidates] = {}
    names = []
    for i, request in enumerate(requests):
        document = (request.task_name, request.doc_id, i if request.doc_id is None else None)
        names.append((*document, bool(request.args[0].strip())))
        question = questions.setdefault(names[-1], Candidates(request.doc))
        if request.args not in question.pairs:
            question.pairs.append(request.args)
    for name, question in questions.items():
        unconditional = not name[-1] and (*name[:-1], True) in questions
        question.groups = _groups(question, None if unconditional else policy)
    order = {name: i for i, name in enumerate(questions)}
    positions = []
    for name, request in zip(names, requests, strict=True):
        positions.append((order[name], questions[name].pairs.index(request.args)))
    return list(questions.values()), positions


def alike(questions: list[Candidates], count: int) -> Iterator[list[int]]:
    """Yield the indices of questions that can be answered together, at most ``count`` at a time."""
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for i, question in enumerate(questions):
        kinds.setdefault((question.single, question.with_images), []).append(i)
    for members in kinds.values():
        for start in range(0, len(members), count):
            yield members[start : start + count]


def _groups(question: Candidates, policy: str | None) -> list[ContextGroup]:
    """Group a question's candidates where context and images are the same; without a policy nothing
    is imagined."""
    separate = []
    for pair in question.pairs:
        context, continuation = moved(*pair)
        option = "" if question.single else continuation
        prompt = image_prompt(question.doc, context, policy, option) if policy else None
        separate.append(ContextGroup(context, (continuation,), prompt))
    first = separate[0]
    if any((group.context, group.prompt) != (first.context, first.prompt) for group in separate):
        return separate
    continuations = tuple(group.continuations[0] for group in separate)
    return [ContextGroup(first.context, continuations, first.prompt)]


def image_prompt(doc: Any, context: str, policy: str, option: str = "") -> ImagePrompt | None:
    """Return what to imagine: the document's field ``picture``, or what a policy makes of the
    context's last paragraph.

    Descriptions and few-shot examples are paragraphs before the question, which is not about them.

    Args:
        option: the candidate, which only the policy ``option`` shows.

    Returns:
        None where there is no text at all.

    Raises:
        VLMIGError: the policy ``option`` where there is nothing to choose between.
    """
    image = doc.get("picture") if isinstance(doc, Mapping) else None
    if isinstance(image, str) and image.strip():
        return image.strip(), "question"
    text = last_paragraph(context)
    if policy == "option":
        if not option.strip():
            raise VLMIGError(
                "policy=option draws each answer of a choice, and this task has none to choose "
                "between; expected another policy"
            )
        return f"{text} {option.strip()}".strip(), "question"
    return (text, policy) if text else None


def last_paragraph(text: str) -> str:
    """Return a text's last paragraph that says more than ``Answer:``."""
    for paragraph in map(str.strip, reversed(text.split("\n\n"))):
        if not CUE.fullmatch(paragraph):  # which an empty one matches, too
            return paragraph
    return ""


def by_policy(prompts: Iterable[ImagePrompt | None]) -> dict[str, list[ImagePrompt]]:
    """Group image prompts, each once, by their policy."""
    groups: dict[str, list[ImagePrompt]] = {}
    for prompt in filter(None, dict.fromkeys(prompts)):
        groups.setdefault(prompt[1], []).append(prompt)
    return groups


def before_stop(text: str, until: Sequence[str]) -> str:
    """Return a text up to the first of the stop texts."""
    positions = [text.find(stop) for stop in until if stop in text]
    return text[: min(positions, default=len(text))]
