"""Conversations as text: turns in a language model's format, and the spans of its answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlmig.errors import VLMIGError, one_line
from vlmig.models.config import IMAGE

TOKENIZER = "tokenizer"
"""Stands for the tokenizer's ``chat_template``."""
Spans = tuple[tuple[int, int], ...]
"""Begin and end of spans of a text, in characters."""
LEADING = re.compile(rf"(?:\s*{IMAGE})+\s*")
PROBE = "an-answer-like-no-other"
"""A text by which an answer is located in what a tokenizer's template writes."""


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: str
    """``user`` or ``assistant``."""
    text: str
    """With marks (``vlmig.models.config.IMAGE``) where images stand."""


@dataclass(frozen=True)
class Template:
    """The text around turns; ``{}`` in a field is where the turn's own text goes."""

    user: str
    """A question up to where its answer begins."""
    answer: str
    """An answer with its stop mark."""
    stop: str
    """The stop mark of an answer, for generation."""
    between: str = ""
    """Between an answer and the next question."""
    system: str = ""
    """What is said first when nothing else is given. Part of the format: checkpoints saw this very
    sentence in training."""
    opening: str = "{}"
    """The system's text."""
    inside: bool = False
    """Whether the system's text stands at the begin of the first question rather than before it."""
    images: str = "kept"
    """``kept``: where they are in the question; ``first``: those it begins with stand before all of
    ``user``; ``only``: the question is its images, and its text is dropped."""


TEMPLATES = {
    "plain": Template("{}", "{}\n", "\n", opening="", images="only"),
    "question": Template("Question: {} Answer:", " {}\n", "\n", opening="{}\n", images="first"),
    "vicuna": Template(
        "USER: {} ASSISTANT:",
        " {}</s>",
        "</s>",
        system="A chat between a curious user and an artificial intelligence assistant. The "
        "assistant gives helpful, detailed, and polite answers to the user's questions.",
        opening="{} ",
    ),
    "vicuna_v0": Template(
        "Human: {}###Assistant:",
        " {}###",
        "###",
        system="A chat between a curious human and an artificial intelligence assistant. The "
        "assistant gives helpful, detailed, and polite answers to the human's questions.",
        opening="{}###",
    ),
    "llama2": Template(  # the tokenizer itself writes the first <s>
        "[INST] {} [/INST]",
        " {} </s>",
        "</s>",
        between="<s>",
        system="You are a helpful language and vision assistant. You are able to understand the "
        "visual content that the user provides, and assist the user with a variety of "
        "tasks using natural language.",
        opening="<<SYS>>\n{}\n<</SYS>>\n\n",
        inside=True,
    ),
    "chatml": Template(
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
        "{}<|im_end|>",
        "<|im_end|>",
        between="\n",
        system="You are a helpful assistant.",
        opening="<|im_start|>system\n{}<|im_end|>\n",
    ),
}
"""``plain``: images and answer, for captions. ``question``: the short form that small LMs
understand. ``vicuna``: LLaVA 1.5; ``vicuna_v0``: LLaVA 1.0. ``llama2``, ``chatml``: LMs trained on
these."""


def render(
    turns: Sequence[Turn], template: str, tokenizer: Any = None, system: str | None = None
) -> tuple[str, Spans]:
    """Write a conversation that ends with an answer.

    The text begins with what ``prompt`` writes of all turns but the last.

    Args:
        turns: user and assistant in turn, from the user on.
        template: one of ``TEMPLATES``, or ``tokenizer``.
        tokenizer: for the template of that name.
        system: what is said first, in place of the template's own; ``""`` is nothing.

    Returns:
        The text, and what of it a model has to write: each answer from the end of what asks for it
        (so with a blank that stands there) to the end of its stop mark.

    Raises:
        VLMIGError: an unknown template, turns in another order or without text, or a chat template
            that does not write them.
    """
    _check(turns, template, "assistant")
    if template == TOKENIZER:
        return _render_applied(tokenizer, turns, system)
    return _write(turns, TEMPLATES[template], system)


def prompt(
    turns: Sequence[Turn], template: str, tokenizer: Any = None, system: str | None = None
) -> str:
    """Write a conversation that ends with a question, so that an answer can follow; arguments and
    errors as of ``render``."""
    _check(turns, template, "user")
    if template == TOKENIZER:
        return _apply(tokenizer, turns, system, asks=True)
    return _write(turns, TEMPLATES[template], system)[0]


