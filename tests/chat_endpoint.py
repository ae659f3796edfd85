"""A chat endpoint on this machine, and a small Visual Genome to be asked about.

A good reply of the endpoint is a function of the request, as a seeded model's is, so that runs can
be compared to the byte.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from data_files import noise, region

from vlmig.data.instruct.generate import Settings, generate
from vlmig.data.instruct.ledger import Bounds
from vlmig.data.instruct.teachers import EndpointTeacher

LONG = " ".join(["something quite plain stands there and nobody wonders about it"] * 4)
TURN = {"question": "What is there?", "answer": "A red ball."}


class Endpoint:
    """Chat completions from ``reply(body, number)``: text of a reply, or status, body and, if need
    be, headers; or None to hang up."""

    def __init__(self, reply: Callable[[dict[str, Any], int], Any]) -> None:
        self.reply, self.bodies, self.headers = (
            reply,
            list[dict[str, Any]](),
            list[dict[str, str]](),
        )
        lock, endpoint = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    endpoint.bodies.append(body | {"path": self.path})
                    endpoint.headers.append(
                        {name.lower(): value for name, value in self.headers.items()}
                    )
                    number = len(endpoint.bodies)
                found = endpoint.reply(body, number)
                if found is None:
                    return
                found = found if isinstance(found, tuple) else (200, completion(found))
                status, value, headers = (*found, {})[:3]
                content = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                for name, text in ({"content-length": str(len(content))} | headers).items():
                    self.send_header(name, text)
                if status == 429:
                    self.send_header("retry-after", "7")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *arguments: None  # type: ignore[method-assign]  # a client that did not wait
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def completion(text: str, finish: str = "stop", usage: bool = True) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
    }
    tokens = (
        {"usage": {"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130}}
        if usage
        else {}
    )
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        **tokens,
    }


def kind_of(body: dict[str, Any]) -> str:
    rules = body["messages"][0]["content"]
    return (
        "conversation" if '"turns"' in rules else "reasoning" if '"question"' in rules else "detail"
    )


def good(body: dict[str, Any], number: int = 0) -> str:
    """Reply well, as a function of what was asked and the seed."""
    told = hashlib.sha256(f"{body['messages'][-1]['content']} {body['seed']}".encode()).hexdigest()[
        :8
    ]
    if kind_of(body) == "conversation":
        return json.dumps(
            {
                "turns": [
                    {"question": f"What is {i}{told}?", "answer": f"It is {told}."}
                    for i in range(3)
                ]
            }
        )
    value = {"answer": f"{told} {LONG}"}
    return json.dumps(
        value if kind_of(body) == "detail" else {"question": f"Why is there {told} here?", **value}
    )


@contextmanager
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Endpoint]]:
    """Give a function that starts an endpoint, and stop them all at the end."""
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", False
    )  # the hub's client obeys it for any address
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    started: list[Endpoint] = []

    def start(reply: Callable[[dict[str, Any], int], Any] = good) -> Endpoint:
        started.append(Endpoint(reply))
        return started[-1]

    yield start
    for server in started:
        server.close()


def write_genome(folder: Path) -> Path:
    """Write eight images of three regions each, and objects of some of them in another order."""
    (folder / "VG_100K").mkdir()
    images, objects = [], []
    for number in range(1, 9):
        noise(number).save(folder / f"VG_100K/{number}.jpg")
        phrases = (f"a red ball number {number}", "green  grass\nbelow", "the sky is grey")
        boxes = ((4, 3, 20, 15), (0, 15, 40, 15), (0, 0, 40, 12))
        images.append(
            {
                "id": number,
                "regions": [region(i, boxes[i], phrases[i], image_id=number) for i in range(3)],
            }
        )
        objects.append(
            {
                "image_id": number,
                "objects": [
                    {"names": ["ball", "toy"], "x": 10, "y": 3, "w": 10, "h": 30, "object_id": 1}
                ],
            }
        )
    (folder / "region_descriptions.json").write_text(json.dumps(images))
    (folder / "objects.json").write_text(
        json.dumps([None, *objects[:1:-1], {"image_id": 2, "objects": [{"names": []}]}])
    )
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ask(
    genome: Path,
    out: Path,
    url: str,
    settings: Settings | None = None,
    bounds: Bounds | None = None,
) -> dict[str, Any]:
    teacher = EndpointTeacher(url, "m", timeout=20, sleep=lambda seconds: None)
    return generate(genome, out, teacher, settings or Settings("m"), bounds or Bounds())
