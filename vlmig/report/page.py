"""Self-contained HTML pages: style, script, data and images inline, nothing from any network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from vlmig.errors import VLMIGError
from vlmig.evaluation.run_folder import Row
from vlmig.io.atomic import write_text

SCRIPTS = (
    "dom.js",
    "tables.js",
    "people.js",
    "charts.js",
    "detail.js",
    "groups.js",
    "items.js",
    "page.js",
)


def page_text(template: str, **values: Any) -> str:
    """Fill a template of ``assets``. Text in ``values`` is escaped, except ``Markup``."""
    environment = Environment(
        loader=PackageLoader("vlmig.report", "assets"),
        autoescape=True,
        finalize=_escape,
        trim_blocks=True,
    )
    environment.filters["digest"] = _digest
    return environment.get_template(template).render(values) + "\n"


def write_page(path: Path, text: str) -> Path:
    """Write a page.

    Raises:
        VLMIGError: the file cannot be written.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise VLMIGError(
            f"cannot write the page {path}: {error}; choose a folder that can be written"
        ) from error
    return path


def data_page(title: str, data: Row) -> str:
    """Make a page whose script draws ``data``; hashes in its policy block any other script."""
    script = scripts(SCRIPTS)
    values = {"style": style("page.css"), "script": script, "data": Markup(to_json(data))}
    return page_text("page.html", title=title, **values)


def scripts(names: Sequence[str]) -> Markup:
    """Join scripts of ``assets`` into one, whose names nothing outside sees."""
    code = "".join(map(asset, names))
    return Markup(f"\n'use strict';\n(() => {{\n{code}}})();\n")


def style(name: str) -> Markup:
    return Markup("\n" + asset(name))


def asset(name: str) -> str:
    return resources.files("vlmig.report").joinpath("assets", name).read_text(encoding="utf-8")


def to_json(data: Row) -> str:
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
