"""The page of ``vlmig app``: what it answers is what ``ask`` answers, whom it answers, and its use
in a browser."""

from __future__ import annotations

import base64
import http.client
import io
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import test_report
from PIL import Image

from vlmig import VLMIG, VLMIGError
from vlmig.app.desk import KEPT, Desk
from vlmig.app.server import LIMIT, Server
from vlmig.app.worker import Worker
from vlmig.predict.scorer import Scorer

browser = test_report.browser
QUESTION = {"question": "What is the color of a cat?", "choices": ["red", "blue"], "k": 3}


def desk_of(*models: VLMIG) -> Desk:
    def load(model: VLMIG) -> VLMIG:  # in the worker's thread, which alone may use its store
        store = model.imagination.store.path.parent
        return VLMIG(model.model, model.tokenizer, model.folder, store)

    worker = Worker({f"model {i}": partial(load, model) for i, model in enumerate(models)})
    worker.start()
    return Desk(worker)


def shares(row: dict[str, Any]) -> list[int]:
    return row["data"]["items"][0]["runs"][0]["wordings"][0]["mixed"]


def thousandths(answer: Any) -> list[int]:
    return [round(1000 * p) for p in answer.probabilities.values()]


def test_answers_come_image_by_image_and_are_those_of_ask(tiny: VLMIG) -> None:
    desk = desk_of(tiny)
    rows = list(desk.ask(QUESTION))
    assert [row["data"]["k"] for row in rows if "data" in row] == [0, 1, 2, 3]
    for k, row in enumerate(rows[-4:]):
        expected = tiny.ask(QUESTION["question"], QUESTION["choices"], k)
        assert shares(row) == pytest.approx(thousandths(expected), abs=1)
    key = rows[-1]["key"]
    mixes, kinds = rows[-1]["mixes"], rows[-1]["kinds"]
    assert {"prob", "evidence"} <= set(mixes) and {"uniform", "clip", "entropy"} <= set(kinds)
    for mix, weights in zip(mixes, [*kinds, "uniform"], strict=False):
        how = {"mix": mix, "weights": weights}
        expected = tiny.ask(QUESTION["question"], QUESTION["choices"], 3, **how)
        assert shares(desk.mix({"key": key, **how})) == pytest.approx(thousandths(expected), abs=1)
    fewer = desk.mix({"key": key, "places": [0, 1]})
    assert shares(fewer) == shares(rows[-2]), "leaving the last image out is not having drawn it"
    expected = tiny.ask(QUESTION["question"], QUESTION["choices"], 3, why=True)
    why = desk.why({"key": key})["data"]["items"][0]["runs"][0]["why"]
    assert expected.attribution is not None and len(why["layers"]) == 3
    assert why["images"] == pytest.approx(expected.attribution.images, abs=1e-4)
    names: dict[str, Any] = {}
    code = desk.code({"key": key, "mix": "logit", "strength": 2.0})
    assert "VLMIG.from_pretrained('model 0', strength=2.0)" in code
    body = code.replace("from vlmig import VLMIG", "").partition("answer = ")[2]
    exec(f"answer = {body}", {"model": tiny, "print": lambda *_: None}, names)
    assert shares(desk.mix({"key": key, "mix": "logit"})) == pytest.approx(
        thousandths(names["answer"]), abs=1
    )
    assert desk.page({"key": key}).startswith("<!doctype html>")


def test_own_images_and_no_choices(tiny: VLMIG) -> None:
    desk, stream = desk_of(tiny), io.BytesIO()
    picture = Image.new("RGB", (40, 30), "red")
    picture.save(stream, "PNG")
    code = base64.b64encode(stream.getvalue()).decode()
    (row,) = [r for r in desk.ask({**QUESTION, "images": [code]}) if "data" in r]
    expected = tiny.ask(QUESTION["question"], QUESTION["choices"], images=[picture])
    assert shares(row) == pytest.approx(thousandths(expected), abs=1)
    assert "images=['image1.png']" in desk.code({"key": row["key"]})
    (row,) = [r for r in desk.ask({"question": "A cat is", "k": 1}) if "data" in r]
    expected = tiny.ask("A cat is", k=1)
    assert row["data"]["items"][0]["names"] == list(expected.probabilities)


