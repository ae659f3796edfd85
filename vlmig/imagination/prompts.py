"""What to imagine: the prompt of a picture, taken from a question, a sentence or a file of prompts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vlmig.errors import VLMIGError
from vlmig.models.config import LONG_PROMPTS, POLICIES

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


def slug(prompt: str) -> str:
    """Turn a prompt into the part of a file name that stands for it."""
    return re.sub(r"\W+", "_", prompt.strip().lower()).strip("_")[:100]


LAST_WORDS = 70
"""Words of a long text that the published code imagines as one prompt."""


def prompts_for(policy: str, text: str, k: int, option: str = "") -> list[str]:
    """Return the prompts of a text's k pictures; those of fewer pictures are the first of them.

    - ``subject``: the thing the text is about.
    - ``question``: the text as it is.
    - ``sentences`` (published code): the text's last 70 words, then its sentences in turn from the last to the first.
    - ``option`` (published code, multiple choice): the text with one of its answers, so that each answer has its own
      pictures. The only policy under which an answer choice is ever drawn.

    Raises:
        VLMIGError: another policy.
    """
    if policy == "subject":
        return [subject_of(text)] * k
    if policy == "question":
        return [text] * k
    if policy == "option":
        return [f"{text} {option.strip()}".strip()] * k
    if policy == "sentences":
        own = sentences(text)[::-1]
        return [" ".join(text.split()[-LAST_WORDS:]), *(own[i % len(own)] for i in range(k - 1))][
            :k
        ]
    raise VLMIGError(f"policy {policy!r}; expected one of {', '.join(POLICIES)}")


def sentences(text: str) -> list[str]:
    """Split a text into its sentences; a text without any is one."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?])\s+", text.strip())]
    return [part for part in parts if part] or [text]


def fitted(prompts: Sequence[str], fits: Callable[[str], bool], long: str) -> list[str]:
    """Return a text's prompts, one per picture, as the text encoders read them whole.

    Args:
        fits: tells whether a prompt is read whole.
        long: what happens to one that is not: ``cut`` keeps its end (where a question stands), ``split`` shares its
            parts out to the pictures in turn, ``refuse`` raises.

    Raises:
        VLMIGError: a long prompt under ``refuse``; another ``long``.
    """
    if long not in LONG_PROMPTS:
        raise VLMIGError(f"long_prompts={long!r}; expected one of {', '.join(LONG_PROMPTS)}")
    parts = {
        prompt: [prompt] if fits(prompt) else _parts(prompt, fits, long)
        for prompt in dict.fromkeys(prompts)
    }
    return [parts[prompt][i % len(parts[prompt])] for i, prompt in enumerate(prompts)]


def _parts(prompt: str, fits: Callable[[str], bool], long: str) -> list[str]:
    """Cut a long prompt into parts that fit, the last words first."""
    if long == "refuse":
        raise VLMIGError(
            f"the prompt {prompt[:40]!r}... is longer than the text encoders read; shorten it, or let long prompts be cut or split"
        )
    words = [piece for word in prompt.split() for piece in _pieces(word, fits)]
    parts: list[str] = []
    while words and not (parts and long == "cut"):
        left_out = _too_many(words, fits)
        parts.append(" ".join(words[left_out:]))
        words = words[:left_out]
    return parts


def _pieces(word: str, fits: Callable[[str], bool]) -> list[str]:
    """Break a word that does not even fit by itself."""
    if fits(word) or len(word) < 2:
        return [word]
    half = len(word) // 2
    return _pieces(word[:half], fits) + _pieces(word[half:], fits)


def _too_many(words: list[str], fits: Callable[[str], bool]) -> int:
    """Count the first words that must be left out so that the rest fits, by halving; one word always stays."""
    low, high = 0, len(words) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(" ".join(words[middle:])) else (middle + 1, high)
    return low
