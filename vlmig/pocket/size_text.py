"""Texts about several things: which is larger, and what an image of them shows.

A text says which is larger for ``supervised`` concepts only, of scenes at random scale; texts that
name things, or say which of two is seen better, may be of any.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from vlmig.pocket.concepts import load_concepts
from vlmig.pocket.text import invented_noun, with_article

SIZE_WORDS = tuple(
    (
        "large, larger, largest, big, bigger, biggest, small, smaller, smallest, tiny, huge, tall, "
        "taller, tallest, short, shorter, long, longer, high, higher, size, sizes"
    ).split(", ")
)


class Comparison(NamedTuple):
    """The words of a comparison."""

    more: tuple[str, ...]
    less: tuple[str, ...]


SIZE = Comparison(("larger", "bigger"), ("smaller",))
SIGHT = Comparison(
    ("more visible", "clearer", "nearer", "brighter"),
    ("less visible", "fainter", "farther", "dimmer"),
)
"""How well an image shows two things, or one that is not there."""
INVENTED = 0.5
"""Share of such comparisons by an invented word. Where any word asks which thing is seen better,
the words of size, which are taught with few things, ask so of all."""
QUESTIONS = 0.7
"""Share of comparisons that are a question and its answer."""
WHETHER = 0.1
"""Share of those that are answered by yes or no, which teach the least."""
_STATEMENTS = (
    "{M} is {more} than {l}.",
    "{L} is {less} than {m}.",
    "In the picture {m} is {more} than {l}.",
    "Of {x} and {y}, the {more} one is {m}.",
    "Of {x} and {y}, the {less} one is {l}.",
)
_CHOICES = _STATEMENTS[-2:]
"""Statements that name one of two: of what is not in the image, an image tells no name."""
_WHICH = (
    "Which is {more}, {x} or {y}?",
    "Which one is {more}, {x} or {y}?",
    "What is {more}, {x} or {y}?",
    "Which is {less}, {x} or {y}?",
    "Which one is {less}, {x} or {y}?",
    "What is {less}, {x} or {y}?",
)
_WHETHER = ("Is {x} {more} than {y}?", "Is {x} {less} than {y}?")
_FRAMES = ("{q}", "{q} Answer:", "Question: {q} Answer:", "Q: {q} A:")
_ANSWERS = {
    "m": ("{v}.", "{v}.", "most: {v}.", "{a} most: {n}."),
    "l": ("{v}.", "{v}.", "least: {v}.", "{a} least: {n}."),
}
"""By what is asked for. Some say it again, whatever the word was, before the answer or behind its
article: so an LM's states there hold whether more or less was asked for, and alike for all words.
Only so can an adapter that fuses images with these states tell one from the other. In lower case:
the tokenizer begins "Most" and "Least" with the same token."""
_GROUPS = (
    "{together}",
    "a photo of {together}",
    "a picture of {together}",
    "an image of {together}",
    "{beside}",
    "this is {together}",
)
_NAMED = (
    "There is {together} in the picture.",
    "This is {together}.",
    "The picture shows {together}.",
    "I saw {together}.",
    "What is this? It is {together}.",
)


Told = tuple[str, tuple[tuple[int, int], ...]]
"""A text, and the spans of what only an image tells, in characters."""


def comparison(
    more: str, less: str, words: Comparison, rng: random.Random, asks_less: bool = True
) -> Told:
    """Compare two nouns: as a statement, or as a question of either order and its answer.

    Args:
        more, less: the larger noun and the smaller one; or that which is seen better and the other.
        asks_less: whether it may ask for less, or say it.
    """
    fields = _compared(more, less, words, rng)
    is_question = rng.random() < QUESTIONS
    forms: Sequence[str] = _STATEMENTS if words is SIZE else _CHOICES
    if is_question:
        forms = _WHETHER if rng.random() < WHETHER else _WHICH
    form = rng.choice([form for form in forms if asks_less or "{less}" not in form])
    return _question(form, fields, rng) if is_question else _marked(form, fields)


def _compared(more: str, less: str, words: Comparison, rng: random.Random) -> dict[str, str]:
    """Draw what the forms of a comparison are filled with."""
    article = rng.choice((with_article, "the {}".format))
    first, second = article(more), article(less)
    x, y = (first, second) if rng.random() < 0.5 else (second, first)
    fields = {"m": first, "l": second, "M": _capital(first), "L": _capital(second), "x": x, "y": y}
    fields |= {"more": rng.choice(words.more), "less": rng.choice(words.less)}
    if words is SIGHT and rng.random() < INVENTED:
        invented = invented_noun(rng)
        fields["more"] = rng.choice((f"more {invented}", f"{invented}er"))
        fields["less"] = f"less {invented}"
    return fields


def _question(form: str, fields: dict[str, str], rng: random.Random) -> Told:
    """Ask, and answer."""
    key = "m" if "{more}" in form else "l"
    answer, end = fields[rng.choice((key, key.upper()))], rng.choice(_ANSWERS[key])
    if form in _WHETHER:
        answer, end = "Yes" if fields[key] == fields["x"] else "No", "{v}."
    question = rng.choice(_FRAMES).format(q=form.format(**fields))
    article, _, noun = answer.partition(" ")
    return _marked(f"{question} {end}", {"v": answer, "a": article, "n": noun})


def naming_sentence(nouns: Sequence[str], rng: random.Random) -> Told:
    """Name things in the order given, and say nothing else of them."""
    phrases = {f"t{number}": with_article(noun) for number, noun in enumerate(nouns)}
    form = rng.choice(_NAMED).format(together=together([f"{{{name}}}" for name in phrases]))
    return _marked(form, phrases)


def size_corpus(seed: int, sentences: int) -> list[str]:
    """Draw sentences for the language model: comparisons of the sizes of invented and
    ``supervised`` things, either as often the larger one; comparisons of what is seen, and names
    together, of any concepts.

    They teach the wordings and no size, so that an image has only the answer to tell.
    """
    rng = random.Random(seed)
    supervised = [concept for concept in load_concepts() if concept.split == "supervised"]
    texts = []
    for _ in range(sentences):
        one, two = (rng.choice(concept.names) for concept in rng.sample(load_concepts(), 2))
        if rng.random() < 0.2:
            texts.append(naming_sentence([one, two], rng)[0])
            continue
        words = rng.choice((SIZE, SIGHT))
        if words is SIZE:
            one, two = (rng.choice(concept.names) for concept in rng.sample(supervised, 2))
            one, two = rng.sample((one, rng.choice((two, invented_noun(rng)))), 2)
        texts.append(comparison(one, two, words, rng)[0])
    return texts


def group_captions(nouns: Sequence[str]) -> list[str]:
    """Return the captions of an image of several things, for the models that make and name
    images: their names in the order given, and nothing of their sizes."""
    phrases = [with_article(noun) for noun in nouns]
    beside = f"{together(phrases[:-1])} beside {phrases[-1]}"
    forms = [form.format(together=together(phrases), beside=beside) for form in _GROUPS]
    return [*forms, together(nouns), together([f"the {noun}" for noun in nouns])]


def together(phrases: Sequence[str]) -> str:
    """Join phrases: ``an ant, a bus and a cup``."""
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last


def _marked(form: str, fields: dict[str, str]) -> Told:
    """Fill a form in, and return where it has fields that a text does not ask about."""
    text, spans = "", []
    for token in re.split(r"({\w+})", form):
        name = token[1:-1] if token.startswith("{") else ""
        value = fields[name] if name else token
        if name and name not in ("x", "y", "more", "less"):
            spans.append((len(text), len(text) + len(value)))
        text += value
    return text, tuple(spans)


def _capital(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:]
