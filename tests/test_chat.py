"""Conversations as text: what training reads begins with what inference asks, and only answers are
learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from vlmig.errors import VLMIGError
from vlmig.processing.chat_templates import TEMPLATES, Turn, prompt, render

TALK = [
    Turn("user", "<image>\nWhat is it?"),
    Turn("assistant", "in {red}"),
    Turn("user", "Compare:\n<image>"),
    Turn("assistant", "Both are red"),
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Writes an empty thought before the last answer only, as reasoning models do.
THINKING = CHATML.replace(
    "{{ m.content }}",
    "{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}",
)
FIRST = "{{ bos_token }}" + CHATML
# Shows the last exchange only.
FORGETFUL = CHATML.replace("in messages", "in messages[-2:]")
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
)
NO_STOP = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"

WRITTEN = {
    "plain": "<image>in {red}\n<image>Both are red\n",
    "question": "<image>Question: What is it? Answer: in {red}\nQuestion: Compare:\n<image> "
    "Answer: Both are red\n",
    "vicuna": "S USER: <image>\nWhat is it? ASSISTANT: in {red}</s>USER: Compare:\n<image> "
    "ASSISTANT: Both are red</s>",
    "vicuna_v0": "S###Human: <image>\nWhat is it?###Assistant: in {red}###Human: "
    "Compare:\n<image>###Assistant: Both are red###",
    "llama2": "[INST] <<SYS>>\nS\n<</SYS>>\n\n<image>\nWhat is it? [/INST] in {red} </s><s>[INST] "
    "Compare:\n<image> [/INST] Both are red </s>",
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<image>\nWhat is "
    "it?<|im_end|>\n<|im_start|>assistant\nin {red}<|im_end|>\n"
    "<|im_start|>user\nCompare:\n<image><|im_end|>\n<|im_start|>assistant\nBoth are red<|im_end|>",
}


@pytest.fixture()
def tokenizer(parts: Path) -> Any:
    return AutoTokenizer.from_pretrained(parts / "language_model")


def pieces(text: str, spans: tuple[tuple[int, int], ...]) -> list[str]:
    return [text[begin:end] for begin, end in spans]


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(name: str) -> None:
    system = "S" if TEMPLATES[name].system else None
    text, spans = render(TALK, name, system=system)
    assert text == WRITTEN[name]
    learnt = pieces(text, spans)
    assert [own.removesuffix(TEMPLATES[name].stop).strip() for own in learnt] == [
        "in {red}",
        "Both are red",
    ]
    assert all(own.endswith(TEMPLATES[name].stop) for own in learnt)
    for count, (begin, _) in zip(
        (1, 3), spans, strict=True
    ):  # what is learnt begins where inference lets the model go on
        assert prompt(TALK[:count], name, system=system) == text[:begin]


def test_system_texts_and_lonely_pictures() -> None:
    turns = [Turn("user", "Hi"), Turn("assistant", "Hello")]
    assert render(turns, "vicuna")[0].startswith("A chat between a curious user and an artificial")
    assert render(turns, "vicuna", system="")[0] == "USER: Hi ASSISTANT: Hello</s>"
    assert (
        render(turns, "question", system="Be brief.")[0]
        == "Be brief.\nQuestion: Hi Answer: Hello\n"
    )
    assert render(turns, "plain", system="Be brief.")[0] == "Hello\n"
    assert (
        render([Turn("user", "<image>\n<image>"), turns[1]], "question")[0]
        == "<image><image> Hello\n"
    )


@pytest.mark.parametrize("template", (CHATML, THINKING, FIRST, NO_STOP))
def test_the_tokenizers_own_template(template: str, tokenizer: Any) -> None:
    tokenizer.chat_template = template
    text, spans = render(TALK, "tokenizer", tokenizer, "S")
    thought = "<think></think>" if template == THINKING else ""
    stop = "\n" if template == NO_STOP else "<|im_end|>"
    assert pieces(text, spans) == [f"in {{red}}{stop}", f"{thought}Both are red{stop}"]
    for count, (begin, _) in zip((1, 3), spans, strict=True):
        assert prompt(TALK[:count], "tokenizer", tokenizer, "S") == text[:begin]
    assert text.startswith(tokenizer.bos_token) == (
        template == FIRST
    )  # this tokenizer writes none itself


def test_a_first_token_that_the_tokenizer_writes_is_not_written_twice(tokenizer: Any) -> None:
    class Beginning:
        """A tokenizer that begins every text with its first token."""

        bos_token, bos_token_id = tokenizer.bos_token, tokenizer.bos_token_id
        chat_template = tokenizer.chat_template = FIRST
        apply_chat_template = tokenizer.apply_chat_template

        def __call__(self, text: str) -> Any:
            found = tokenizer(text)
            found["input_ids"] = [self.bos_token_id, *found.input_ids]
            return found

    text, spans = render(TALK, "tokenizer", Beginning())
    assert (
        text.startswith("<|im_start|>user") and pieces(text, spans)[1] == "Both are red<|im_end|>"
    )


def test_what_cannot_be_written(tokenizer: Any) -> None:
    user, answer = Turn("user", "Hi"), Turn("assistant", "Hello")
    wrong: list[tuple[list[Turn], str]] = [
        ([], "no turns"),
        ([answer], "a conversation of assistant;"),
    ]
    wrong += [
        ([user], "the assistant last"),
        ([user, user], "of user, user"),
        ([Turn("bot", "x"), answer], "of bot, "),
    ]
    wrong += [([Turn("user", " "), answer], "turn 1 of a conversation is ' '")]
    for turns, message in wrong:
        with pytest.raises(VLMIGError, match=message):
            render(turns, "vicuna")
    with pytest.raises(VLMIGError, match="the user last"):
        prompt([user, answer], "vicuna")
    with pytest.raises(
        VLMIGError, match="template 'vicunna' of a conversation; expected one of plain, .*tokenizer"
    ):
        render([user, answer], "vicunna")
    for template, system, message in (
        (None, None, "has no chat_template"),
        (NO_SYSTEM, "S", "refuses a conversation .no system."),
        (FORGETFUL, None, "writes turn 2 otherwise once others follow"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(VLMIGError, match=message) as error:
            render(TALK, "tokenizer", tokenizer, system)
        assert "\n" not in str(error.value)
    with pytest.raises(VLMIGError, match="with no tokenizer"):
        prompt([user], "tokenizer")
