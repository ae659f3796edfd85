"""The page of ``vlmig ask --html``: a choice among candidates, or a written answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vlmig.evaluation.run_folder import Row
from vlmig.predict.answer import Answer, Reply
from vlmig.report.items import drawn_why, thousandths
from vlmig.report.page import write_data_page
from vlmig.report.thumbnails import thumbnail

SIDE = 192
"""Longest side of an image on the page, in pixels."""
ROOM = 200_000
"""Most characters of an image."""


def write_answer(answer: Answer, path: Path) -> None:
    """Write one answer with its images as a self-contained page.

    Raises:
        VLMIGError: the file cannot be written.
    """
    names = list(answer.probabilities)

    def shares(distribution: dict[str, float]) -> list[int]:
        return thousandths(distribution[name] for name in names)

    wording = {
        "answer": answer.answer,
        "alone": max(answer.text_only, key=lambda name: answer.text_only[name]),
        "text": shares(answer.text_only),
        "mixed": shares(answer.probabilities),
        "images": [shares(distribution) for distribution in answer.per_image],
        "alignment": [None if value != value else round(value, 3) for value in answer.weights],
    }
    item = {"kind": "choice", "names": names, "steps": answer.rationale}
    prompts = [answer.prompt] if answer.images and not answer.given else []
    why, found = None, answer.attribution
    if found is not None:
        why = drawn_why(found.images, found.left_out, found.patches)
    _write(path, answer.question, item, wording, answer.images, answer.shown, prompts, why)


def write_reply(question: str, reply: Reply, path: Path) -> None:
    """Write a written answer with the given images as a self-contained page.

    Raises:
        VLMIGError: the file cannot be written.
    """
    item = {"kind": "reply", "steps": reply.rationale}
    _write(path, question, item, {"answer": str(reply), "alone": None}, [], reply.shown, [])


def _write(
    path: Path,
    question: str,
    item: Row,
    wording: Row,
    beside: Sequence[Image.Image],
    shown: Sequence[Image.Image],
    prompts: list[str],
    why: Row | None = None,
) -> None:
    """Write a page of one item with one wording, its images beside the text and in it, and what
    moved the answer."""
    k = len(beside)
    entry: Row = {
        "seed": None,
        "low": False,
        "prompts": prompts,
        "sets": [list(range(k))],
        "shown": list(range(k, k + len(shown))),
        "wordings": [{"set": 0, "ok": None, **wording}],
        "why": why,
    }
    item |= {
        "targets": [],
        "covered": None,
        "runs": [entry],
        "wordings": [{"text": question, "right": None}],
    }
    data: Row = {
        "kind": "answer",
        "k": k,
        "floor": None,
        "seeds": [],
        "items": [item],
        "pictures": [thumbnail(image, ROOM, SIDE) for image in (*beside, *shown)],
    }
    write_data_page(path, question, data)
