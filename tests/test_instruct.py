"""What a run of instruction data leaves behind: rows, rejects, counts, and the same after a
stop."""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chat_endpoint import LONG, TURN, ask, completion, good, kind_of, lines
from data_files import region

from vlmig.cli.main import main
from vlmig.data.instruct.contexts import contexts
from vlmig.data.instruct.generate import Settings
from vlmig.data.instruct.ledger import Bounds
from vlmig.data.instruct.prompts import KINDS, Prompts
from vlmig.data.instruct.teachers import Sampling
from vlmig.data.pairs import Pair
from vlmig.data.sources.conversations import Conversations
from vlmig.errors import VLMIGError


def test_rows_report_and_cost(
    genome: Path, tmp_path: Path, endpoint: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server = endpoint()
    command = [
        "data",
        "instruct",
        str(genome),
        "--out",
        str(tmp_path),
        "--teacher",
        "m",
        "--endpoint",
        server.url,
    ]
    assert main([*command, "--price-in", "2.5", "--price-out", "10", "--max-tokens", "77"]) == 0
    rows = lines(tmp_path / "instructions.jsonl")
    assert Counter(row["kind"] for row in rows) == dict.fromkeys(KINDS, 8)
    assert {row["id"] for row in rows} == {
        f"{image}_{kind}" for image in range(1, 9) for kind in KINDS
    }
    told = {one.image: one for one in contexts(genome, 16, 0, Counter())}
    places, requests = Counter[bool](), Prompts().requests
    for row in rows:
        image = row["id"].split("_")[0]
        assert row["image"] == f"VG_100K/{image}.jpg" and row["context"] == told[image].digest
        assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"] * (
            3 if row["kind"] == "conversation" else 1
        )
        values = [turn["value"] for turn in row["conversations"]]
        assert "".join(values).count("<image>") == values[0].count("<image>") == 1
        before = values[0].startswith("<image>\n")
        assert before or values[0].endswith("\n<image>")
        places[before] += 1
        question = values[0].replace("<image>", "").strip()
        assert (question in requests) == (row["kind"] == "detail")
        assert (row["teacher"], row["prompt_version"], row["rejections"]) == (
            "m",
            Prompts().version,
            [],
        )
    # Of 24 fair draws fewer than 4 on one side have a chance of 3e-4; the seed is fixed.
    assert min(places.values()) >= 4
    asked = {json.dumps(body["messages"]): body for body in server.bodies}
    assert len(asked) == 24
    for body in server.bodies:
        assert (body["path"], body["model"], body["max_tokens"], body["temperature"]) == (
            "/v1/chat/completions",
            "m",
            77,
            0.7,
        )
    assert {row["seed"] for row in rows} == {body["seed"] for body in server.bodies}
    assert "jpg" not in json.dumps(server.bodies), "the teacher sees words only"
    report = json.loads((tmp_path / "report.json").read_text())
    assert (
        report["finished"]
        and report["rows"] == dict.fromkeys(KINDS, 8)
        and report["rejected"] == {}
    )
    assert (report["requests"], report["retries"], report["sent_again"]) == (24, 0, 0)
    assert (report["prompt_tokens"], report["answer_tokens"]) == (2400, 720)
    # 2400 tokens at 2.5 and 720 at 10 per million: 0.006 + 0.0072; rounding of one product and sum.
    assert report["cost"] == pytest.approx(0.0132, rel=1e-12)
    assert 0 < report["seconds"] < 60 and report["left_out"] == {
        "objects: object without a name": 1
    }
    assert (tmp_path / "rejects.jsonl").read_bytes() == b""
    learnt = list(Conversations(tmp_path / "instructions.jsonl", images=genome).pairs())
    assert [pair.picture for pair in learnt if isinstance(pair, Pair)] == [
        row["image"] for row in rows
    ], "training reads it"
    assert "conversation: 8 rows, 0 rejected" in capsys.readouterr().out
    assert main(command + ["--max-tokens", "77"]) == 0 and len(server.bodies) == 24, (
        "nothing is asked twice"
    )


