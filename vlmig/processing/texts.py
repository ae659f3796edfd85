"""Checks of what callers pass as texts: a bare text where a list is wanted would be split into
letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from vlmig.errors import VLMIGError
from vlmig.io.rows import is_unicode


def _check_unicode(*texts: str) -> None:
    if is_unicode(*texts):
        return
    for text in texts:
        if not is_unicode(text):
            raise VLMIGError(
                f"{text!r} is no Unicode text (lone surrogates); expected UTF-8: correct it"
            )


def check_texts(name: str, texts: Any) -> None:
    """Insist on a list of texts.

    Args:
        name: the argument's, for errors.

    Raises:
        VLMIGError: one bare text, no list, or something in it that is no text.
    """
    if isinstance(texts, str):
        raise VLMIGError(f"{name}={texts!r} is one text; expected a list of texts: [{texts!r}]")
    if not isinstance(texts, Iterable):
        raise VLMIGError(f"{name}={texts!r} is a {type(texts).__name__}; expected a list of texts")
    for text in texts:
        if not isinstance(text, str):
            kind = type(text).__name__
            raise VLMIGError(f"{name} holds {text!r}, a {kind}; expected a list of texts")
    _check_unicode(*texts)


def check_pairs(pairs: Any) -> None:
    """Insist on a list of (context, continuation).

    Raises:
        VLMIGError: something else.
    """
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise VLMIGError(f"pairs={pairs!r}; expected a list of (context, continuation)")
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(t, str) for t in pair):
            raise VLMIGError(f"pairs holds {pair!r}; expected (context, continuation), two texts")
        _check_unicode(*pair)


def check_question(question: Any, choices: Sequence[str] | None) -> None:
    """Insist on a question, and on two or more different choices if there are any.

    Raises:
        VLMIGError: something else.
    """
    if not isinstance(question, str):
        raise VLMIGError(f"question={question!r} is a {type(question).__name__}; expected a text")
    if not question.strip():
        raise VLMIGError(
            'the question is empty; ask something, e.g. "What is the color of a banana?"'
        )
    _check_unicode(question)
    if choices is None:
        return
    if isinstance(choices, str):
        names = [name.strip() for name in choices.split(",")]
        raise VLMIGError(f"choices={choices!r} is one text; expected a list of texts: {names}")
    check_texts("choices", choices)
    if len(set(choices)) < 2:
        raise VLMIGError(f"choices={list(choices)}; expected at least two different answers")
    twice = [text for text, count in Counter(map(str.strip, choices)).items() if count > 1]
    if twice:
        raise VLMIGError(f"choices={list(choices)} has {twice[0]!r} twice; leave one of them out")
