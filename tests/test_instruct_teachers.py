"""Teachers of instruction data: endpoints in any state, and models of transformers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from chat_endpoint import ask, good, lines
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from vlmig.cli.main import main
from vlmig.data.instruct.contexts import Context
from vlmig.data.instruct.generate import Settings
from vlmig.data.instruct.prompts import KINDS, Prompts
from vlmig.data.instruct.teachers import EndpointTeacher, LocalTeacher, Sampling, key_of
from vlmig.errors import VLMIGError


def test_a_busy_or_broken_endpoint_is_asked_again(endpoint: Any) -> None:
    trouble = {
        1: (429, {"error": "slow down"}),
        2: (503, b"<html>"),
        3: None,
        4: (200, b"no json"),
        5: (200, {"choices": []}),
    }
    pauses: list[float] = []
    server = endpoint(
        lambda body, number: trouble.get(number, good(body)) if number < 6 else good(body)
    )
    teacher = EndpointTeacher(server.url, "m", timeout=20, sleep=pauses.append)
    messages = Prompts().messages("detail", Context("1", "", ("a",), ()), "Say.")
    reply = teacher.ask(messages, 3)
    assert json.loads(reply.text) and (reply.repeats, reply.prompt_tokens, reply.answer_tokens) == (
        5,
        100,
        30,
    )
    assert pauses == [7.0, 2.0, 4.0, 8.0, 16.0], (
        "doubled each time, but as long as the endpoint asks"
    )
    slow = endpoint(lambda body, number: time.sleep(1.5 if number == 1 else 0) or good(body))
    # A fifth of the delay: late by far the first time, and ample for a reply at once.
    quick = EndpointTeacher(slow.url, "m", timeout=0.3, sleep=pauses.append)
    assert quick.ask(messages, 3).repeats >= 1


def test_an_endpoint_out_of_order_ends_in_one_line(
    genome: Path, tmp_path: Path, endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        (500, b"boom"): (6, "in 6 tries (status 500: boom)"),
        (401, b"who?"): (1, "does not take the key (status 401: who?)"),
        (404, b"what?"): (1, "has no chat completions of 'm'"),
        (400, b"no\nseed"): (1, "refuses the request (status 400: no seed)"),
    }
    for answer, (count, message) in told.items():
        server = endpoint(lambda body, number, answer=answer: answer)
        with pytest.raises(VLMIGError) as error:
            ask(genome, tmp_path / str(answer[0]), server.url)
        assert message in str(error.value) and "\n" not in str(error.value)
        assert len(server.bodies) == count
        assert not json.loads((tmp_path / str(answer[0]) / "report.json").read_text())["finished"]
    server.close()
    with pytest.raises(VLMIGError, match="no reply from"):
        ask(genome, tmp_path / "gone", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(VLMIGError, match="HF_HUB_OFFLINE is set"):
        ask(genome, tmp_path / "offline", server.url)


def test_keys(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key goes to its endpoint, and the hub's token, which the client would send by itself, to
    none."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OWN_KEY", "k1\n")
    server = endpoint()
    for variable in (None, "OWN_KEY"):
        EndpointTeacher(server.url, "m", key_of(variable)).ask(
            Prompts().messages("reasoning", Context("1", "", ("a",), ())), 0
        )
    assert [headers["authorization"] for headers in server.headers] == ["Bearer none", "Bearer k1"]
    assert "hf_secret" not in str(server.headers)
    with pytest.raises(VLMIGError, match="NO_SUCH_KEY is not set"):
        key_of("NO_SUCH_KEY")
    for address in ("localhost:8000/v1", "file:///x", "http://"):
        with pytest.raises(VLMIGError, match="is no address"):
            EndpointTeacher(address, "m")


TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    + TEMPLATE
)


@pytest.fixture(scope="module")
def chat(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny byte-level tokenizer with a chat template, and a random GPT-2 with room for a whole
    prompt."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = AutoTokenizer.from_pretrained(parts / "language_model")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=12_000, n_embd=16, n_layer=1, n_head=1
    )
    config.bos_token_id = config.eos_token_id = 0
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_a_local_model_s_garbage_is_rejected(
    genome: Path, tmp_path: Path, chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "data",
        "instruct",
        str(genome),
        "--teacher",
        str(chat),
        "--limit",
        "1",
        "--retries",
        "1",
    ]
    for name in ("one", "two"):
        assert main([*command, "--max-tokens", "12", "--out", str(tmp_path / name)]) == 0
    report = json.loads((tmp_path / "one/report.json").read_text())
    assert report["rows"] == {} and set(report["rejected"]) == set(KINDS)
    assert (report["requests"], report["retries"], sum(report["rejected_replies"].values())) == (
        6,
        3,
        6,
    )
    assert report["answer_tokens"] <= 6 * 12 and report["prompt_tokens"] > 6 * 1000
    rejects = lines(tmp_path / "one/rejects.jsonl")
    assert rejects == lines(tmp_path / "two/rejects.jsonl"), (
        "a reply depends on messages and seed alone"
    )
    assert len({own["reply"] for own in rejects}) == 3 and rejects[0]["teacher"] == chat.name
    assert "conversation: 0 rows, 1 rejected" in capsys.readouterr().out
    assert main([*command, "--parallel", "2", "--out", str(tmp_path / "three")]) == 2
    assert "leave --parallel out" in capsys.readouterr().err


def test_local_models(chat: Path, tmp_path: Path, parts: Path) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "what is red?"},
    ]
    warm, cold = (
        LocalTeacher(str(chat), Sampling(8, 1.0)),
        LocalTeacher(str(chat), Sampling(8, 0.0)),
    )
    assert warm.ask(messages, 1) == warm.ask(messages, 1) != warm.ask(messages, 2)
    assert cold.ask(messages, 1) == cold.ask(messages, 2)
    text = "system: be brief\nuser: what is red?\nassistant:"
    assert warm.ask(messages, 1).prompt_tokens == len(warm.tokenizer(text).input_ids)
    warm.tokenizer.chat_template = NO_SYSTEM
    assert (
        warm.tokenizer.decode(warm._inputs(messages)["input_ids"][0])
        == "user: be brief\n\nwhat is red?\nassistant:"
    )
    for model, message in (
        (str(parts / "language_model"), "has no chat template"),
        (str(tmp_path), "no chat model at"),
    ):
        with pytest.raises(VLMIGError, match=message):
            LocalTeacher(model)
    with pytest.raises(
        VLMIGError, match="tokens of prompt and 11990 of reply; expected at most 12000 together"
    ):
        LocalTeacher(str(chat), Sampling(11_990)).ask(messages, 0)
    for wrong in ({"max_tokens": 0}, {"temperature": -1.0}):
        with pytest.raises(VLMIGError):
            Sampling(**wrong)
    for settings in ({"kinds": ("poem",)}, {"kinds": ()}, {"retries": -1}, {"regions": 0}):
        with pytest.raises(VLMIGError):
            Settings("m", **settings)
