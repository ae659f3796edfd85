"""What to imagine: the prompt of a picture, taken from a question, a sentence or a file of prompts."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from vlmig.errors import VLMIGError

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


def read_prompts(path: Path) -> list[str]:
    """Read distinct prompts in order: a line each, or the ``prompt`` of each row of a ``.jsonl`` or ``.csv`` file.

    Raises:
        VLMIGError: no such file, no prompt in a row, or no prompts at all.
    """
    if not path.is_file():
        raise VLMIGError(
            f"no prompts at {path}; expected a text file with a prompt on each line, or a .jsonl or .csv file"
        )
    with path.open(encoding="utf-8", newline="") as lines:
        try:
            if path.suffix == ".jsonl":
                prompts = [str(json.loads(line)["prompt"]) for line in lines if line.strip()]
            elif path.suffix == ".csv":
                prompts = [row["prompt"] for row in csv.DictReader(lines)]
            else:
                prompts = list(lines)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise VLMIGError(
                f"{path} has a row without a prompt ({error}); expected a field or column named prompt"
            ) from error
    found = list(dict.fromkeys(text.strip() for text in prompts if text.strip()))
    if not found:
        raise VLMIGError(f"{path} holds no prompts; expected one on each line")
    return found


def shard_of(prompts: Sequence[str], index: int, count: int) -> list[str]:
    """Return shard ``index`` (from 0) of ``count``: by content, so that it does not depend on the order of the file."""
    return [p for p in prompts if int.from_bytes(hashlib.sha256(p.encode()).digest()[:8], "big") % count == index]
