"""Images of a server, in any state of it: real HTTP against a server on this machine."""

from __future__ import annotations

import base64
import io
import itertools
import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_endpoint import Endpoint
from PIL import Image
from proof import PROOF

from vlmig import VLMIG, VLMIGError
from vlmig.cli.main import main
from vlmig.imagination import request
from vlmig.imagination.sources.build import build_source
from vlmig.imagination.sources.served import KEY, TRIES, ServedSource
from vlmig.imagination.store import FeatureStore
from vlmig.models.config import VLMIGConfig

SIDE = 32


def drawn(body: dict[str, Any]) -> np.ndarray:
    """The image of a request: noise by prompt and seed."""
    width, height = map(int, body["size"].split("x"))
    number = abs(hash((body["prompt"], body["seed"])))
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def reply(image: bytes) -> tuple[int, dict[str, Any]]:
    return 200, {"created": 1, "data": [{"b64_json": base64.b64encode(image).decode()}]}


def good(body: dict[str, Any], number: int = 0) -> tuple[int, dict[str, Any]]:
    return reply(encoded(drawn(body)))


def bomb() -> bytes:
    """The head of a PNG of 60,000 by 60,000 pixels, in 60 bytes."""
    head = bytearray(encoded(np.zeros((1, 1, 3), np.uint8)))
    head[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(head)


def accidents(body: dict[str, Any]) -> list[Any]:
    """Every way in which a reply may be useless, and none of it."""
    image = encoded(drawn(body))
    whole = len(str(good(body)))
    return [
        (500, b"boom"),
        (503, b"<html>"),
        (429, b"slow down", {"retry-after": "0"}),
        None,  # hangs up
        (200, b'{"data": [{"b64_json": "iVBOR'),  # JSON cut off
        (200, good(body)[1], {"content-length": str(whole + 999)}),  # a body cut off
        reply(image[: len(image) // 2]),  # an image cut off
        reply(image[:-40] + bytes(40)),  # a damaged end
        reply(encoded(drawn(body | {"size": "48x32"}))),
        reply(encoded(drawn(body), "BMP")),
        reply(bomb()),
        (200, b"x" * 10**6),  # far more than an image of this size needs
        (200, {"data": [{"url": "http://elsewhere/image.png"}]}),
        (200, b"[" * 5000),
        (200, {"data": []}),
    ]


def source(server: Endpoint, model: str = "m", **settings: Any) -> ServedSource:
    settings = {"parallel": 4, "pause": 0.001, **settings}
    return ServedSource(f"{server.url}#{model}", SIDE, **settings)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_images_are_those_of_the_server(endpoint: Any, kind: str) -> None:
    server = endpoint(lambda body, _: reply(encoded(drawn(body), kind)))
    served = source(server, settings={"num_inference_steps": 4})
    wanted = [request("a cat", i) for i in range(5)]
    images = served.imagine(wanted)
    by_seed = {body["seed"]: body for body in server.bodies}
    assert len(by_seed) == 5 and {body["path"] for body in server.bodies} == {
        "/v1/images/generations"
    }
    for one, image in zip(wanted, images, strict=True):
        body = by_seed[one.seed % 2**31]
        assert body["num_inference_steps"] == 4 and "guidance_scale" not in body
        plain = np.asarray(Image.open(io.BytesIO(encoded(drawn(body), kind))).convert("RGB"))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), plain)


def test_after_every_accident_the_image_is_there(endpoint: Any) -> None:
    for number, _ in enumerate(accidents({"size": f"{SIDE}x{SIDE}", "prompt": "", "seed": 0})):
        server = endpoint(lambda body, i, n=number: accidents(body)[n] if i == 1 else good(body))
        (image,) = source(server).imagine([request("a cat", 0)])
        assert np.array_equal(image.permute(1, 2, 0).numpy(), drawn(server.bodies[-1])), number
        assert len(server.bodies) == 2, number


def test_a_late_reply_is_requested_again(endpoint: Any) -> None:
    """Silence, and a body that comes drop by drop, as long as ever the server likes."""
    over = threading.Event()

    def late(body: dict[str, Any], number: int) -> Any:
        if number == 1:
            over.wait(10)
        return good(body)

    server = endpoint(late)
    (image,) = source(server, timeout=0.3).imagine([request("a cat", 0)])
    over.set()
    assert image.shape == (3, SIDE, SIDE) and len(server.bodies) == 2

    class Drops:
        headers: dict[str, str] = {}

        def read1(self, _: int) -> bytes:
            time.sleep(0.01)
            return b" "

    with pytest.raises(Exception, match="not there after 0.3 seconds"):
        source(server, timeout=0.3)._read(Drops(), time.monotonic() + 0.3)  # type: ignore[arg-type]


def test_no_more_requests_at_once_than_allowed(endpoint: Any) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def counted(body: dict[str, Any], number: int) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return good(body)

    server = endpoint(counted)
    source(server, parallel=3).imagine([request("a cat", i) for i in range(9)])
    assert most == 3


@pytest.mark.parametrize(
    ("answer", "message", "requests"),
    [
        ((500, b"boom"), rf"no image from .* in {TRIES} tries \(status 500: boom\)", TRIES),
        ((401, b"who is sesame?"), r"does not take the key \(status 401: who is \*\*\*", 1),
        ((404, b"no such\nmodel"), r"refuses the request \(status 404: no such model\)", 1),
        ((302, b"", {"location": "file:///etc/passwd"}), "redirects to another address", 1),
        ((307, b"", {"location": "http://127.0.0.1:9/"}), "redirects to another address", 1),
    ],
)
def test_a_server_out_of_order_ends_in_one_line(
    endpoint: Any, monkeypatch: pytest.MonkeyPatch, answer: Any, message: str, requests: int
) -> None:
    monkeypatch.setenv(KEY, "sesame")
    server = endpoint(lambda body, _: answer)
    with pytest.raises(VLMIGError, match=message) as error:
        source(server, parallel=1).imagine([request("a cat", 0)])
    assert "\n" not in str(error.value) and "sesame" not in str(error.value)
    assert len(server.bodies) == requests
    server.close()
    with pytest.raises(VLMIGError, match="no image from"):
        source(server).imagine([request("a cat", 0)])


def test_fields_that_a_server_refuses_are_left_out(
    endpoint: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def strict(body: dict[str, Any], number: int) -> Any:
        for name in ("seed", "response_format"):
            if name in body:
                return 400, {"error": f"Unknown parameter: '{name}'."}
        return reply(encoded(np.full((SIDE, SIDE, 3), number, np.uint8)))

    server = endpoint(strict)
    with caplog.at_level(logging.WARNING):
        images = source(server, parallel=1).imagine([request("a cat", i) for i in range(3)])
    assert len(images) == 3 and len(server.bodies) == 5
    assert "takes no seed: left out. Its images cannot be drawn again" in caplog.text
    both = threading.Barrier(2)

    def at_once(body: dict[str, Any], number: int) -> Any:
        if number <= 2:
            both.wait(10)
        return strict(body, number)

    # The second request was on its way before a field was left out: it is sent again too.
    two = [request("a cat", i) for i in range(2)]
    assert len(source(endpoint(at_once), parallel=2).imagine(two)) == 2
    server = endpoint(lambda body, _: (400, b"prompt refused"))
    with pytest.raises(VLMIGError, match="prompt refused"):
        source(server).imagine([request("a cat", 0)])


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("http://localhost:8000/v1", "is no address with a model"),
        ("localhost:8000/v1#m", "is no address with a model"),
        ("file:///etc/passwd#m", "is no address with a model"),
        ("http://localhost:x/v1#m", "is no address with a model"),
        ("http://me:secret@host/v1#m", "has a password or a query"),
        ("http://host/v1?key=secret#m", "has a password or a query"),
    ],
)
def test_addresses(place: str, message: str) -> None:
    with pytest.raises(VLMIGError, match=message) as error:
        ServedSource(place, SIDE)
    assert "secret" not in str(error.value)


