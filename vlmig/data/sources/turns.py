"""A record of a conversation, in any of its published forms, as turns and the names of images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from vlmig.data.records import check_name
from vlmig.io.rows import Row
from vlmig.models.config import IMAGE
from vlmig.processing.chat_templates import Turn
from vlmig.vision.files import BadImage

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
LISTS = ("conversations", "messages", "texts")
QUESTIONS = ("instruction", "question", "query", "prompt")
INPUT, HISTORY = "input", "history"
ANSWERS = ("output", "response", "answer", "completion")
SYSTEMS = ("system_prompt", "system")
IMAGES = ("image", "images")
MOVING = ("video", "videos", "audio", "audios")
COLUMNS = ("id", *LISTS, *QUESTIONS, INPUT, HISTORY, *ANSWERS, *SYSTEMS, *MOVING)
"""Fields that are read beside the images."""
QWEN = re.compile(r"(?:Picture \d+: *)?<img>([^<>\n]+?\.\w{2,5})</img>")
"""Qwen-VL writes an image's name into the text."""
MARKS = re.compile(
    r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>|<\|image_pad\|>|<\|image\|>|"
    r"<image_placeholder>|<Img><ImageHere></Img>|<ImageHere>|<start_of_image>|"
    r"<img>(?:<IMG_CONTEXT>)+</img>|<IMG_CONTEXT>|<image_soft_token>|<image_pad>"
)
"""An image's placeholder in the texts of other systems."""
NUMBERED = re.compile(r"<\|image_(\d+)\|>|<image[ _]?(\d+)>")
"""The same with the image's number, as Phi-3 and MMMU write it."""


class Fault(Exception):
    """Why a record is bad; short, and the same for all of its kind."""


@dataclass(frozen=True)
class Talk:
    """A conversation."""

    system: str | None
    turns: list[Turn]
    """User and assistant in turns; a placeholder for each image in the user's."""
    images: list[str]
    mended: str = ""
    """What was left out so that it can be read."""


def talk_of(row: Row) -> Talk:
    """Read a record.

    Raises:
        Fault: it is in no known form, or something is missing.
    """
    named: list[str] = []
    turns = [_turn(one, named) for one in _messages(row)]
    system = turns.pop(0).text if turns and turns[0].role == "system" else None
    mended = ""
    if len(turns) > 1 and turns[0].role == "assistant" and turns[1].role == "user":
        turns, mended = turns[1:], "an answer before the first question"
    for i, turn in enumerate(turns):
        if turn.role != ("user", "assistant")[i % 2]:
            raise Fault("turns do not alternate")
    if len(turns) % 2 or not turns:
        raise Fault("no answer")
    if not all(turn.text for turn in turns):
        raise Fault("empty turn")
    images = _images(row, named)
    return Talk(system or None, _marked(system, turns, images), images, mended)


def _messages(row: Row) -> list[Any]:
    """Return a record's turns, each with speaker and text in one of the known forms."""
    if _first(row, MOVING, (None, "", [])) is not None:
        raise Fault("a video or sound")
    system = _first(row, SYSTEMS, (None, ""))
    before = [] if system is None else [{"from": "system", "value": system}]
    for name in LISTS:
        if isinstance(row.get(name), list):
            return before + list(chain.from_iterable(map(_sides, row[name])))
    answer, question = _first(row, ANSWERS), _first(row, QUESTIONS)
    if answer is None:
        raise Fault("no conversations")
    if isinstance(question, list) and isinstance(answer, list):  # TRL's prompt and completion
        return before + question + answer
    texts = [text for text in (question, row.get(INPUT)) if text not in (None, "")]
    if not all(isinstance(text, str) for text in texts):
        raise Fault("turn is no text")
    earlier = _history(row.get(HISTORY))
    return [*before, *earlier, *_exchange("\n".join(texts), answer)]


def _first(row: Row, names: Sequence[str], empty: Sequence[Any] = (None,)) -> Any:
    """Return the first of these fields that is not empty; None without any."""
    for name in names:
        if row.get(name) not in empty:
            return row[name]
    return None


