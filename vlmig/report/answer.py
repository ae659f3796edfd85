"""One answer of ``vlmig ask`` as a page: a choice, or a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vlmig.evaluation.run_folder import Row
from vlmig.io.atomic import write_text
from vlmig.predict.answer import Answer, Reply
from vlmig.report.items import thousandths
from vlmig.report.page import rendered
from vlmig.report.thumbnails import thumbnail

SIDE = 192
ROOM = 200_000
"""Characters a picture may take."""


def write_answer(answer: Answer, path: Path) -> None:
    """Write one answer with its pictures as a self-contained page."""
    names = list(answer.probabilities)
    alignment = [None if value != value else round(value, 3) for value in answer.weights]
    distributions = answer.text_only, answer.probabilities, *answer.per_image
    text, mixed, *images = (thousandths(own[name] for name in names) for own in distributions)
    alone = max(answer.text_only, key=lambda name: answer.text_only[name])
    wording = {"set": 0, "ok": None, "answer": answer.answer, "alone": alone, "text": text, "mixed": mixed}
    entry: Row = {"seed": None, "low": False}
    entry["prompts"] = [answer.prompt] if answer.images and not answer.given else []
    entry |= {
        "sets": [list(range(len(answer.images)))],
        "shown": list(range(len(answer.images), len(answer.images) + len(answer.shown))),
        "wordings": [{**wording, "images": images, "alignment": alignment}],
    }
    item: Row = {"kind": "choice", "names": names, "targets": [], "covered": None, "runs": [entry]}
    item |= {"wordings": [{"text": answer.question, "right": None}], "steps": answer.rationale}
    _write(path, answer.question, item, len(images), [*answer.images, *answer.shown])


def write_reply(question: str, reply: Reply, path: Path) -> None:
    """Write a text answer with the pictures that were given as a self-contained page."""
    entry: Row = {"seed": None, "prompts": [], "low": False, "sets": [[]], "shown": list(range(len(reply.shown)))}
    entry["wordings"] = [{"set": 0, "ok": None, "answer": str(reply), "alone": None}]
    item: Row = {"kind": "reply", "targets": [], "covered": None, "runs": [entry], "steps": reply.rationale}
    item["wordings"] = [{"text": question, "right": None}]
    _write(path, question, item, 0, reply.shown)


def _write(path: Path, title: str, item: Row, k: int, images: Sequence[Image.Image]) -> None:
    pictures = [thumbnail(picture, ROOM, SIDE) for picture in images]
    data = {"kind": "answer", "k": k, "floor": None, "seeds": [], "items": [item], "pictures": pictures}
    write_text(path, rendered(title, data))
