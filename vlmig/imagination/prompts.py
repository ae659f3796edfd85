"""What to imagine: the prompt of a picture, taken from a question or a sentence."""

from __future__ import annotations

import re

_ASIDE = r"(?:main|usual|typical|common|most common|normal|natural)"
_ATTRIBUTE = r"(?:colou?r|shape|size|material|texture)s?"
_PATTERNS = (
    rf"^(?:what|which)(?:'s| is| are)? (?:the )?{_ASIDE}? ?{_ATTRIBUTE} of (?P<x>.+)$",
    rf"^(?:what|which) {_ATTRIBUTE} (?:is|are|does|do|has|have) (?P<x>.+?)(?: have| usually| mostly)?$",
    rf"^the {_ASIDE}? ?{_ATTRIBUTE} of (?P<x>.+?)(?: is| are| can be)?$",
    rf"^(?P<x>.+?) usually (?:has|have) the {_ATTRIBUTE} of$",
    rf"^(?P<x>.+?) (?:has|have|is of|can be of) {_ATTRIBUTE}$",
    r"^(?:is|are|does|do|has|have) (?P<x>(?:an? |the )?\w+(?: \w+)?)\b.*$",
    r"^(?:what|which|who) (?:is|are) (?P<x>.+)$",
    r"^(?P<x>.+?) (?:is|are|was|were)$",
)


def subject_of(question: str) -> str:
    """Return the thing a question or an unfinished sentence is about; the whole text where no form is recognised."""
    text = re.sub(r"^(?:q|question):\s*", "", question.strip(), flags=re.IGNORECASE)
    text = re.split(r"\?|\b(?:answer|a):", text, maxsplit=1, flags=re.IGNORECASE)[0].strip(" .?!")
    for pattern in _PATTERNS:
        found = re.match(pattern, text, flags=re.IGNORECASE)
        if found:
            return found["x"].strip()
    return text
