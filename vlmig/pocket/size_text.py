"""Texts about several things: which is larger, and what an image of them shows.

A text says which is larger for ``supervised`` concepts only, of scenes at random scale; texts that
only name things may name any.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from vlmig.pocket.concepts import load_concepts
from vlmig.pocket.text import invented_noun, with_article

SIZE_WORDS = tuple(
    (
        "large, larger, largest, big, bigger, biggest, small, smaller, smallest, tiny, huge, tall, "
        "taller, tallest, short, shorter, long, longer, high, higher, size, sizes"
    ).split(", ")
)
_LARGER = ("larger", "bigger")
_STATEMENTS = (
    "{L} is {larger} than {s}.",
    "{S} is smaller than {l}.",
    "Of {x} and {y}, the {larger} one is {l}.",
    "Of {x} and {y}, the smaller one is {s}.",
    "In the picture {l} is {larger} than {s}.",
)
_WHICH = (
    ("Which is {larger}, {x} or {y}?", "l"),
    ("Which one is {larger}, {x} or {y}?", "l"),
    ("What is {larger}, {x} or {y}?", "l"),
    ("Which is smaller, {x} or {y}?", "s"),
)
_WHETHER = (
    ("Is {x} {larger} than {y}?", "l"),
    ("Is {x} {larger} than {y}?", "l"),
    ("Is {x} smaller than {y}?", "s"),
)
_FRAMES = (
    "{q} {v}.",
    "{q} Answer: {v}.",
    "Question: {q} Answer: {v}.",
    "Q: {q} A: {v}.",
)
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


def size_sentence(larger: str, smaller: str, rng: random.Random) -> Told:
    """Say that one noun is larger than another: as a statement, or as a question of either order
    and its answer."""
    article = rng.choice((with_article, "the {}".format))
    large, small = article(larger), article(smaller)
    x, y = (large, small) if rng.random() < 0.5 else (small, large)
    nouns = {"l": large, "s": small, "L": _capital(large), "S": _capital(small), "x": x, "y": y}
    nouns["larger"] = rng.choice(_LARGER)
    kind = rng.random()
    if kind < 0.3:
        return _marked(rng.choice(_STATEMENTS), nouns)
    form, key = rng.choice(_WHICH if kind < 0.65 else _WHETHER)
    answer = nouns[rng.choice((key, key.upper()))]
    if form.startswith("Is"):
        answer = "Yes" if nouns[key] == x else "No"
    question = form.format(**nouns)
    return _marked(rng.choice(_FRAMES).replace("{q}", question), {"v": answer})


def naming_sentence(nouns: Sequence[str], rng: random.Random) -> Told:
    """Name things in the order given, and say nothing else of them."""
    phrases = {f"t{number}": with_article(noun) for number, noun in enumerate(nouns)}
    form = rng.choice(_NAMED).format(together=together([f"{{{name}}}" for name in phrases]))
    return _marked(form, phrases)


def size_corpus(seed: int, sentences: int) -> list[str]:
    """Draw sentences for the language model: comparisons of invented and ``supervised`` things,
    either as often the larger one, and the names of any concepts together.

    They teach the wordings and no size, so that an image has only the answer to tell.
    """
    rng = random.Random(seed)
    supervised = [concept for concept in load_concepts() if concept.split == "supervised"]
    texts = []
    for _ in range(sentences):
        if rng.random() < 0.7:
            one, two = (rng.choice(concept.names) for concept in rng.sample(supervised, 2))
            larger, smaller = rng.sample((one, rng.choice((two, invented_noun(rng)))), 2)
            texts.append(size_sentence(larger, smaller, rng)[0])
        else:
            concepts = rng.sample(load_concepts(), 2)
            texts.append(naming_sentence([rng.choice(c.names) for c in concepts], rng)[0])
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
        if name and name not in ("x", "y", "larger"):
            spans.append((len(text), len(text) + len(value)))
        text += value
    return text, tuple(spans)


def _capital(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:]
