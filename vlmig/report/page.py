"""Self-contained HTML pages: style, script, data and images inline, nothing from any network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from vlmig.errors import VLMIGError
from vlmig.evaluation.run_folder import Row
from vlmig.imagination.store import FeatureStore
from vlmig.io.atomic import write_text
from vlmig.report.items import Numbers
from vlmig.report.tables import finite
from vlmig.report.thumbnails import thumbnails

CHARACTERS = 9_300_000
"""Size of a page with its images; mail and browsers handle 10 MB easily."""
SCRIPTS = ("dom.js", "tables.js", "charts.js", "detail.js", "groups.js", "items.js", "page.js")


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Fill a template of ``assets`` and write the page.

    Text in ``values`` is escaped, except ``Markup``.

    Raises:
        VLMIGError: the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("vlmig.report", "assets"),
        autoescape=True,
        finalize=_escape,
        trim_blocks=True,
    )
    environment.filters["digest"] = _digest
    try:
        write_text(path, environment.get_template(template).render(values) + "\n")
    except OSError as error:
        raise VLMIGError(
            f"cannot write the page {path}: {error}; choose a folder that can be written"
        ) from error
    return path


def write_data_page(path: Path, title: str, data: Row) -> Path:
    """Write a page whose script draws ``data``; hashes in its policy block any other script.

    Raises:
        VLMIGError: the file cannot be written.
    """
    code = "".join(map(asset, SCRIPTS))
    script = Markup(f"\n'use strict';\n(() => {{\n{code}}})();\n")
    values = {"style": style("page.css"), "script": script, "data": Markup(_json(data))}
    return write_page(path, "page.html", title=title, **values)


def write_stored_page(
    path: Path, title: str, data: Row, store: FeatureStore, numbers: Numbers
) -> Path:
    """Add the store's images to ``data``, as large as there is room for, and write the page.

    Raises:
        VLMIGError: the file cannot be written.
    """
    data = finite(data)
    room = CHARACTERS - len(_json(data)) - 100_000
    return write_data_page(path, title, {**data, "pictures": thumbnails(store, numbers, room)})


def style(name: str) -> Markup:
    return Markup("\n" + asset(name))


def asset(name: str) -> str:
    return resources.files("vlmig.report").joinpath("assets", name).read_text(encoding="utf-8")


def _json(data: Row) -> str:
    """Write data as JSON inside a script element, which nothing in it can close."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _escape(value: Any) -> Markup:
    """Escape text; lone surrogates, which file names may contain, become question marks."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(str(value).encode("utf-8", "replace").decode()))


def _digest(text: str) -> Markup:
    """Hash a style or script as a content security policy names it."""
    digest = hashlib.sha256(text.encode()).digest()
    return Markup("sha256-" + base64.b64encode(digest).decode())