def test_replies_of_no_use_are_asked_for_again_and_then_rejected(
    genome: Path, tmp_path: Path, endpoint: Any
) -> None:
    """Conversations come well the third time, details never, reasonings at once; a tuple gives a
    reply that was cut off."""

    def reply(body: dict[str, Any], number: int) -> Any:
        last = body["messages"][-1]["content"]
        if kind_of(body) == "detail":
            return json.dumps({"answer": f"In the bounding box there is much. {LONG}"})
        if kind_of(body) == "reasoning" or "used: no answer" in last:
            return good(body)
        if "could not be used: cut off" in last:
            return json.dumps({"turns": [TURN, {"question": "Is it big?"}]})
        return 200, completion(good(body), finish="length")

    server = endpoint(reply)
    report = ask(genome, tmp_path, server.url, bounds=Bounds(images=2))
    leak, cut = (
        "speaks of captions, boxes or coordinates",
        "cut off at the largest number of tokens",
    )
    assert report["rows"] == {"conversation": 2, "reasoning": 2}
    assert report["rejected"] == {"detail": {leak: 2}}
    assert report["rejected_replies"] == {cut: 2, "no answer": 2, leak: 6}
    assert (report["requests"], report["retries"]) == (14, 8)
    assert (report["prompt_tokens"], report["answer_tokens"]) == (1400, 420), (
        "replies of no use are paid for too"
    )
    rejects = lines(tmp_path / "rejects.jsonl")
    assert [(own["id"], own["reason"], own["rejections"]) for own in rejects] == [
        (f"{image}_detail", leak, [leak] * 3) for image in (1, 2)
    ]
    assert "bounding box" in rejects[0]["reply"]
    rows = {row["id"]: row for row in lines(tmp_path / "instructions.jsonl")}
    assert (
        rows["1_conversation"]["rejections"] == [cut, "no answer"]
        and rows["1_conversation"]["requests"] == 3
    )
    seeds = [body["seed"] for body in server.bodies if kind_of(body) == "conversation"]
    assert len(set(seeds)) == 6, "another try has another seed"
    once = ask(genome, tmp_path / "once", server.url, Settings("m", retries=0), Bounds(images=2))
    assert (once["requests"], once["retries"], sum(once["rows"].values())) == (6, 0, 2)


