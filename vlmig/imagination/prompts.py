"""What to imagine: the prompt of an image, made from a question or another text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vlmig.errors import VLMIGError
from vlmig.models.config import LONG_PROMPTS, POLICIES

_ASIDE = r"(?:main|usual|typical|common|most common|normal|natural)"
_ATTRIBUTE = r"(?:colou?r|shape|size|material|texture)s?"
_COMPARED = r"(?:(?:more|less) \w+|\w+er) than|as \w+ as"
_MUCH = r"(?: usually| mostly| much| about| just| not)*"
_PAIRS = (
    rf"^(?:is|are) (?P<x>.+?){_MUCH} (?:{_COMPARED}) (?P<y>.+)$",
    rf"^(?!what|which|who)(?P<x>.+?) (?:is|are){_MUCH} (?:{_COMPARED}) (?P<y>.+)$",
    r"^(?:what|which)(?: \w+)? (?:is|are) (?:(?:more|less) \w+|\w+er)[,:]? "
    r"(?P<x>.+?),? or (?P<y>.+)$",
    r"^(?:is|are) (?P<x>(?:an?|the) .+?),? or (?P<y>(?:an?|the) .+?) (?:(?:more|less) \w+|\w+er)$",
)
"""Two things that are compared."""
_PATTERNS = (
    rf"^(?:what|which)(?:'s| is| are)? (?:the )?{_ASIDE}? ?{_ATTRIBUTE} of (?P<x>.+)$",
    rf"^(?:what|which) {_ATTRIBUTE} (?:is|are|does|do|has|have) (?P<x>.+?)"
    r"(?: have| usually| mostly)?$",
    rf"^the {_ASIDE}? ?{_ATTRIBUTE} of (?P<x>.+?)(?: is| are| can be)?$",
    rf"^(?P<x>.+?) usually (?:has|have) the {_ATTRIBUTE} of$",
    rf"^(?P<x>.+?) (?:has|have|is of|can be of) {_ATTRIBUTE}$",
    r"^(?:is|are|does|do|has|have) (?P<x>(?:an? |the )?\w+(?: \w+)?)\b.*$",
    r"^(?:what|which|who) (?:is|are) (?P<x>.+)$",
    r"^(?P<x>.+?) (?:is|are|was|were)$",
)


def subject_of(question: str) -> str:
    """Return the thing that a question or an unfinished sentence is about; two things that it
    compares are named together, "a lemon and a car".

    Where no pattern fits, it is the whole text.
    """
    return " and ".join(things_of(question))


def things_of(question: str) -> list[str]:
    """Return what a question is about: one thing, or the two that it compares."""
    text = re.sub(r"^(?:q|question):\s*", "", question.strip(), flags=re.IGNORECASE)
    text = re.split(r"\?|\b(?:answer|a):", text, maxsplit=1, flags=re.IGNORECASE)[0].strip(" .?!")
    for pattern in (*_PAIRS, *_PATTERNS):
        match = re.match(pattern, text, flags=re.IGNORECASE)
        if match:
            return [thing.strip() for thing in match.groupdict().values()]
    return [text]


def slug(prompt: str) -> str:
    """Turn a prompt into a file name."""
    return re.sub(r"\W+", "_", prompt.strip().lower()).strip("_")[:100]


MOST_IMAGES = 10_000
"""Images of one prompt that anyone may ask for."""
LAST_WORDS = 70
"""Words of a long text that the published code imagines as one prompt."""


def prompts_for(policy: str, text: str, k: int, option: str = "") -> list[str]:
    """Return the prompts of a text's k images; those of fewer images are the first of them.

    - ``subject``: the thing the text is about.
    - ``question``: the text as it is.
    - ``sentences`` (published code): the text's last 70 words, then its sentences in turn from the
      last to the first.
    - ``each``: the things that the text compares, in turn: an image of each.
    - ``option`` (published code, multiple choice): the text with one of its answers, so that each
      answer has different images. The only policy that ever draws an answer choice.

    Raises:
        VLMIGError: another policy; too many images.
    """
    if k > MOST_IMAGES:
        raise VLMIGError(f"k={k}; expected at most {MOST_IMAGES} images")
    if policy == "subject":
        return [subject_of(text)] * k
    if policy == "each":
        things = things_of(text)
        return [things[i % len(things)] for i in range(k)]
    if policy == "question":
        return [text] * k
    if policy == "option":
        return [f"{text} {option.strip()}".strip()] * k
    if policy == "sentences":
        prompts = [" ".join(text.split()[-LAST_WORDS:])]
        backwards = sentences(text)[::-1]
        prompts += [backwards[i % len(backwards)] for i in range(k - 1)]
        return prompts[:k]
    raise VLMIGError(f"policy {policy!r}; expected one of {', '.join(POLICIES)}")


def sentences(text: str) -> list[str]:
    """Split a text into its sentences; a blank text is one sentence."""
    return [s for s in map(str.strip, re.split(r"(?<=[.!?])\s+", text.strip())) if s] or [text]


def fitted(prompts: Sequence[str], fits: Callable[[str], bool], long: str) -> list[str]:
    """Return a text's prompts, one per image, short enough for the text encoders.

    Args:
        fits: whether a prompt is short enough.
        long: what happens to one that is not: ``cut`` keeps its end (where a question is),
            ``split`` gives its pieces to the images in turn, ``refuse`` raises.

    Raises:
        VLMIGError: a long prompt under ``refuse``; another ``long``.
    """
    if long not in LONG_PROMPTS:
        raise VLMIGError(f"long_prompts={long!r}; expected one of {', '.join(LONG_PROMPTS)}")
    pieces: dict[str, list[str]] = {}
    result = []
    for i, prompt in enumerate(prompts):
        if prompt not in pieces:
            pieces[prompt] = [prompt] if fits(prompt) else _pieces(prompt, fits, long)
        result.append(pieces[prompt][i % len(pieces[prompt])])
    return result


def _pieces(prompt: str, fits: Callable[[str], bool], long: str) -> list[str]:
    """Cut a long prompt into pieces that fit, the last words first."""
    if long == "refuse":
        raise VLMIGError(
            f"the prompt {prompt[:40]!r}... is longer than the text encoders read; shorten it, or "
            "let long prompts be cut or split"
        )
    words: list[str] = []
    for word in prompt.split():
        words += _broken(word, fits)
    pieces: list[str] = []
    while words and not (pieces and long == "cut"):
        start = _first_that_fits(words, fits)
        pieces.append(" ".join(words[start:]))
        words = words[:start]
    return pieces


def _broken(word: str, fits: Callable[[str], bool]) -> list[str]:
    """Break a word that does not even fit alone."""
    if fits(word) or len(word) < 2:
        return [word]
    half = len(word) // 2
    return _broken(word[:half], fits) + _broken(word[half:], fits)


def _first_that_fits(words: list[str], fits: Callable[[str], bool]) -> int:
    """Return where the longest end of the words that fits begins, by bisection; at most the
    last."""
    low, high = 0, len(words) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(" ".join(words[middle:])) else (middle + 1, high)
    return low
