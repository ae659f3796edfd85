"""The teacher's replies: parsed strictly, or rejected with a reason that can be counted."""

from __future__ import annotations

import json
import re
from typing import Any

from vlmig.io.rows import is_unicode
from vlmig.models.config import IMAGE

Turns = list[tuple[str, str]]
"""Questions with their answers."""
SIZES: dict[str, dict[str, tuple[int, int]]] = {
    "conversation": {"question": (2, 60), "answer": (1, 160)},
    "detail": {"question": (0, 99), "answer": (30, 400)},
    "reasoning": {"question": (4, 80), "answer": (30, 400)},
}
"""Fewest and most words, by kind."""
TURNS = 2, 10
"""Fewest and most turns of a conversation."""
LEAKS = re.compile(
    r"\bcaptions?\b|\b(bounding )?box(es)? (coordinates?|says?|shows?)\b"
    r"|\bbounding[ -]box|\bbbox|\bcoordinates?\b|\[[^\]]*\d[^\]]*\]"
    r"|\b(the|these|those|your) (lines|notes|phrases|descriptions?)"
    r" (says?|tells?|mentions?|states?|gives?|lists?|provided|above)\b"
    r"|\b(provided|given) (lines|notes|text|descriptions?|phrases|list)\b"
    r"|\baccording to the (text|descriptions?|lines|list|notes)\b",
    re.IGNORECASE,
)
"""Words that show that the writer was told about the image and does not see it."""
REFUSALS = re.compile(
    r"\bas an? (ai|language model|text-based)\b"
    r"|\b(i|we) (can ?not|can't|am unable to|'m unable to|am not able to)"
    r" (see|view|look|access|assist|help)\b"
    r"|\bi('m| am) sorry\b|\bi do(n't| not) have (access|the ability)\b"
    r"|\bwithout (seeing|access to) the (image|picture|photo)",
    re.IGNORECASE,
)
FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL | re.IGNORECASE)
THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


class BadReply(Exception):
    """A bad reply; the message is the reason, the same for all of its kind, so that it can be
    counted."""


def read_reply(kind: str, text: str, request: str = "") -> Turns:
    """Read the turns of a reply.

    Args:
        kind: which form is expected.
        text: the reply: a JSON object, bare or in one fenced block; what a model thinks aloud
            before it is left out.
        request: the question of a detailed description, whose replies are answers alone.

    Raises:
        BadReply: it is not of that form, or not fit to learn from.
    """
    if "\ufffd" in text or not is_unicode(text):
        raise BadReply("not Unicode")
    value = _parsed(text)
    if kind == "conversation":
        turns = []
        for turn in _field(value, "turns", list):
            question, answer = _field(turn, "question", str), _field(turn, "answer", str)
            turns.append((question.strip(), answer.strip()))
        if not TURNS[0] <= len(turns) <= TURNS[1]:
            raise BadReply(f"not {TURNS[0]} to {TURNS[1]} turns")
    else:
        question = request if kind == "detail" else _field(value, "question", str).strip()
        turns = [(question, _field(value, "answer", str).strip())]
    _check(kind, turns)
    return turns


def _parsed(text: str) -> Any:
    text = THOUGHT.sub("", text, count=1).strip()
    fenced = FENCE.findall(text)
    try:
        return json.loads(fenced[0] if len(fenced) == 1 else text)
    except (ValueError, RecursionError):
        raise BadReply("not JSON") from None


def _field(value: Any, name: str, kind: type) -> Any:
    if not isinstance(value, dict):
        raise BadReply("not a JSON object")
    if name not in value:
        raise BadReply(f"no {name}")
    if not isinstance(value[name], kind):
        raise BadReply(f"{name} of the wrong type")
    return value[name]


def _check(kind: str, turns: Turns) -> None:
    """Reject what would teach something wrong.

    Raises:
        BadReply: with the first fault.
    """
    questions = set()
    for question, answer in turns:
        for name, words in (("question", question), ("answer", answer)):
            fewest, most = SIZES[kind][name]
            count = len(words.split())
            if not words:
                raise BadReply(f"empty {name}")
            if not fewest <= count <= most:
                raise BadReply(f"{name} too {'short' if count < fewest else 'long'}")
            if not is_unicode(words):  # JSON may spell halves of characters
                raise BadReply("not Unicode")
            if IMAGE in words:
                raise BadReply("has an image mark")
            if LEAKS.search(words):
                raise BadReply("speaks of captions, boxes or coordinates")
        if REFUSALS.search(answer):
            raise BadReply("refused to answer")
        plain = _plain(question)
        if _plain(answer).startswith(plain):
            raise BadReply("answer repeats the question")
        if plain in questions:
            raise BadReply("question asked twice")
        questions.add(plain)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
