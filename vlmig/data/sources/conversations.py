"""Conversations about images, and instructions without, in the forms that published data has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from vlmig.data.pairs import Pair
from vlmig.data.records import Records
from vlmig.data.sources.turns import ANSWERS, COLUMNS, IMAGES, LISTS, Fault, talk_of
from vlmig.errors import VLMIGError
from vlmig.io.rows import Bad, Row, is_unicode
from vlmig.models.config import IMAGE
from vlmig.processing.chat_templates import TOKENIZER, Turn, prompt, render

POSITIONS = ("keep", "front")


class Conversations:
    """Turns of a user and an assistant as one text, of which the answers are learnt.

    A record has its turns as ``conversations: [{from: human | gpt | system, value}]`` (LLaVA), as
    ``{role, content}`` under the same name or ``messages``, where ``content`` may be a list of
    parts, as ``texts: [{user, assistant}]`` (the_cauldron), or as ``{instruction, input, output}``,
    ``{system_prompt, question, response}`` and their like. ``image`` or ``images`` are files' names
    or embedded images, in the order of their placeholders ``<image>``; without placeholders they
    go before the first question. Placeholders of other systems are translated. An answer before the
    first question is left out, and counted.

    Args:
        path: a ``.json``, ``.jsonl`` or ``.parquet`` file (or ``.zip``, ``.gz``), a folder or
            pattern of them, a folder saved by ``datasets``, or a hub id.
        images: folder that the image files' names start from (default: the file's folder).
        template: how turns become a text, see ``vlmig.processing.chat_templates``; ``tokenizer``
            for the chat template of the language model.
        image_position: ``keep`` leaves placeholders where they are; ``front`` puts those of a turn
            on separate lines before its text, as LLaVA does.
        tokenizer: the language model's, for its chat template.
        split: split of a dataset, or of files named after splits.

    Raises:
        VLMIGError: no such file or folder, an unknown option, no known columns, or a tokenizer
            without a template.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        template: str = "vicuna",
        image_position: str = "keep",
        tokenizer: Any = None,
        split: str = "train",
    ) -> None:
        self.path, self.name = Path(path), f"conversations {path}"
        self.template, self.front, self.tokenizer = template, image_position == "front", tokenizer
        if image_position not in POSITIONS:
            raise VLMIGError(
                f"image_position {image_position!r}; expected {' or '.join(POSITIONS)}; correct it"
            )
        self.records = Records(path, "conversations", images, split)
        given = self.records.columns
        if given is not None and not set(given) & {*LISTS, *ANSWERS}:
            raise VLMIGError(
                f"{path} has the columns {', '.join(given)}; expected conversations, messages, "
                "instruction and output, or question and response; rename them"
            )
        self.columns = [name for name in COLUMNS if name in (given or ())]
        self.records.column = next((name for name in IMAGES if name in (given or ())), None)
        prompt([Turn("user", "?")], template, tokenizer)  # refuses a wrong template early

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every conversation.

        Raises:
            VLMIGError: the file as a whole cannot be read.
        """
        for record in self.records.read(self.columns):
            yield record if isinstance(record, Bad) else self._pair(*record)

    def open(self, pair: Pair) -> Image.Image:
        """Read a pair's image: RGB.

        Raises:
            BadImage: it is missing, truncated, or not an image.
        """
        return self.records.open(pair)

    def _pair(self, location: str, row: Row) -> Pair | Bad:
        number = row.get("id")
        name = "" if number is None else str(number)
        location = f"{location}, id {name}" if name else location
        try:
            talk = talk_of(row)
            turns = talk.turns
            if self.front:
                turns = [Turn(turn.role, _in_front(turn.text)) for turn in turns]
                if sum(turn.text.count(IMAGE) for turn in turns) != len(talk.images):
                    raise Fault(f"more {IMAGE} than images")  # moving one made another
            text, learnt = self._text(turns, talk.system)
            group = talk.images[0] if talk.images else name
            if not is_unicode(text, group, *talk.images):
                raise Fault("not Unicode")
            versions = [self.records.version(image) or "" for image in talk.images]
            if not all(versions):
                raise Fault("no such image")
        except Fault as reason:
            return Bad(location, str(reason))
        return Pair(
            text,
            "".join(talk.images[:1]),
            group=group,
            version="\n".join(versions),
            more=tuple(talk.images[1:]),
            learnt=learnt,
            mended=talk.mended,
        )

    def _text(
        self, turns: list[Turn], system: str | None
    ) -> tuple[str, tuple[tuple[int, int], ...]]:
        try:
            return render(turns, self.template, self.tokenizer, system)
        except VLMIGError:
            if self.template != TOKENIZER:
                raise
            # It may know no system turn, or change earlier turns.
            raise Fault("refused by the chat template") from None


def _in_front(text: str) -> str:
    """Put a turn's placeholders on separate lines before its text."""
    return (f"{IMAGE}\n" * text.count(IMAGE) + text.replace(IMAGE, "").strip()).strip()
