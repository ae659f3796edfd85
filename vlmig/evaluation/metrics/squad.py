"""Generated answers against right ones, as SQuAD's own script compares them (Rajpurkar et al.
2016)."""

from __future__ import annotations

import re
import string
from collections import Counter

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> list[str]:
    """Return a text's words in small letters, without punctuation and articles."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(answer: str, right: str) -> float:
    """Return 1 where both texts are the same words."""
    return float(normalized(answer) == normalized(right))


def f1(answer: str, right: str) -> float:
    """Return the harmonic mean of precision and recall of the answer's words."""
    given, wanted = normalized(answer), normalized(right)
    shared = sum((Counter(given) & Counter(wanted)).values())
    if not shared:
        return float(given == wanted)
    return 2 * shared / (len(given) + len(wanted))
