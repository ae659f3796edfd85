"""The page's server: the standard library's, for one user on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from vlmig.app.desk import Desk
from vlmig.errors import VLMIGError, one_line
from vlmig.evaluation.run_folder import Row
from vlmig.report.page import page_text, scripts, style

LIMIT = 32_000_000
"""Most bytes of a request, with its images."""
NAMES = {"localhost", "127.0.0.1", "::1"}
"""This machine, as a browser names it."""
SCRIPTS = ("dom.js", "detail.js", "app.js")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server(ThreadingHTTPServer):
    """Serves the page until the process ends.

    Raises:
        VLMIGError: the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, desk: Desk, names: list[str], host: str, port: int) -> None:
        self.desk, self.local = desk, is_loopback(host)
        values = {"style": style("page.css") + style("app.css"), "script": scripts(SCRIPTS)}
        self.page = page_text("app.html", title="vlmig", names=names, **values)
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise VLMIGError(
                f"cannot listen on {host}, port {port} ({one_line(error)}); give another with "
                "--port, 0 for any free one, or another --host"
            ) from None

    @property
    def url(self) -> str:
        """The address of the page."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"

    def handle_error(self, *_: Any) -> None:
        """Say nothing when a browser closes a connection."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    timeout = 60

    def do_GET(self) -> None:
        """Send the page, or each model as it is ready."""
        if not self._trusted():
            return
        if self.path == "/":
            self._send(200, "text/html; charset=utf-8", self.server.page.encode())
        elif self.path == "/models":
            self._stream(self.server.desk.describe())
        else:
            self._refuse(404, f"no page {self.path[:80]}; expected /")

    def do_POST(self) -> None:
        """Ask, mix again, or export; the request and the reply are JSON."""
        if not self._trusted():
            return
        desk = self.server.desk
        replies: dict[str, Callable[[Any], Row]] = {
            "/mix": desk.mix,
            "/why": desk.why,
            "/page": lambda fields: {"text": desk.page(fields)},
            "/code": lambda fields: {"text": desk.code(fields)},
        }
        try:
            fields = self._read()
            if self.path == "/ask":
                self._stream(desk.ask(fields))
            elif self.path in replies:
                self._send_json(200, replies[self.path](fields))
            else:
                self._refuse(404, f"nothing to ask at {self.path[:80]}")
        except VLMIGError as error:
            self._refuse(400, one_line(error, whole=True))

    def _trusted(self) -> bool:
        """Refuse what another site sends by a user's browser: by a name of its own that leads
        here, or from a page of its own."""
        host = urlsplit(f"//{self.headers.get('Host', '')}")
        origin = self.headers.get("Origin")
        if self.server.local and host.hostname not in NAMES:
            self._refuse(403, "this page answers to localhost and 127.0.0.1 only")
        elif origin is not None and urlsplit(origin).netloc != host.netloc:
            self._refuse(403, "this request comes from another site's page")
        else:
            return True
        return False

    def _read(self) -> Any:
        """Read the request's fields.

        Raises:
            VLMIGError: it is too large, or not JSON.
        """
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json" or not length.isdecimal():
            raise VLMIGError("expected a request of JSON")
        if int(length) > LIMIT:
            raise VLMIGError(
                f"{int(length) / 1e6:.0f} MB; expected at most {LIMIT / 1e6:.0f} MB in all: give "
                "fewer or smaller images"
            )
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise VLMIGError("expected a request of JSON") from None

    def _stream(self, rows: Iterable[Row]) -> None:
        """Send events as they come, a line of JSON each."""
        self._head(200, "application/x-ndjson")
        for row in rows:
            self.wfile.write(json.dumps(row).encode() + b"\n")
            self.wfile.flush()

    def _send_json(self, status: int, row: Row) -> None:
        self._send(status, "application/json", json.dumps(row).encode())

    def _refuse(self, status: int, text: str) -> None:
        self.close_connection = True
        self._send_json(status, {"error": text})

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self._head(status, kind, len(content))
        self.wfile.write(content)

    def _head(self, status: int, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Write no log: questions are nobody else's."""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
