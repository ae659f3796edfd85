"""Conversations about images, and instructions without: LLaVA's JSON, JSON lines, or parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmig.data.pairs import Pair, is_unicode
from vlmig.data.pictures import ImageFiles, version_of
from vlmig.errors import VLMIGError
from vlmig.io.json_stream import json_items
from vlmig.io.rows import Bad, Row, parquet_columns, parquet_rows, text_rows
from vlmig.models.config import IMAGE
from vlmig.processing.chat_templates import TOKENIZER, Turn, prompt, render

POSITIONS = ("keep", "front")
ENDINGS = (".json", ".zip", ".jsonl", ".parquet")
COLUMNS = (
    "id",
    "image",
    "conversations",
    "instruction",
    "input",
    "output",
    "question",
    "response",
    "system_prompt",
)
"""Columns of a parquet file that are read."""
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


class Conversations(ImageFiles):
    """Turns of a user and an assistant as one text, of which the answers are learnt.

    A record is ``{id, image, conversations: [{from: human | gpt | system, value}]}``, where
    ``image`` is a file's name, a list of them in the order of their placeholders ``<image>``, or
    left out; or text only, as ``{instruction, input, output}`` or ``{system_prompt, question,
    response}``.

    Args:
        path: a ``.json`` file with one list (or its ``.json.zip``), a ``.jsonl`` or a ``.parquet``
            file.
        images: folder that the image files' names start from (default: the file's folder).
        template: how turns become a text, see ``vlmig.processing.chat_templates``; ``tokenizer``
            for the chat template of the language model.
        image_position: ``keep`` leaves placeholders where they are; ``front`` puts those of a turn
            on separate lines before its text, as LLaVA does.
        tokenizer: the language model's, for its chat template.

    Raises:
        VLMIGError: no such file or folder, an unknown option, or a tokenizer without a template.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        template: str = "vicuna",
        image_position: str = "keep",
        tokenizer: Any = None,
    ) -> None:
        self.path, self.name = Path(path), f"conversations {path}"
        self.images = Path(images) if images else self.path.parent
        self.template, self.front, self.tokenizer = template, image_position == "front", tokenizer
        if image_position not in POSITIONS:
            raise VLMIGError(
                f"image_position {image_position!r}; expected {' or '.join(POSITIONS)}; correct it"
            )
        if self.path.suffix not in ENDINGS or not self.path.is_file():
            raise VLMIGError(
                f"no conversations at {path}; expected a {', '.join(ENDINGS[:-1])} or "
                f"{ENDINGS[-1]} file; correct the path"
            )
        if not self.images.is_dir():
            raise VLMIGError(
                f"no folder {images}; expected the one that names of images start from; correct "
                "images"
            )
        prompt([Turn("user", "?")], template, tokenizer)  # refuses a wrong template early

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every conversation.

        Raises:
            VLMIGError: the file as a whole cannot be read.
        """
        for record in self._records():
            yield record if isinstance(record, Bad) else self._pair(*record)

    def _records(self) -> Iterator[tuple[str, Row] | Bad]:
        """Yield the location and the fields of every record."""
        if self.path.suffix == ".jsonl":
            yield from text_rows(self.path)
        elif self.path.suffix == ".parquet":
            yield from parquet_rows(self.path, _columns(self.path))
        else:
            for number, record in enumerate(json_items(self.path), 1):
                place = f"{self.path.name}, record {number}"
                is_row = isinstance(record, dict)
                yield (place, record) if is_row else Bad(place, "not a JSON object")

    def _pair(self, place: str, row: Row) -> Pair | Bad:
        number = row.get("id")
        name = "" if number is None else str(number)
        place = f"{place}, id {name}" if name else place
        try:
            system, turns = _turns(row)
            pictures = _pictures(row)
            if self.front:
                turns = [Turn(turn.role, _in_front(turn.text)) for turn in turns]
            _check_marks(system, turns, len(pictures))
            text, learnt = self._text(turns, system)
            group = pictures[0] if pictures else name
            if not all(map(is_unicode, (text, group, *pictures))):
                raise _Fault("not Unicode")
            versions = [version_of(self.images / picture) or "" for picture in pictures]
            if not all(versions):
                raise _Fault("no such image")
        except _Fault as reason:
            return Bad(place, str(reason))
        first, more = "".join(pictures[:1]), tuple(pictures[1:])
        return Pair(text, first, group=group, version="\n".join(versions), more=more, learnt=learnt)

    def _text(
        self, turns: list[Turn], system: str | None
    ) -> tuple[str, tuple[tuple[int, int], ...]]:
        try:
            return render(turns, self.template, self.tokenizer, system)
        except VLMIGError:
            if self.template != TOKENIZER:
                raise
            # It may know no system turn, or change earlier turns.
            raise _Fault("refused by the chat template") from None


class _Fault(Exception):
    """Why a record is bad."""


def _columns(path: Path) -> list[str]:
    """List the columns of a parquet file that are read."""
    names = parquet_columns(path)
    if not {"conversations", "output", "response"} & set(names):
        raise VLMIGError(
            f"{path} has the columns {', '.join(names)}; expected conversations, instruction and "
            "output, or question and response; rename them"
        )
    return [name for name in COLUMNS if name in names]


def _turns(row: Row) -> tuple[str | None, list[Turn]]:
    """Read the system text, None if there is none, and the turns after it."""
    turns = [_turn(one) for one in _messages(row)]
    system = turns.pop(0).text if turns and turns[0].role == "system" else None
    for i, turn in enumerate(turns):
        if turn.role != ("user", "assistant")[i % 2]:
            raise _Fault("turns do not alternate")
    if len(turns) % 2 or not turns:
        raise _Fault("no answer")
    if not all(turn.text for turn in turns):
        raise _Fault("empty turn")
    return system or None, turns


def _messages(row: Row) -> list[Any]:
    """Return a record's turns in LLaVA's form."""
    if isinstance(row.get("conversations"), list):
        return row["conversations"]
    if row.get("output") is not None:
        answer = row["output"]
        names = ("instruction", "input")
        question = [row[name] for name in names if row.get(name) not in (None, "")]
    elif row.get("response") is not None:
        question, answer = [row.get("question")], row["response"]
    else:
        raise _Fault("no conversations")
    if not all(isinstance(text, str) for text in question):
        raise _Fault("turn is no text")
    turns = [{"from": "human", "value": "\n".join(question)}, {"from": "gpt", "value": answer}]
    system = row.get("system_prompt")
    return turns if system in (None, "") else [{"from": "system", "value": system}, *turns]


def _turn(message: Any) -> Turn:
    if not isinstance(message, dict):
        raise _Fault("turn is no object")
    speaker, text = message.get("from"), message.get("value")
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise _Fault("unknown speaker")
    if not isinstance(text, str):
        raise _Fault("turn is no text")
    return Turn(SPEAKERS[speaker], text.strip())


def _pictures(row: Row) -> list[str]:
    value = row.get("image")
    names = value if isinstance(value, list) else [] if value in (None, "") else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise _Fault("image name is no text")
    return names


def _check_marks(system: str | None, turns: list[Turn], pictures: int) -> None:
    """Insist on a placeholder for every image, in the user's turns."""
    marks, elsewhere = 0, (system or "").count(IMAGE)
    for turn in turns:
        if turn.role == "user":
            marks += turn.text.count(IMAGE)
        else:
            elsewhere += turn.text.count(IMAGE)
    if elsewhere or (marks and not pictures):
        raise _Fault(f"{IMAGE} without image")
    if pictures and not marks:
        raise _Fault(f"image without {IMAGE}")
    if marks != pictures:
        raise _Fault(f"{'more' if marks > pictures else 'fewer'} {IMAGE} than images")


def _in_front(text: str) -> str:
    """Put a turn's placeholders on separate lines before its text."""
    return (f"{IMAGE}\n" * text.count(IMAGE) + text.replace(IMAGE, "").strip()).strip()
