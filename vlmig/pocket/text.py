"""Every text the pocket world is trained on.

Three kinds, and one honesty rule. *Picture captions* (generator and encoder) hold a name and nothing about looks.
*Language-model text* talks about all concepts, but states a colour or a shape only of ``supervised`` ones.
*Adapter captions* describe a recoloured scene of a supervised concept.
No sentence names a held-out concept together with a colour or a shape (``tests/test_pocket_honesty.py`` reads them all).
"""

from __future__ import annotations

from vlmig.pocket.concepts import Concept, plural

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
    """List every caption of a concept's pictures: its names first, then each name in each phrasing."""
    phrased = [
        form.format(n=name, a=with_article(name), p=plural(name)) for name in concept.names for form in _CAPTION_FORMS
    ]
    return [*concept.names, *phrased]
