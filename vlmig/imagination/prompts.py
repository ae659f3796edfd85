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


def slug(prompt: str) -> str:
    """Turn a prompt into the part of a file name that stands for it."""
    return re.sub(r"\W+", "_", prompt.strip().lower()).strip("_")[:100]


FILES = (".txt", ".jsonl", ".csv")


def read_prompts(source: str | Path, column: str = "prompt", split: str = "train") -> list[str]:
    """Read distinct prompts in order: a file with one on each line, .jsonl, .csv, or a dataset's folder or hub id.

    Raises:
        VLMIGError: no such source, no such column, or no prompts at all.
    """
    path = Path(source)
    if path.suffix in FILES and not path.is_file():
        raise VLMIGError(
            f"no prompts at {source}; expected a text file with a prompt on each line, .jsonl, .csv or a dataset"
        )
    texts = _lines(path, column) if path.is_file() else _rows(str(source), column, split)
    found = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not found:
        raise VLMIGError(f"{source} holds no prompts; expected one on each line or row")
    return found


def _lines(path: Path, column: str) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as lines:  # a spreadsheet may put a mark before the first column
        try:
            if path.suffix == ".jsonl":
                return [_text(json.loads(line)[column]) for line in lines if line.strip()]
            if path.suffix == ".csv":
                return [_text(row[column]) for row in csv.DictReader(lines)]
            return list(lines)
        except UnicodeDecodeError as error:
            raise VLMIGError(f"{path} is not UTF-8 ({error}); save it in that encoding") from error
        except (KeyError, TypeError, csv.Error, json.JSONDecodeError) as error:
            raise VLMIGError(
                f"{path} has a row without {column} ({error}); expected that field in every row, or another --column"
            ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _rows(source: str, column: str, split: str) -> list[str]:
    """Read a column of a dataset, saved in a folder or on the hub."""
    import datasets

    try:
        rows = datasets.load_from_disk(source) if Path(source).is_dir() else datasets.load_dataset(source, split=split)
        rows = rows[split] if isinstance(rows, dict) else rows
        return [_text(text) for text in rows[column]]
    except Exception as error:  # datasets raises what its readers raise
        reason = str(error).strip().split("\n")[0]
        raise VLMIGError(
            f"cannot read prompts from {source}: {reason}; expected a text file with a prompt on each line, .jsonl, .csv, or a "
            f"dataset with the split {split} and the column {column}"
        ) from error


def shard_of(prompts: Sequence[str], index: int, count: int) -> list[str]:
    """Return shard ``index`` (from 0) of ``count``: by content, so that it does not depend on the order of the file."""
    return [p for p in prompts if int.from_bytes(hashlib.sha256(p.encode()).digest()[:8], "big") % count == index]
