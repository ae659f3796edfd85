"""What the teacher of instruction data is told, and what is taken of its replies."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chat_endpoint import LONG, TURN, write_genome
from data_files import noise, region

from vlmig.data.instruct.contexts import Context, contexts
from vlmig.data.instruct.prompts import KINDS, Prompts
from vlmig.data.instruct.replies import BadReply, read_reply


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_genome(tmp_path_factory.mktemp("genome"))


def test_contexts_are_phrases_and_normalised_boxes(genome: Path, tmp_path: Path) -> None:
    left_out: Counter[str] = Counter()
    found = list(contexts(genome, 16, 0, left_out))
    assert [one.image for one in found] == [str(number) for number in range(1, 9)]
    # Of 40 x 30 pixels; the object reaches from 3 to 33 and is cut to 30. The first two have none
    # of use: their phrases' boxes.
    assert (
        found[2].text(True)
        == "a red ball number 3\ngreen grass below\nthe sky is grey\n\nball: [0.250, 0.100, "
        "0.500, 1.000]"
    )
    assert (
        found[0]
        .text(True)
        .endswith(
            "\n\na red ball number 1: [0.100, 0.100, 0.600, 0.600]\ngreen grass below: [0.000, "
            "0.500, 1.000, 1.000]\n"
            "the sky is grey: [0.000, 0.000, 1.000, 0.400]"
        )
    )
    assert found[1].text(False) == "a red ball number 2\ngreen grass below\nthe sky is grey"
    assert left_out == {"objects: object without a name": 1}
    assert len({one.digest for one in found}) == 8
    two = [list(contexts(genome, 2, seed, Counter())) for seed in (0, 0, 1)]
    assert two[0] == two[1] != two[2] and all(len(one.phrases) == 2 for one in two[0])

    (tmp_path / "VG_100K").mkdir()
    for number in (1, 2):
        noise(number).save(tmp_path / f"VG_100K/{number}.jpg")
    whole, part, other = (0, 0, 40, 30), (2, 0, 38, 30), (30, 20, 10, 10)
    same = [
        region(1, whole, "a red ball"),
        region(2, part, "the red ball is old"),
        region(3, part, "A red ball."),
    ]
    differ = [region(4, other, "a red car is old"), region(5, whole, "a blue car")]
    (tmp_path / "region_descriptions.json").write_text(
        json.dumps(
            [
                {"id": 1, "regions": same + differ},
                {"id": 2, "regions": differ},
                {"id": 1, "regions": same},
            ]
        )
    )
    left_out = Counter()
    for seed in range(5):  # whichever comes first stands for those that say the same
        only = list(contexts(tmp_path, 16, seed, left_out))
        assert [one.image for one in only] == ["1", "2"] and len(only[0].phrases) == 3
        assert len(set(only[0].phrases) & {"a red ball", "the red ball is old", "A red ball."}) == 1
        assert {"a red car is old", "a blue car"} < set(only[0].phrases)
    assert left_out == {"image a second time": 5}


def test_requests_show_examples_that_we_would_take_ourselves() -> None:
    prompts = Prompts()
    context = Context("7", "7.jpg", ("a cat",), (("cat", (0.0, 0.25, 0.5, 1.0)),))
    for kind in KINDS:
        messages = prompts.messages(kind, context, "Describe it.", "not JSON")
        assert [message["role"] for message in messages] == [
            "system",
            *["user", "assistant"] * 2,
            "user",
        ]
        for shown in (2, 4):
            assert read_reply(kind, messages[shown]["content"], "Describe it.")
        last = messages[-1]["content"]
        assert (
            ("cat: [0.000, 0.250, 0.500, 1.000]" in last)
            == ("[" in last)
            == (kind != "conversation")
        )
        assert ("Request: Describe it." in last) == (kind == "detail")
        assert "could not be used: not JSON" in last and "{" not in last
        assert "could not" not in prompts.messages(kind, context, "Describe it.")[-1]["content"]
    drawn = [prompts.request(str(image), 0) for image in range(200)]
    assert set(drawn) == set(prompts.requests) and drawn != [
        prompts.request(str(image), 1) for image in range(200)
    ]


OTHER = {"question": "Is it big?", "answer": "No, it is small."}
WRONG: list[tuple[str, Any, str]] = [
    ("conversation", "Sure! Here you are", "not JSON"),
    ("conversation", '{"turns": [', "not JSON"),
    ("conversation", "[" * 100_000, "not JSON"),
    ("conversation", f"```json\n{json.dumps({'turns': []})}\n```\n```json\n{{}}\n```", "not JSON"),
    ("conversation", [TURN, OTHER], "not a JSON object"),
    ("conversation", {"turn": [TURN, OTHER]}, "no turns"),
    ("conversation", {"turns": {"question": "a", "answer": "b"}}, "turns of the wrong type"),
    ("conversation", {"turns": [TURN, "x"]}, "not a JSON object"),
    ("conversation", {"turns": [TURN, {"question": "Is it big?"}]}, "no answer"),
    ("conversation", {"turns": [TURN, OTHER | {"answer": 3}]}, "answer of the wrong type"),
    ("conversation", {"turns": [TURN, OTHER | {"answer": " \n"}]}, "empty answer"),
    ("conversation", {"turns": [TURN, OTHER | {"question": ""}]}, "empty question"),
    ("conversation", {"turns": [TURN]}, "not 2 to 10 turns"),
    ("conversation", {"turns": []}, "not 2 to 10 turns"),
    (
        "conversation",
        {"turns": [{"question": f"Is it {i}?", "answer": "Yes."} for i in range(11)]},
        "not 2 to 10 turns",
    ),
    (
        "conversation",
        {"turns": [TURN, OTHER, TURN | {"question": "what is THERE"}]},
        "question asked twice",
    ),
    (
        "conversation",
        {"turns": [TURN, OTHER | {"answer": "Is it big? No."}]},
        "answer repeats the question",
    ),
    (
        "conversation",
        {"turns": [TURN, OTHER | {"answer": "I'm sorry, I cannot see it."}]},
        "refused to answer",
    ),
    (
        "conversation",
        {"turns": [TURN, OTHER | {"answer": "As an AI I do not know."}]},
        "refused to answer",
    ),
    ("conversation", {"turns": [TURN, OTHER | {"answer": "See <image>."}]}, "has an image mark"),
    ("conversation", {"turns": [TURN, OTHER | {"answer": "half \ud800"}]}, "not Unicode"),
    ("conversation", {"turns": [TURN, OTHER | {"question": "word " * 61}]}, "question too long"),
    ("detail", {"answer": "A red ball."}, "answer too short"),
    ("detail", {"answer": "word " * 401}, "answer too long"),
    ("detail", {"description": LONG}, "no answer"),
    ("reasoning", {"question": "Why so?", "answer": LONG}, "question too short"),
    ("reasoning", {"answer": LONG}, "no question"),
    *(
        ("detail", {"answer": f"{LONG} {leak}"}, "speaks of captions, boxes or coordinates")
        for leak in (
            "as the caption says",
            "its bounding box is large",
            "at the coordinates given",
            "at [0.1, 0.2]",
            "the lines mention a dog",
            "according to the description",
            "the provided list",
        )
    ),
]


@pytest.mark.parametrize(("kind", "value", "reason"), WRONG, ids=lambda value: str(value)[:40])
def test_replies_of_no_use_have_a_reason(kind: str, value: Any, reason: str) -> None:
    with pytest.raises(BadReply) as error:
        read_reply(kind, value if isinstance(value, str) else json.dumps(value), "Describe it.")
    assert str(error.value) == reason


def test_replies_of_use() -> None:
    turns = [("What is there?", "A red ball."), ("Is it big?", "No, it is small.")]
    bare = json.dumps({"turns": [TURN, OTHER], "mood": "fine"})
    for text in (
        bare,
        f"\n{bare}  ",
        f"```json\n{bare}\n```",
        f"Here:\n```\n{bare}\n```\n",
        f"<think>Hm, {{}}</think>\n{bare}",
    ):
        assert read_reply("conversation", text) == turns
    plain = f"{LONG} A box [of wood] stands on the lines of the 2 courts."  # innocent boxes, brackets and lines
    assert read_reply("detail", json.dumps({"answer": plain}), "Describe it.") == [
        ("Describe it.", plain)
    ]