def _history(pairs: Any) -> Iterator[Any]:
    """Yield the turns of earlier questions and answers, ``[[question, answer], ...]``."""
    if pairs in (None, ""):
        return
    if not isinstance(pairs, list):
        raise Fault("history is no list")
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Fault("history holds no pair")
        yield from _exchange(*pair)


def _exchange(question: Any, answer: Any) -> list[Any]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _sides(message: Any) -> list[Any]:
    """Split the_cauldron's ``{user, assistant}`` into two turns."""
    if isinstance(message, dict) and "user" in message and "assistant" in message:
        return _exchange(message["user"], message["assistant"])
    return [message]


def _turn(message: Any, named: list[str]) -> Turn:
    """Read a turn; images that it names itself are added to ``named``."""
    if not isinstance(message, dict):
        raise Fault("turn is no object")
    speaker = message.get("from") or message.get("role")
    text = message.get("value") if message.get("value") is not None else message.get("content")
    if not isinstance(speaker, str) or speaker.lower() not in SPEAKERS:
        raise Fault("unknown speaker")
    if isinstance(text, list):
        text = "".join(_part(part, named) for part in text)
    if not isinstance(text, str):
        raise Fault("turn is no text")
    named += QWEN.findall(text)
    return Turn(SPEAKERS[speaker.lower()], QWEN.sub(IMAGE, text).strip())


def _part(part: Any, named: list[str]) -> str:
    """Read a part of a turn: text, or an image, whose name may be elsewhere."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise Fault("part of a turn is no object")
    kind = part.get("type")
    if kind == "text" or (kind is None and isinstance(part.get("text"), str)):
        if not isinstance(part.get("text"), str):
            raise Fault("turn is no text")
        return str(part["text"])
    if kind not in ("image", "image_url"):
        raise Fault("a video or sound" if kind in ("video", "audio") else "unknown part of a turn")
    for name in ("image", "image_url", "path", "url"):
        named += _names(part.get(name))
    return IMAGE


def _images(row: Row, named: Sequence[str]) -> list[str]:
    """Return the names of a record's images: those in its text, else those of its fields."""
    images = list(named) or list(_names(_first(row, IMAGES, (None, "", []))))
    for name in images:
        try:
            check_name(name)
        except BadImage as reason:
            raise Fault(str(reason)) from None
    return images


def _names(value: Any) -> Iterator[str]:
    """Yield the names in a field: a text, an object with one, or a list of them."""
    if isinstance(value, list):
        for one in value:
            if one is None:
                raise Fault("image name is no text")
            yield from _names(one)
        return
    if isinstance(value, dict) and value and all(NUMBERED.fullmatch(str(key)) for key in value):
        yield from _names(list(value.values()))  # MiniCPM-V names them by their marks
        return
    if isinstance(value, dict):
        value = value.get("path") or value.get("url") or 0
    if value is None or value == "":
        return
    if not isinstance(value, str):
        raise Fault("image name is no text")
    yield value.removeprefix("file://")


def _marked(system: str | None, turns: list[Turn], images: Sequence[str]) -> list[Turn]:
    """Insist on a placeholder for every image, in the user's turns; without any, they go first."""
    turns = [replace(turn, text=MARKS.sub(IMAGE, turn.text)) for turn in turns]
    whole = "".join(turn.text for turn in turns)
    if images and NUMBERED.search(whole):
        numbers = [int(one or other) for one, other in NUMBERED.findall(whole)]
        if numbers[0] > 1 or numbers != [*range(numbers[0], numbers[0] + len(numbers))]:
            raise Fault("numbers of images out of order")
        turns = [replace(turn, text=NUMBERED.sub(IMAGE, turn.text)) for turn in turns]
    marks, elsewhere = 0, (system or "").count(IMAGE)
    for turn in turns:
        if turn.role == "user":
            marks += turn.text.count(IMAGE)
        else:
            elsewhere += turn.text.count(IMAGE)
    if elsewhere or (marks and not images):
        raise Fault(f"{IMAGE} without image")
    if images and not marks:
        first = replace(turns[0], text=f"{IMAGE}\n" * len(images) + turns[0].text)
        return [first, *turns[1:]]
    if marks != len(images):
        raise Fault(f"{'more' if marks > len(images) else 'fewer'} {IMAGE} than images")
    return turns