def test_one_request_that_is_not_taken_is_a_reject(
    genome: Path, tmp_path: Path, endpoint: Any
) -> None:
    server = endpoint(lambda body, number: (400, b"filtered") if number == 2 else good(body))
    report = ask(genome, tmp_path, server.url, bounds=Bounds(images=1))
    assert report["rejected"] == {"detail": {"request refused": 1}} and report["retries"] == 0
    assert lines(tmp_path / "rejects.jsonl")[0]["reply"] == "status 400: filtered"


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_stopped_run_goes_on_to_the_same_rows(
    genome: Path, tmp_path: Path, endpoint: Any, parallel: int
) -> None:
    """Details are worth nothing, so that rejects are stopped and gone on with too."""

    def reply(body: dict[str, Any], number: int) -> Any:
        return "no JSON" if kind_of(body) == "detail" else good(body)

    def dying(body: dict[str, Any], number: int) -> Any:
        return reply(body, number) if number <= 15 else (500, b"gone")

    bounds, settings = Bounds(parallel=parallel, max_rejected=1), Settings("m", retries=1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ask(genome, whole, endpoint(reply).url, settings, bounds)
    with pytest.raises(VLMIGError, match="the same command goes on"):
        ask(genome, broken, endpoint(dying).url, settings, bounds)
    names = ("instructions.jsonl", "rejects.jsonl")
    assert all(0 < len(lines(broken / name)) < len(lines(whole / name)) for name in names)
    before = sum(len(lines(broken / name)) for name in names)
    for name in names:  # a kill in the middle of a line: that one is asked for again
        (broken / name).write_bytes((broken / name).read_bytes()[:-20])
    server = endpoint(reply)  # at another address
    report = ask(genome, broken, server.url, settings, bounds)
    for name in names:
        rows = [(folder / name).read_bytes().splitlines() for folder in (whole, broken)]
        assert sorted(rows[0]) == sorted(rows[1])
    told = {folder: json.loads((folder / "report.json").read_text()) for folder in (whole, broken)}
    for name in (
        "rows",
        "rejected",
        "rejected_replies",
        "requests",
        "retries",
        "prompt_tokens",
        "answer_tokens",
        "finished",
    ):
        assert told[whole][name] == told[broken][name]
    assert report["rows"] == {"conversation": 8, "reasoning": 8}
    # Eight details take two requests each; what was kept before is not asked again.
    left = 24 - (before - 2)
    assert left <= len(server.bodies) <= 2 * left and len(server.bodies) < 32


def test_one_at_a_time_the_order_is_that_of_the_files(
    genome: Path, tmp_path: Path, endpoint: Any
) -> None:
    def dying(body: dict[str, Any], number: int) -> Any:
        return good(body) if number <= 10 else (500, b"gone")

    ask(genome, tmp_path / "whole", endpoint().url)
    with pytest.raises(VLMIGError):
        ask(genome, tmp_path / "broken", endpoint(dying).url)
    path = tmp_path / "broken/instructions.jsonl"
    path.write_bytes(path.read_bytes()[:-1])  # only the end of the line is missing
    ask(genome, tmp_path / "broken", endpoint().url, bounds=Bounds(images=5))
    assert len(lines(path)) == 15, "a smaller limit is no other setting"
    ask(genome, tmp_path / "broken", endpoint().url)
    assert path.read_bytes() == (tmp_path / "whole/instructions.jsonl").read_bytes()


def test_other_settings_and_damage_are_refused(genome: Path, tmp_path: Path, endpoint: Any) -> None:
    server, few = endpoint(), Bounds(images=1)
    ask(genome, tmp_path, server.url, bounds=few)
    count = len(server.bodies)
    others = {
        "seed 0, not 1": Settings("m", seed=1),
        "teacher 'm', not 'n'": Settings("n"),
        "temperature 0.7, not 0": Settings("m", sampling=Sampling(temperature=0)),
        "max_tokens 800, not 9": Settings("m", sampling=Sampling(9)),
        "regions 16, not 4": Settings("m", regions=4),
        "retries 2, not 0": Settings("m", retries=0),
        "kinds": Settings("m", kinds=("detail",)),
    }
    for message, settings in others.items():
        with pytest.raises(VLMIGError) as error:
            ask(genome, tmp_path, server.url, settings)
        assert message in str(error.value) and "name another --out" in str(error.value)
    path = tmp_path / "instructions.jsonl"
    held, rows = path.open("ab"), path.read_bytes()
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(VLMIGError, match="being written by another command"):
        ask(genome, tmp_path, server.url)
    held.close()
    path.write_bytes(b"damaged\n" + rows)
    with pytest.raises(VLMIGError, match=r"instructions.jsonl, line 1 is damaged"):
        ask(genome, tmp_path, server.url)
    path.write_bytes(rows)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(VLMIGError, match="has instructions.jsonl but no settings.json"):
        ask(genome, tmp_path, server.url)
    assert len(server.bodies) == count and path.read_bytes() == rows
    with pytest.raises(VLMIGError, match="no region_descriptions.json"):
        ask(tmp_path, tmp_path / "out", server.url)
    assert not (tmp_path / "out").exists()
    (tmp_path / "region_descriptions.json").write_text(
        json.dumps([{"id": 1, "regions": [region(1, (0, 0, 9, 9))]}])
    )
    with pytest.raises(
        VLMIGError, match=r"no image of .* has a file and a phrase \({'no such image': 1}\)"
    ):
        ask(tmp_path, tmp_path / "out", server.url)


def test_cost_and_rejects_stop_a_run(genome: Path, tmp_path: Path, endpoint: Any) -> None:
    server = endpoint()
    # A request costs 100 tokens at 100 and 30 at 200 per million: 0.016. Six of them reach 0.09,
    # five do not.
    with pytest.raises(VLMIGError, match=r"6 rows cost 0.0960 of --max-cost 0.09;"):
        ask(genome, tmp_path, server.url, bounds=Bounds(price_in=100, price_out=200, max_cost=0.09))
    assert len(server.bodies) == 6
    more = ask(
        genome,
        tmp_path,
        server.url,
        bounds=Bounds(images=3, price_in=100, price_out=200, max_cost=1),
    )
    assert len(server.bodies) == 9 and more["cost"] == pytest.approx(9 * 0.016, rel=1e-12)
    silent = endpoint(lambda body, number: (200, completion(good(body), usage=False)))
    with pytest.raises(VLMIGError, match="does not say how many tokens"):
        ask(
            genome,
            tmp_path / "silent",
            silent.url,
            bounds=Bounds(price_in=1, price_out=1, max_cost=1),
        )
    report = ask(genome, tmp_path / "silent", silent.url, bounds=Bounds(images=1))
    assert (report["replies_without_usage"], report["prompt_tokens"], report["cost"]) == (
        3,
        0,
        None,
    )
    useless = endpoint(lambda body, number: "{}")
    with pytest.raises(VLMIGError, match=r"20 of 20 rejected, mostly no answer"):
        ask(
            genome,
            tmp_path / "useless",
            useless.url,
            Settings("m", kinds=("detail", "reasoning", "conversation"), retries=0),
        )
    assert len(useless.bodies) == 20
    for wrong in (
        {"price_in": 1.0},
        {"max_cost": 1.0},
        {"parallel": 0},
        {"images": 0},
        {"max_rejected": 2.0},
    ):
        with pytest.raises(VLMIGError):
            Bounds(**wrong)
