"""The page of ``vlmig ask --html``: a choice among candidates, or a written answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vlmig.evaluation.run_folder import Row
from vlmig.predict.answer import Answer, Reply
from vlmig.report.items import thousandths
from vlmig.report.page import write_data_page
from vlmig.report.thumbnails import thumbnail

SIDE = 192
"""Longest side of a picture on the page, in pixels."""
ROOM = 200_000
"""Most characters of a picture."""


def write_answer(answer: Answer, path: Path) -> None:
    """Write one answer with its pictures as a self-contained page.

    Raises:
        VLMIGError: the file cannot be written.
    """
    names = list(answer.probabilities)

    def shares(distribution: dict[str, float]) -> list[int]:
        return thousandths(distribution[name] for name in names)

    k, shown = len(answer.images), len(answer.shown)
    wording = {
        "set": 0,
        "ok": None,
        "answer": answer.answer,
        "alone": max(answer.text_only, key=lambda name: answer.text_only[name]),
        "text": shares(answer.text_only),
        "mixed": shares(answer.probabilities),
        "images": [shares(distribution) for distribution in answer.per_image],
        "alignment": [None if value != value else round(value, 3) for value in answer.weights],
    }
    entry: Row = {
        "seed": None,
        "low": False,
        "prompts": [answer.prompt] if answer.images and not answer.given else [],
        "sets": [list(range(k))],
        "shown": list(range(k, k + shown)),
        "wordings": [wording],
    }
    item: Row = {
        "kind": "choice",
        "names": names,
        "targets": [],
        "covered": None,
        "runs": [entry],
        "wordings": [{"text": answer.question, "right": None}],
        "steps": answer.rationale,
    }
    _write(path, answer.question, item, len(answer.per_image), [*answer.images, *answer.shown])


def write_reply(question: str, reply: Reply, path: Path) -> None:
    """Write a written answer with the given pictures as a self-contained page.

    Raises:
        VLMIGError: the file cannot be written.
    """
    entry: Row = {
        "seed": None,
        "prompts": [],
        "low": False,
        "sets": [[]],
        "shown": list(range(len(reply.shown))),
        "wordings": [{"set": 0, "ok": None, "answer": str(reply), "alone": None}],
    }
    item: Row = {
        "kind": "reply",
        "targets": [],
        "covered": None,
        "runs": [entry],
        "steps": reply.rationale,
        "wordings": [{"text": question, "right": None}],
    }
    _write(path, question, item, 0, reply.shown)


def _write(path: Path, title: str, item: Row, k: int, images: Sequence[Image.Image]) -> None:
    data: Row = {
        "kind": "answer",
        "k": k,
        "floor": None,
        "seeds": [],
        "items": [item],
        "pictures": [thumbnail(picture, ROOM, SIDE) for picture in images],
    }
    write_data_page(path, title, data)