def test_what_is_wrong_is_one_line(tiny: VLMIG, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = desk_of(tiny)
    for fields, message in (
        ({**QUESTION, "question": " "}, "the question is empty"),
        ({**QUESTION, "choices": ["red"]}, "expected at least two"),
        ({**QUESTION, "k": 99}, "99 images; expected 0 to 12"),
        ({**QUESTION, "k": "many"}, "expected a number of images, auto"),
        ({**QUESTION, "images": ["AAAA"]}, "image 1 cannot be read"),
        ({**QUESTION, "images": ["é"]}, "image 1 cannot be read"),
        ({**QUESTION, "script": 1}, "script: extra inputs are not permitted"),
        ([], "correct it on the page"),
    ):
        last = list(desk.ask(fields))[-1]
        assert message in last["error"] and "\n" not in last["error"], last
    monkeypatch.setattr(Scorer, "batches", None)
    assert "TypeError" in list(desk.ask(QUESTION))[-1]["error"]
    with pytest.raises(VLMIGError, match="not kept any more; ask again"):
        desk.mix({"key": "x"})
    with pytest.raises(VLMIGError, match="ask again"):
        desk.why({"key": "x"})
    assert KEPT >= 2, "two models may stand beside each other"


@pytest.fixture()
def server(tiny: VLMIG) -> Iterator[Server]:
    with Server(desk_of(tiny, tiny), ["model 0", "model 1"], "127.0.0.1", 0) as started:
        Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


def reply(
    server: Server, method: str, path: str, body: str | None = None, **headers: str
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    return answer.status, answer.read().decode()


def test_only_this_page_is_answered(server: Server) -> None:
    kind, body = {"Content_Type": "application/json"}, json.dumps(QUESTION)
    assert reply(server, "GET", "/")[0] == 200
    assert reply(server, "GET", "/", Host="evil.example")[0] == 403
    assert reply(server, "POST", "/ask", body, Origin="http://evil.example", **kind)[0] == 403
    assert reply(server, "POST", "/ask", body, Content_Type="text/plain")[0] == 400
    assert reply(server, "POST", "/ask", "{", **kind)[0] == 400
    assert "32 MB" in reply(server, "POST", "/ask", Content_Length=str(LIMIT + 1), **kind)[1]
    assert reply(server, "GET", "/../etc/passwd")[0] == 404
    assert "ask again" in reply(server, "POST", "/mix", '{"key": "x"}', **kind)[1]
    status, text = reply(server, "POST", "/ask", body, Origin=server.url.rstrip("/"), **kind)
    rows = [json.loads(line) for line in text.splitlines()]
    assert status == 200 and {row.get("model") for row in rows[-4:]} == {"model 1"}
    ready = list(map(json.loads, reply(server, "GET", "/models")[1].splitlines()))
    assert [row["ready"] for row in ready if "ready" in row] == ["model 0", "model 1"]
    with pytest.raises(VLMIGError, match="cannot listen on 127.0.0.1, port .*--port"):
        Server(server.desk, [], "127.0.0.1", server.server_port)


@pytest.mark.proof
def test_a_visitor_asks_drops_an_image_and_mixes(
    tmp_path: Path, browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pocket = VLMIG.from_pretrained("pocket", store=tmp_path_factory.mktemp("store"))
    picture = tmp_path / "tomato.png"
    pocket.imagine(["a tomato"], 1)[0].images[0].save(picture)
    with Server(desk_of(pocket), ["model 0"], "127.0.0.1", 0) as started:
        Thread(target=started.serve_forever, daemon=True).start()
        use_the_page(browser, started.url, picture)
        started.shutdown()


def use_the_page(browser: Any, url: str, picture: Path) -> None:
    def text(selector: str) -> str:
        return browser.find_element("css selector", selector).text

    def until(condition: Any) -> None:
        for _ in range(600):
            if condition():
                return
            time.sleep(0.1)
        raise AssertionError(text("#status") + text("#error"))

    def numbers(kind: str) -> list[str]:
        code = "return [...document.querySelectorAll(arguments[0])].map((n) => n.textContent)"
        return browser.execute_script(code, f".matrix .{kind} .number")

    browser.get(url)
    browser.find_element("id", "ask").click()
    until(lambda: text("#status").startswith("answered"))
    assert text(".answered b") == "red"
    assert len(browser.find_elements("css selector", ".matrix .picture")) == 6
    before = numbers("mixed")
    # A slider acts at once; by the rule evidence with no strength the images say nothing.
    slide = (
        "for (const [name, value] of [['mix', 'evidence'], ['strength', 0]]) {"
        "const s = document.querySelector(`[name=${name}]`); s.value = value;"
        "s.dispatchEvent(new Event('input', { bubbles: true })) }"
    )
    browser.execute_script(slide)
    until(lambda: numbers("mixed") == numbers("text") != before)
    browser.find_element("name", "why").click()
    until(lambda: len(browser.find_elements("css selector", ".evidence .layer")) == 6)
    # An image is dropped onto the page, and stands in the imagined ones' place.
    drop = (
        "const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));"
        "const files = new DataTransfer();"
        "files.items.add(new File([bytes], 'tomato.png', { type: 'image/png' }));"
        "document.getElementById('drop').dispatchEvent("
        "new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true }))"
    )
    browser.execute_script(drop, base64.b64encode(picture.read_bytes()).decode())
    until(lambda: browser.find_elements("css selector", "#given img"))
    question = browser.find_element("id", "question")
    question.clear()
    question.send_keys("What is the color of this thing?\n")
    until(lambda: text("#status").startswith("answered"))
    assert text(".answered b") == "red"
    assert len(browser.find_elements("css selector", ".matrix .picture")) == 1
    choices = browser.find_element("id", "choices")
    choices.clear()
    choices.send_keys("red\n")
    until(lambda: text("#error"))
    assert "two" in text("#error")
    assert browser.get_log("browser") == []
    asked = browser.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert asked and all(name.startswith(url) for name in asked), "nothing leaves this machine"
