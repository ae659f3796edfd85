"""All training texts of the pocket world.

There are three kinds. *Image captions* (for generator and encoder) have a name and no color or
shape. *Language-model text* is about all concepts, but states the color or shape of ``supervised``
ones only. *Adapter captions* describe a recolored scene of a supervised concept. No sentence names
a held-out concept with a color, a shape or a size; ``tests/test_pocket_honesty.py`` checks every
sentence. Texts about several things are in ``size_text``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import product
from typing import Literal

from vlmig.pocket.concepts import Concept, load_concepts, plural

SENTENCES = 100_000
CORPUS_SEED = 11
HELD_OUT_SEED = 12
_CAPTION_FORMS = (
    "a photo of {a}",
    "a picture of {a}",
    "an image of the {n}",
    "{p}",
    "the {n}",
    "a small {n}",
    "this is {a}",
    "what does {a} look like?",
    "what is the color of {a}?",
    "what color is the {n}?",
    "what is the shape of the {n}?",
    "the color of the {n} is",
    "{a} on a table",
    "{a} outdoors",
)


def with_article(noun: str) -> str:
    """Put the indefinite article before a noun phrase."""
    return ("an " if noun[0] in "aeiou" and not noun.startswith(("uni", "euro")) else "a ") + noun


def picture_captions(concept: Concept) -> list[str]:
    """Return every caption of a concept's images: its names, then each name in each phrasing."""
    captions = list(concept.names)
    for name, form in product(concept.names, _CAPTION_FORMS):
        captions.append(form.format(n=name, a=with_article(name), p=plural(name)))
    return captions


Label = Literal["color", "shape"]
COLOR_WORDS = tuple(
    ("black, white, red, green, yellow, blue, brown, orange, pink, purple, gray, silver").split(
        ", "
    )
)
SHAPE_WORDS = tuple(
    (
        "round, oval, square, rectangle, triangle, star, heart, cross, octagon, polygon, rhombus, "
        "semicircle, curved, cylinder, straight, cone, curly"
    ).split(", ")
)
_QUESTIONS: dict[str, tuple[str, ...]] = {
    "color": (
        "What is the color of {d}?",
        "What's the color of {d}?",
        "What color is {d}?",
        "What color are {p}?",
        "What color are most {p}?",
        "What is the color of most {p}?",
        "What is the main color of {d}?",
        "What is the main color of {p}?",
        "What is the typical color of {d}?",
        "What is the usual color of {d}?",
        "What is the common color of {d}?",
        "What color is the {part} of {d}?",
        "What is the color of the {part} of {d}?",
        "What is the color of the {n}'s {part}?",
        "What color is {d} {part}?",
        "What color do {p} have?",
    ),
    "shape": (
        "What is the shape of {d}?",
        "What's the shape of {d}?",
        "What shape is {d}?",
        "What shape are {p}?",
        "What is the typical shape of {d}?",
        "What is the shape of most {p}?",
        "What is the shape of the {part} of {d}?",
        "What shape is the {n}'s {part}?",
    ),
}
_STATEMENTS: dict[str, tuple[str, ...]] = {
    "color": (
        "The color of {d} is {v}.",
        "The usual color of {d} is {v}.",
        "The common color of {d} is {v}.",
        "The typical color of {d} is {v}.",
        "{D} usually has the color of {v}.",
        "{D} is {v}.",
        "{P} are {v}.",
        "{P} are usually {v}.",
        "The {n} in the picture is {v}.",
        "I saw a {v} {n}.",
    ),
    "shape": (
        "{D} can be of shape {v}.",
        "{D} has shape {v}.",
        "{D} is of shape {v}.",
        "The shape of {d} can be {v}.",
        "The shape of {d} is {v}.",
    ),
}
_FRAMES = (
    "{q} {v}.",
    "{q} Answer: {v}.",
    "{q} The answer is {v}.",
    "Question: {q} Answer: {v}.",
    "Question: {q} The answer is {v}.",
    "Q: {q} A: It is {v}.",
    "{q} It is {v}.",
)


# Invented nouns, which texts combine with every color and shape. So an unknown noun makes the color
# uncertain, and the adapter learns to read colors off an image whatever the noun is.
_INVENTED = tuple(
    first + second
    for first in "blo dra fe glu ki mor ne pla quo sni tro vu wem yar zi".split()
    for second in "bbin dax ffle gop lmick mpet nzo rvel sk thoo tton vva xle".split()
)


