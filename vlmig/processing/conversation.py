"""How a question becomes the text that its answer follows: turns, few-shot examples with images, a
chain of thought.

``<image>`` in a text is a placeholder: the image goes there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vlmig.errors import VLMIGError
from vlmig.models.config import IMAGE, VLMIGConfig
from vlmig.processing.chat_templates import LEADING, Turn, prompt, render, stop_of
from vlmig.vision import ImageInputs, all_opened

Shot = tuple[ImageInputs, str, str]
"""A few-shot example: its images (none, one or several), a question, the answer."""
THINKING = "Let's think step by step."
CONCLUSION = "Therefore, the answer is"
BESIDE_TEXT = "but this model looks at images beside the text; leave it out"


def with_placeholders(text: str, images: int, line: bool = False) -> str:
    """Return a text with a placeholder for each of its images; in one without any, they go first.

    Args:
        line: give each its line, as LLaVA and VILA put images before a question. Captions and other
            texts to continue have them directly in front, as in training.

    Raises:
        VLMIGError: more or fewer placeholders than images.
    """
    count = text.count(IMAGE)
    if count not in (0, images) or count > images:
        raise VLMIGError(
            f"{images} images for {count} {IMAGE} in {_short(text)}; expected an image for "
            f"each {IMAGE}, or none at all"
        )
    if count or not images:
        return text
    return (f"{IMAGE}\n" * images + text.strip()).strip() if line else IMAGE * images + text


def without_placeholders(text: str) -> str:
    """Return the words of a text."""
    return text.replace(f"{IMAGE}\n", "").replace(IMAGE, "")


def refuse_placeholders(texts: Sequence[str], why: str) -> None:
    """Insist on texts without placeholders.

    Raises:
        VLMIGError: one has a placeholder.
    """
    for text in texts:
        if IMAGE in text:
            raise VLMIGError(f"{_short(text)} contains {IMAGE}, {why}")


def spaced(context: str, choices: Sequence[str]) -> list[str]:
    """Put a space in front of every candidate that does not begin with one, unless the context ends
    with one.

    Raises:
        VLMIGError: an empty candidate.
    """
    if not all(option.strip() for option in choices):
        raise VLMIGError("an empty candidate among the choices; expected words")
    if context[-1:].isspace():
        return list(choices)
    return [option if option[:1].isspace() else " " + option for option in choices]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


@dataclass(frozen=True)
class Conversation:
    """Turns up to a question, with their images.

    Images go to the placeholders of their turns, in order. Without any placeholder they go before
    the first question, each on its line.
    """

    turns: list[Turn]
    """Few-shot examples first, with a placeholder for each image."""
    images: list[Image.Image]
    """In the order of their placeholders; with late fusion the model looks at them beside the
    text."""
    template: str
    tokenizer: Any

    @classmethod
    def of(
        cls,
        question: str | Sequence[Turn],
        images: ImageInputs,
        shots: Sequence[Shot],
        config: VLMIGConfig,
        tokenizer: Any,
    ) -> Conversation:
        """Combine few-shot examples, images and a question, or turns that end with a question.

        Raises:
            VLMIGError: something that is not an image; more or fewer placeholders than images;
                images of an example, or placeholders, with late fusion.
        """
        in_text, last_images = config.images_in_text, all_opened(images)
        turns: list[Turn] = []
        every_image: list[Image.Image] = []
        for example_images, text, answer in shots:
            opened = all_opened(example_images)
            if opened and not in_text:
                raise VLMIGError(
                    f"a demonstration with images, but fusion={config.fusion!r} looks at images "
                    "beside the text; expected none in it, or a model with fusion 'prefix'"
                )
            turns += [
                Turn("user", with_placeholders(text, len(opened), line=True)),
                Turn("assistant", answer),
            ]
            every_image += opened
        last = [Turn("user", question)] if isinstance(question, str) else list(question)
        turns += _with_placeholders(last, len(last_images)) if in_text else last
        user = [turn.text for turn in turns if turn.role == "user"]
        if in_text:
            replies = [turn.text for turn in turns if turn.role != "user"]
            refuse_placeholders(replies, "which is only allowed in questions")
        else:
            refuse_placeholders([turn.text for turn in turns], BESIDE_TEXT)
        template = config.chat_template
        if template == "plain" and without_placeholders("".join(user)).strip():
            template = "question"  # ``plain`` would drop the words
        return cls(turns, every_image + last_images, template, tokenizer)

    @property
    def last_question(self) -> str:
        """The words of the last question."""
        return without_placeholders(self.turns[-1].text).strip()

    def prompt(self) -> str:
        """Write the text that a generated answer follows."""
        return prompt(self.turns, self.template, self.tokenizer)

    def begin_answer(self, answer: str) -> str:
        """Write the conversation with the beginning of its answer."""
        text, spans = render(
            [*self.turns, Turn("assistant", answer)], self.template, self.tokenizer
        )
        return text[: text.index(answer, spans[-1][0]) + len(answer)]

    def conclude(self, rationale: str) -> str:
        """Write the conversation with a chain of thought, up to where its conclusion follows."""
        return " ".join(filter(None, (self.begin_answer(THINKING), rationale, CONCLUSION)))

    @property
    def stop(self) -> str:
        """The text that ends an answer."""
        return stop_of(self.template, self.tokenizer)

    def context(self, gap: str = "") -> str:
        """Write the text after which choices are scored.

        In the short form (template ``question``, and any text with a gap) a text that is not a
        question is continued as it is.

        Args:
            gap: a masked LM's mask token, which stands for the answer.
        """
        if self.template != "question" and not gap:
            return self.prompt()
        before = render(self.turns[:-1], "question")[0] if self.turns[1:] else ""
        text = self.turns[-1].text
        leading = LEADING.match(text)
        if leading is not None:
            before += IMAGE * leading[0].count(IMAGE)
            text = text[leading.end() :]
        if not text and not gap:
            return before
        if text.endswith("?"):
            text = f"Question: {text} Answer:"
        return before + (text if not gap or gap in text else f"{text} {gap}.")

    def continuations(self, choices: Sequence[str]) -> list[str]:
        """Write each choice as it follows the prompt."""
        start = len(self.prompt())
        return [self.begin_answer(choice.strip())[start:] for choice in choices]


def _with_placeholders(turns: list[Turn], images: int) -> list[Turn]:
    """Check that the user's turns have a placeholder for each image; in turns without any, put them
    first."""
    text = "\n".join(turn.text for turn in turns if turn.role == "user")
    if IMAGE in text or not images:
        with_placeholders(text, images)
        return turns
    return [Turn(turns[0].role, with_placeholders(turns[0].text, images, line=True)), *turns[1:]]
