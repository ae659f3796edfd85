"""The page of ``vlmig ask --html``: a choice among candidates, or a written answer."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vlmig.evaluation.run_folder import Row
from vlmig.predict.answer import Answer, Reply
from vlmig.report.items import drawn_why, thousandths
from vlmig.report.page import data_page, write_page
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
    write_page(path, answer_page(answer))


def write_reply(question: str, reply: Reply, path: Path) -> None:
    """Write a written answer with the given images as a self-contained page.

    Raises:
        VLMIGError: the file cannot be written.
    """
    item = {"kind": "reply", "steps": reply.rationale}
    data = _data(question, item, {"answer": str(reply), "alone": None}, [], reply.shown, [])
    write_page(path, data_page(question, data))


def answer_page(answer: Answer) -> str:
    """Make one answer with its images a self-contained page."""
    return data_page(answer.question, answer_data(answer))


def framed(answer: Answer) -> str:
    """Return the page in a frame for a notebook: its style and script touch nothing outside."""
    page = answer_page(answer)
    rows = len(answer.probabilities) + 2 * bool(answer.images) + 6 * bool(answer.attribution)
    height = f"height: {330 + 31 * rows}px"
    return (
        f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-scripts" title="answer" '
        f'style="width: 100%; border: 0; {height}"></iframe>'
    )


def answer_data(answer: Answer) -> Row:
    """Return what the page draws of an answer."""
    names = list(answer.probabilities)

    def shares(distribution: dict[str, float]) -> list[int]:
        return thousandths(distribution[name] for name in names)

    wording = {
        "answer": answer.answer,
        "alone": max(answer.text_only, key=lambda name: answer.text_only[name]),
        "text": shares(answer.text_only),
        "mixed": shares(answer.probabilities),
        "images": [shares(distribution) for distribution in answer.per_image],
        "alignment": [None if value != value else round(value, 3) for value in answer.alignment],
    }
    item = {"kind": "choice", "names": names, "steps": answer.rationale}
    prompts = [answer.prompt] if answer.images and not answer.given else []
    why, attribution = None, answer.attribution
    if attribution is not None:
        why = drawn_why(attribution.images, attribution.left_out, attribution.patches)
    data = _data(answer.question, item, wording, answer.images, answer.shown, prompts, why)
    return {**data, "floor": answer.floor}


def _data(
    question: str,
    item: Row,
    wording: Row,
    beside: Sequence[Image.Image],
    shown: Sequence[Image.Image],
    prompts: list[str],
    why: Row | None = None,
) -> Row:
    """Describe a page of one item with one wording, its images beside the text and in it, and what
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
    return {
        "kind": "answer",
        "k": k,
        "floor": None,
        "seeds": [],
        "items": [item],
        "pictures": [thumbnail(image, ROOM, SIDE) for image in (*beside, *shown)],
    }