def stop_of(template: str, tokenizer: Any = None) -> str:
    """Return what ends an answer.

    Args:
        template: one of ``TEMPLATES``, or ``tokenizer``.
        tokenizer: for the template of that name; its end token, where the template writes nothing
            behind an answer.
    """
    if template != TOKENIZER:
        return TEMPLATES[template].stop
    text, spans = _render_applied(tokenizer, [Turn("user", "?"), Turn("assistant", PROBE)], None)
    mark = text[text.index(PROBE) + len(PROBE) : spans[-1][1]]
    return mark.strip() or mark or tokenizer.eos_token


def _check(turns: Sequence[Turn], template: str, last: str) -> None:
    """Insist on a known template and on turns that alternate and are not empty."""
    if template != TOKENIZER and template not in TEMPLATES:
        known = ", ".join((*TEMPLATES, TOKENIZER))
        raise VLMIGError(
            f"template {template!r} of a conversation; expected one of {known}; correct it"
        )
    roles = [turn.role for turn in turns]
    if roles != [("user", "assistant")[i % 2] for i in range(len(roles))] or roles[-1:] != [last]:
        raise VLMIGError(
            f"a conversation of {', '.join(map(str, roles)) or 'no turns'}; expected user and "
            f"assistant in turn, the {last} last; correct it"
        )
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn.text, str) or not turn.text.strip():
            raise VLMIGError(
                f"turn {number} of a conversation is {turn.text!r}; expected a text; give one, or "
                "leave it out"
            )


def _write(turns: Sequence[Turn], template: Template, system: str | None) -> tuple[str, Spans]:
    opening = template.system if system is None else system
    first = template.opening.format(opening) if opening else ""
    text, spans = "" if template.inside else first, []
    for number, turn in enumerate(turns):
        if turn.role == "assistant":
            start = len(text)
            text += template.answer.format(turn.text)
            spans.append((start, len(text)))
            continue
        inner = first if template.inside and number == 0 else ""
        text += (template.between if number else "") + _user_text(turn.text, template, inner)
    return text, tuple(spans)


def _user_text(text: str, template: Template, inner: str) -> str:
    """Write a user's turn, with its images where the template has them."""
    if template.images == "only":
        return template.user.format(IMAGE * text.count(IMAGE))
    leading = LEADING.match(text) if template.images == "first" else None
    if leading is None:
        return template.user.format(inner + text)
    marks, rest = IMAGE * leading[0].count(IMAGE), text[leading.end() :]
    # An image alone is no question.
    return marks + template.user.format(inner + rest) if rest else marks


def _render_applied(tokenizer: Any, turns: Sequence[Turn], system: str | None) -> tuple[str, Spans]:
    """Write a conversation by the tokenizer's template, turn by turn to locate its answers."""
    text, spans = _apply(tokenizer, turns, system), []
    for i in range(1, len(turns), 2):
        asking, answer = _apply(tokenizer, turns[:i], system, asks=True), turns[i].text.strip()
        behind = _apply(tokenizer, turns[: i + 1], system)
        if not (behind.startswith(asking) and text.startswith(behind)):
            # Some write the last answer differently, for example with an empty thought.
            one = _apply(tokenizer, [turns[0], Turn("assistant", PROBE)], system)
            behind = asking + answer + one.rpartition(PROBE)[2]
        if not text.startswith(behind):
            raise VLMIGError(
                f"the tokenizer's chat template writes turn {i + 1} otherwise once others follow; "
                "expected one that only adds to a conversation; choose a template among "
                f"{', '.join(TEMPLATES)}"
            )
        stopped = behind.rstrip()  # line breaks after a stop mark belong to the next turn
        end = len(behind) if stopped.endswith(answer) else len(stopped)
        spans.append((len(asking), end))
    return text, tuple(spans)


def _apply(tokenizer: Any, turns: Sequence[Turn], system: str | None, asks: bool = False) -> str:
    """Apply the tokenizer's template, without the first token where the tokenizer adds it."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise VLMIGError(
            f"template {TOKENIZER} with "
            f"{'no tokenizer' if tokenizer is None else 'a tokenizer that has no chat_template'}; "
            "expected a chat model's tokenizer; name its model, or choose a template among "
            f"{', '.join(TEMPLATES)}"
        )
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
    except (TemplateError, ValueError, TypeError) as error:
        reason = one_line(error, whole=True)
        raise VLMIGError(
            f"the tokenizer's chat template refuses a conversation ({reason}); expected one with "
            f"turns of user and assistant{' and a system' if system else ''}; choose a template "
            f"among {', '.join(TEMPLATES)}"
        ) from None
    first = tokenizer.bos_token
    written = first is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    return text.removeprefix(first) if written else text
