"""How a question becomes the text that its answer follows: turns, demonstrations with pictures, thinking step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vlmig.errors import VLMIGError
from vlmig.models.config import IMAGE, VLMIGConfig
from vlmig.processing.chat_templates import LEADING, Turn, prompt, render, stop_of
from vlmig.processing.image_tokens import marked, refuse_marks, unmarked
from vlmig.vision import Pictures, all_opened


def framed(question: str, gap: str = "") -> str:
    """Put a question the way its answer can follow; for a masked LM, with a gap where the answer goes."""
    text = f"Question: {question} Answer:" if question.endswith("?") else question
    return text if not gap or gap in text else f"{text} {gap}."


Shot = tuple[Pictures, str, str]
"""A demonstration: pictures (none, one or several), a question, its answer."""
THINKING = "Let's think step by step."
CONCLUSION = "Therefore, the answer is"


def refuse_senseless(question: str, choices: Sequence[str] | None) -> None:
    """Refuse what has no answer.

    Raises:
        VLMIGError: an empty question, or fewer than two different choices.
    """
    if not question.strip():
        raise VLMIGError('the question is empty; ask something, e.g. "What is the color of a banana?"')
    if choices is not None and len(set(choices)) < 2:
        raise VLMIGError(f"choices={list(choices)}; expected at least two different answers")


@dataclass(frozen=True)
class Asking:
    """Settings of ``VLMIG.ask`` that are seldom needed."""

    prompt: str | None = None
    seed: int = 0
    mix: str | None = None
    weights: str | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Conversation:
    """Turns up to a question, with the pictures in them.

    Pictures stand at the marks of their turn in the order in which they are given; those of a conversation without marks stand
    before its first question, each on a line of its own.
    """

    turns: list[Turn]
    """Demonstrations first, with a mark for each picture."""
    pictures: list[Image.Image]
    """In the order of their marks; beside the text, with late fusion."""
    template: str
    tokenizer: Any

    @classmethod
    def of(
        cls, asked: str | Sequence[Turn], images: Pictures, shots: Sequence[Shot], config: VLMIGConfig, tokenizer: Any
    ) -> Conversation:
        """Put demonstrations, pictures and a question (or turns that end with one) together.

        Raises:
            VLMIGError: what is no picture, more or fewer marks than pictures, or marks for a model that has no pictures in texts.
        """
        own = [Turn("user", asked)] if isinstance(asked, str) else list(asked)
        shown, early, before = all_opened(images), config.images_in_text, []
        pictures: list[Image.Image] = []
        for demonstrated, question, answer in shots:
            seen = all_opened(demonstrated)
            if seen and not early:
                raise VLMIGError(
                    f"a demonstration with pictures, but fusion={config.fusion!r} looks at pictures beside the text; expected none "
                    "in it, or a model with fusion 'prefix'"
                )
            before += [Turn("user", marked(question, len(seen), line=True)), Turn("assistant", answer)]
            pictures += seen
        if early:
            own = _marked(own, len(shown))
            refuse_marks([turn.text for turn in [*before, *own] if turn.role != "user"], "pictures stand in questions")
        else:
            refuse_marks(
                [turn.text for turn in [*before, *own]], "this model looks at pictures beside the text; leave it out"
            )
        turns = before + own
        worded = any(unmarked(turn.text).strip() for turn in turns if turn.role == "user")
        template = "question" if config.chat_template == "plain" and worded else config.chat_template
        return cls(turns, pictures + shown, template, tokenizer)

    @property
    def about(self) -> str:
        """The last question in words."""
        return unmarked(self.turns[-1].text).strip()

    def prompt(self) -> str:
        """Write what a text answer follows."""
        return prompt(self.turns, self.template, self.tokenizer)

    def begun(self, answer: str) -> str:
        """Write the conversation with the beginning of its answer."""
        text, spans = render([*self.turns, Turn("assistant", answer)], self.template, self.tokenizer)
        return text[: text.index(answer, spans[-1][0]) + len(answer)]

    def concluded(self, rationale: str) -> str:
        """Write the conversation with an answer that has thought and is about to conclude."""
        return " ".join(filter(None, (self.begun(THINKING), rationale, CONCLUSION)))

    @property
    def stop(self) -> str:
        """What ends an answer."""
        return stop_of(self.template, self.tokenizer)

    def context(self, gap: str = "") -> str:
        """Write what choices are scored behind.

        In the short form (template ``question``, and whatever fills a gap) a text that asks nothing is continued as it is.
        """
        if self.template != "question" and not gap:
            return self.prompt()
        before = render(self.turns[:-1], "question")[0] if self.turns[1:] else ""
        found = LEADING.match(self.turns[-1].text)
        marks = IMAGE * found[0].count(IMAGE) if found else ""
        rest = self.turns[-1].text[found.end() if found else 0 :]
        return before + marks + (framed(rest, gap) if rest or gap else "")

    def following(self, choices: Sequence[str]) -> list[str]:
        """Write each choice as it follows what asks for it."""
        start = len(self.prompt())
        return [self.begun(choice.strip())[start:] for choice in choices]


def _marked(turns: list[Turn], pictures: int) -> list[Turn]:
    """See that the user's turns have a mark for each picture."""
    asked = [turn.text for turn in turns if turn.role == "user"]
    text = "\n".join(asked)
    if IMAGE in text or not pictures:
        marked(text, pictures)
        return turns
    return [Turn(turns[0].role, marked(turns[0].text, pictures, line=True)), *turns[1:]]
