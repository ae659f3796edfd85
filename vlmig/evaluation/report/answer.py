"""One answer of ``vlmig ask`` as a page."""

from __future__ import annotations

from pathlib import Path

from vlmig.answer import Answer
from vlmig.checkpoint import write_text
from vlmig.evaluation.report.entries import thousandths
from vlmig.evaluation.report.page import rendered
from vlmig.evaluation.report.pictures import thumbnail
from vlmig.evaluation.report.samples import Row

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
    entry: Row = {"seed": None, "prompts": [answer.prompt] if answer.images else [], "low": False}
    entry |= {
        "sets": [list(range(len(answer.images)))],
        "wordings": [{**wording, "images": images, "alignment": alignment}],
    }
    item: Row = {"kind": "choice", "names": names, "targets": [], "covered": None, "runs": [entry]}
    item["wordings"] = [{"text": answer.question, "right": None}]
    pictures = [thumbnail(picture, ROOM, SIDE) for picture in answer.images]
    data = {"kind": "answer", "k": len(pictures), "floor": None, "seeds": [], "items": [item], "pictures": pictures}
    write_text(path, rendered(answer.question, data))