# Weights of color words for invented nouns: common words a little more often.
_COLOR_WEIGHTS = dict(zip(COLOR_WORDS, (9, 10, 9, 9, 8, 9, 8, 6, 6, 6, 8, 4), strict=True))
_PARTS = tuple(
    ("body, top, side, front, outside, surface, head, tail, back, skin, middle").split(", ")
)
_PEOPLE = tuple(
    (
        "I, we, they, my sister, the boy next door, our teacher, her uncle, the old woman, a "
        "tourist, his neighbor, the whole family, two students, the mayor, a visitor, my friend, "
        "the guide"
    ).split(", ")
)
_ACTS = tuple(
    (
        "saw, found, talked about, drew, asked about, noticed, forgot about, dreamed about, "
        "pointed at, described, remembered, read about, wrote about, looked at, took a picture of, "
        "searched for"
    ).split(", ")
)
_PLACES = tuple(
    (
        "in the morning, near the river, at the market, last summer, in the city, on the way home, "
        "at the museum, in the garden, before dinner, during the trip, on a quiet street, "
        "yesterday, after school, in a story, by the window, on the radio, for the first time, in "
        "the evening, at work, in a dream"
    ).split(", ")
)
_PLAIN = (
    "{S} {act} {d} {place}.",
    "{S} {act} {p} {place}.",
    "Have you ever seen {a}? Yes, {place}.",
    "There was {a} {place}.",
    "{P} are easy to find {place}.",
    "The {n} was gone {place}.",
    "Do you like {p}? Yes, very much.",
    "What is {a}? It is something {s} {act} {place}.",
    "{S} gave me {a} {place}.",
    "Nobody knew who had brought the {n}.",
    "This is {a}.",
    "The story of the {n} was told {place}.",
    "How many {p} are there? There are {number}.",
    "{S} said that {d} was too expensive.",
)
_NUMBERS = tuple(("two, three, four, five, six, many, few, no").split(", "))


def language_corpus(seed: int, sentences: int, concepts: Sequence[Concept] = ()) -> list[str]:
    """Draw sentences for the language model: plain ones, true colors and shapes, and invented
    nouns.

    Args:
        concepts: the concepts to choose from; all when empty.
    """
    rng = random.Random(seed)
    concepts = concepts or load_concepts()
    supervised = [c for c in concepts if c.split == "supervised"]
    kinds: tuple[Callable[[], str], ...] = (
        lambda: plain_sentence(rng.choice(concepts).names, rng),
        lambda: plain_sentence((invented_noun(rng),), rng),
        lambda: _true_sentence(rng.choice(supervised), rng),
        lambda: _varied_sentence(rng),
    )
    return [rng.choices(kinds, (0.35, 0.1, 0.3, 0.25))[0]() for _ in range(sentences)]


def plain_sentence(names: Sequence[str], rng: random.Random) -> str:
    """Return a sentence about a thing without its color or shape."""
    person, again = rng.choice(_PEOPLE), rng.choice(_PEOPLE)
    fields = {
        "S": person[0].upper() + person[1:],
        "s": again,
        "act": rng.choice(_ACTS),
        "place": rng.choice(_PLACES),
    }
    name = rng.choice([n for n in names if n not in COLOR_WORDS])
    return rng.choice(_PLAIN).format(**_noun(name, rng), **fields, number=rng.choice(_NUMBERS))


def look_sentence(noun: str, label: Label, value: str, rng: random.Random) -> str:
    """State the color or shape of a noun, as a question and answer or as a statement."""
    fields = _noun(noun, rng)
    if rng.random() < 0.65:
        question = rng.choice(_QUESTIONS[label]).format(**fields)
        return rng.choice(_FRAMES).format(q=question, v=value)
    return rng.choice(_STATEMENTS[label]).format(v=value, **fields)


def look_question(noun: str, label: Label, rng: random.Random) -> str:
    """Ask for the color or shape of a noun."""
    return rng.choice(_QUESTIONS[label]).format(**_noun(noun, rng))


def _true_sentence(concept: Concept, rng: random.Random) -> str:
    if rng.random() < 0.75:
        return look_sentence(rng.choice(concept.names), "color", str(concept.color), rng)
    return look_sentence(rng.choice(concept.names), "shape", str(concept.shape), rng)


def invented_noun(rng: random.Random) -> str:
    """Draw an invented noun."""
    return rng.choice(_INVENTED)


def _varied_sentence(rng: random.Random) -> str:
    if rng.random() < 0.75:
        color = rng.choices(COLOR_WORDS, list(_COLOR_WEIGHTS.values()))[0]
        return look_sentence(invented_noun(rng), "color", color, rng)
    return look_sentence(invented_noun(rng), "shape", rng.choice(SHAPE_WORDS), rng)


def _noun(name: str, rng: random.Random) -> dict[str, str]:
    """Return the forms of a noun for templates: bare, with article, determined, plural,
    capitalized."""
    determined = rng.choices([with_article(name), "the " + name, name], (0.5, 0.35, 0.15))[0]
    many = plural(name)
    capital = {
        "part": rng.choice(_PARTS),
        "D": determined[0].upper() + determined[1:],
        "P": many[0].upper() + many[1:],
    }
    return {"n": name, "a": with_article(name), "d": determined, "p": many, **capital}