def test_settings_come_from_the_family_or_the_user(tmp_path: Path) -> None:
    def built(model: str, **fields: Any) -> ServedSource:
        config = VLMIGConfig(imaginer=f"http:http://host:8000/v1/#{model}", **fields)
        made = build_source(
            config, tmp_path, lambda: pytest.fail(""), tmp_path, torch.device("cpu")
        )
        assert isinstance(made, ServedSource)
        return made

    klein = built("black-forest-labs/FLUX.2-klein-4B", imaginer_size=256, imaginer_batch=32)
    assert klein.parallel == 32 and klein.identity() == {
        "generator": "served black-forest-labs/FLUX.2-klein-4B@main",
        "size": 256,
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
    }
    assert built("some-model", imaginer_revision="2").identity() == {
        "generator": "served some-model@2",
        "size": 512,
    }
    assert built("some-model", imaginer_steps=9).settings == {"num_inference_steps": 9}
    with pytest.raises(VLMIGError, match="names no place; expected http:PLACE"):
        config = VLMIGConfig(imaginer="http:")
        build_source(config, tmp_path, lambda: pytest.fail(""), tmp_path, torch.device("cpu"))


def test_the_store_has_the_model_and_neither_address_nor_key(
    parts: Path,
    checkpoint: Path,
    tmp_path: Path,
    endpoint: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The command line, twice; the second time at another address, where nothing is requested."""
    monkeypatch.setenv(KEY, "sesame")
    (tmp_path / "prompts.txt").write_text("a cat\nthe sea\n")
    servers = [endpoint(good), endpoint(good)]
    for server in servers:
        command = ["imagine", "--model", str(checkpoint), "--store", str(tmp_path / "served")]
        command += ["--prompts", str(tmp_path / "prompts.txt"), "--k", "3"]
        command += ["--imaginer", f"http:{server.url}#m", "--imaginer-size", str(SIDE)]
        assert main([*command, "--imaginer-batch", "2"]) == 0
    assert [len(server.bodies) for server in servers] == [6, 0]
    assert servers[0].headers[0]["authorization"] == "Bearer sesame"
    told = capsys.readouterr()
    raw = b"".join(path.read_bytes() for path in (tmp_path / "served").iterdir())
    for text in (told.out, told.err, caplog.text, raw.decode(errors="replace")):
        assert "sesame" not in text and "127.0.0.1" not in text
    assert len(FeatureStore(tmp_path / "served")) == 6
    monkeypatch.delenv(KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    source(servers[1]).imagine([request("a cat", 0)])
    assert "authorization" not in servers[1].headers[0], "keys for other servers stay here"


@pytest.mark.scaled
def test_all_images_are_there_after_all_accidents(
    parts: Path, tmp_path: Path, endpoint: Any
) -> None:
    """Every other reply is an accident; the features are those of a sound server."""
    turn = itertools.count()

    def broken(body: dict[str, Any], number: int) -> Any:
        now = next(turn)
        if now % 2 == 0:
            return good(body)
        every = accidents(body)
        if now % 101 == 0:
            time.sleep(0.4)  # later than the source waits for
        return every[now // 2 % len(every)]

    prompts = [f"thing {i}" for i in range(500 if PROOF else 12)]
    stores = {}
    for name, answer in (("sound", good), ("broken", broken)):
        server = endpoint(answer)
        names = {"vision": str(parts / "vision_encoder"), "store": tmp_path / name}
        model = VLMIG.from_base(
            str(parts / "language_model"), **names, generator=f"http:{server.url}#m", fusion_heads=4
        )
        model.imagination.source = source(server, timeout=0.3, parallel=8)
        failures = 0
        while True:  # an image may meet ``TRIES`` accidents in a row; the same command goes on
            try:
                model.imagination.fill(prompts, 1)
                break
            except VLMIGError:
                failures += 1
                assert failures < 50
        rows = model.imagination.store.base.execute("SELECT key, digest FROM entries").fetchall()
        stores[name] = dict(rows)
        requests = len(server.bodies)
    assert len(stores["broken"]) == len(prompts) and stores["broken"] == stores["sound"]
    assert requests > 1.9 * len(prompts), "every other request failed"
