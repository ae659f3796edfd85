"""Images from a server with OpenAI's images endpoint: vLLM-Omni, SGLang-Diffusion, hosted ones.

What comes back is not trusted: its length, type and size are checked before it is decoded.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, build_opener
from urllib.request import Request as HTTPRequest

from PIL import Image
from torch import Tensor

from vlmig.errors import VLMIGError, one_line
from vlmig.imagination import ImageSource, Request
from vlmig.imagination.sources.families import BATCH
from vlmig.vision import as_tensor

logger = logging.getLogger(__name__)
KEY = "VLMIG_IMAGINER_KEY"
"""Variable of the environment with the server's key. It is no general one such as OPENAI_API_KEY:
a checkpoint may name a server, and must not be sent the user's keys for others."""
TRIES, PAUSE, LONGEST = 8, 0.5, 60.0
"""Most attempts of a request, and the first and the longest pause between them in seconds; pauses
double."""
TIMEOUT = 300.0
"""Seconds that an image may take."""
FORMATS = ("PNG", "JPEG", "WEBP")
OPTIONAL = ("response_format", "seed")
"""Fields that some hosted servers refuse; they are then left out."""
CHUNK = 2**16


class Fault(Exception):
    """A reply that cannot be used; another attempt may help."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause
        """Seconds that the server asks to wait."""


class Unexpected(Exception):
    """The server refuses a field of the request."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class _NoRedirects(HTTPRedirectHandler):
    """Follow no redirect: the key and the prompts go to the address that the user named."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


class ServedSource(ImageSource):
    """Request images of a server, one seed each and several at a time.

    Args:
        location: address and model, ``http://localhost:8000/v1#MODEL``.
        size: side of an image in pixels.
        parallel: most concurrent requests.
        settings: further fields of every request, such as ``num_inference_steps``; what is not
            among them is left to the server.
        revision: of the model; it is part of the images' keys, no server reads it.
        timeout: seconds that an image may take.
        pause: seconds before the second attempt.

    Raises:
        VLMIGError: an address without a model, of another scheme, or with a password or a query.
    """

    seeded = True

    def __init__(
        self,
        location: str,
        size: int,
        *,
        parallel: int = BATCH,
        settings: Mapping[str, int | float] | None = None,
        revision: str | None = None,
        timeout: float = TIMEOUT,
        pause: float = PAUSE,
    ) -> None:
        self.address, _, self.model = location.partition("#")
        self.address = self.address.rstrip("/")
        _check_address(self.address, self.model)
        self.size, self.parallel, self.revision = size, parallel, revision
        self.settings = dict(settings or {})
        self.timeout, self.pause = timeout, pause
        self.limit = 65536 + 16 * size**2
        """Most bytes of a reply: a PNG's, in base64, of noise in four channels takes a third."""
        self._key = os.environ.get(KEY, "").strip()
        self._left_out: set[str] = set()
        self._stopped = threading.Event()
        self._opener: OpenerDirector = build_opener(_NoRedirects())

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Return an image for each request.

        Raises:
            VLMIGError: the server is out of reach, refuses the key or the request, or gives no
                image of the size that was requested in ``TRIES`` attempts.
        """
        self._stopped.clear()
        pool = ThreadPoolExecutor(min(self.parallel, len(requests)) or 1)
        try:
            return list(pool.map(self._image, requests))
        finally:
            self._stopped.set()  # of an error or Ctrl-C, nobody waits for the other requests
            pool.shutdown(wait=False, cancel_futures=True)

    def identity(self) -> dict[str, str | int | float]:
        """Return the model and its settings; not the address, which may change."""
        generator = f"served {self.model}@{self.revision or 'main'}"
        return {"generator": generator, "size": self.size, **self.settings}

    def _image(self, request: Request) -> Tensor:
        """Request one image until it comes."""
        fault, attempt = Fault(""), 0
        while attempt < TRIES and not self._stopped.is_set():
            try:
                return self._decoded(self._sent(request))
            except Unexpected as refused:
                self._leave_out(refused)
                continue
            except Fault as error:
                fault = error
            attempt += 1
            if attempt < TRIES:
                longest = min(LONGEST, self.pause * 2 ** (attempt - 1))
                self._stopped.wait(max(longest, min(LONGEST, fault.pause)))
        raise VLMIGError(
            f"no image from {self.address} in {TRIES} tries ({fault}); expected one of "
            f"{self.model}; start the server or correct the imaginer, and the same command goes on"
        )

    def _leave_out(self, refused: Unexpected) -> None:
        if refused.field not in self._left_out:
            self._left_out.add(refused.field)
            without = " Its images cannot be drawn again." if refused.field == "seed" else ""
            logger.warning("%s takes no %s: left out.%s", self.address, refused.field, without)

    def _sent(self, request: Request) -> bytes:
        """Send a request and return the reply's bytes.

        Raises:
            Fault: the server is busy, broken, too late, or its reply is too long or cut off.
            Unexpected: it does not take an optional field.
            VLMIGError: it takes no such request.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        fields = self._fields(request)
        body = json.dumps(fields).encode()
        url = f"{self.address}/images/generations"
        deadline = time.monotonic() + self.timeout
        try:
            sent = HTTPRequest(url, body, headers, method="POST")
            with self._opener.open(sent, timeout=self.timeout) as reply:
                return self._read(reply, deadline)
        except HTTPError as error:
            with error:
                raise self._judge(error, fields) from None
        except (OSError, HTTPException, ValueError) as error:
            raise Fault(self._hidden(one_line(error, whole=True))) from None

    def _fields(self, request: Request) -> dict[str, Any]:
        """Return the request's body: OpenAI's fields, and those that vLLM-Omni and SGLang add."""
        fields = {
            "model": self.model,
            "prompt": request.prompt,
            "n": 1,
            "size": f"{self.size}x{self.size}",
            "response_format": "b64_json",
            "seed": request.seed % 2**31,
            **self.settings,
        }
        return {name: value for name, value in fields.items() if name not in self._left_out}

    def _read(self, reply: HTTPResponse, deadline: float) -> bytes:
        """Read a reply as far as it may go."""
        expected, chunks, length = reply.headers.get("Content-Length", ""), list[bytes](), 0
        while chunk := reply.read1(CHUNK):
            chunks.append(chunk)
            length += len(chunk)
            if length > self.limit:
                raise Fault(f"a reply of more than {self.limit} bytes")
            if time.monotonic() > deadline:
                raise Fault(f"a reply that was not there after {self.timeout:g} seconds")
        if expected.isdecimal() and length < int(expected):
            raise Fault(f"a reply cut off after {length} of {expected} bytes")
        return b"".join(chunks)

    def _judge(self, error: HTTPError, fields: dict[str, Any]) -> Exception:
        """Return what the status of a reply to a request with these fields means."""
        try:
            text = error.read(CHUNK).decode(errors="replace")
        except (OSError, HTTPException):
            text = ""
        reason = self._hidden(f"status {error.code}: {' '.join(text.split())[:200]}")
        if 300 <= error.code < 400:
            return VLMIGError(
                f"{self.address} redirects to another address, which is not followed; expected the "
                "server itself; name it in the imaginer"
            )
        if error.code in (401, 403):
            return VLMIGError(
                f"{self.address} does not take the key ({reason}); expected a valid one in the "
                f"environment variable {KEY}; set it"
            )
        if error.code in (400, 422):
            for field in OPTIONAL:
                if field in text and field in fields:
                    return Unexpected(field, reason)
        if error.code in (408, 409, 425, 429) or error.code >= 500:
            return Fault(reason, _seconds(error.headers.get("Retry-After", "")))
        return VLMIGError(
            f"{self.address} refuses the request ({reason}); expected it to draw "
            f"{self.size} pixels with {self.model}; correct the imaginer or its settings"
        )

    def _decoded(self, body: bytes) -> Tensor:
        """Decode a reply, uint8 (3, H, W).

        Raises:
            Fault: it is none, or its image is damaged or of another type or size.
        """
        try:
            raw = base64.b64decode(json.loads(body)["data"][0]["b64_json"], validate=True)
        except (ValueError, TypeError, LookupError, RecursionError):
            raise Fault("a reply without an image in base64") from None
        size = self.size
        try:
            with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
                if image.size != (size, size):  # known from its head, before it is decoded
                    width, height = image.size
                    raise Fault(
                        f"an image of {width} x {height} pixels where {size} x {size} were "
                        "requested; imaginer_size sets them"
                    )
                return as_tensor(image)
        except Fault:
            raise
        except Exception:  # Pillow's readers raise anything on damaged files
            raise Fault(f"a damaged image, or none of {', '.join(FORMATS)}") from None

    def _hidden(self, text: str) -> str:
        """Take the key out of what a server says."""
        return text.replace(self._key, "***") if self._key else text


def _check_address(address: str, model: str) -> None:
    """Refuse an address that cannot be used, or that would put a secret into stores and logs.

    Raises:
        VLMIGError: it is one.
    """
    try:
        url = urlsplit(address)
        whole = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:  # a port that is no number
        whole = False
    if not whole or not model.strip():
        raise VLMIGError(
            f"imaginer 'http:{_public(address)}{'#' + model if model else ''}' is no address with "
            "a model; expected http:URL#MODEL, such as "
            "http:http://localhost:8000/v1#black-forest-labs/FLUX.2-klein-4B"
        )
    if url.username or url.password or url.query:
        raise VLMIGError(
            f"the address {_public(address)} of the imaginer has a password or a query, which "
            f"would be stored; expected neither; set the environment variable {KEY}"
        )


def _public(address: str) -> str:
    """Return an address without what may be secret."""
    return address.partition("?")[0].rpartition("@")[2]


def _seconds(text: str) -> float:
    """Parse the header Retry-After; 0 where it holds a date."""
    return float(text) if text.isdecimal() else 0.0
