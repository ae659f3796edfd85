"""One self-contained page: its data as JSON, its style and script inline, and no way out to any network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from pathlib import Path
from string import Template

from vlmig.errors import VLMIGError
from vlmig.evaluation.run_folder import Row, Run, read_run
from vlmig.imagination.store import FeatureStore
from vlmig.io.atomic import write_text
from vlmig.report.items import Numbers, entry_of, item_of, shares
from vlmig.report.tables import charts, headline, main_rows, rounded
from vlmig.report.thumbnails import thumbnails

CHARACTERS = 9_300_000
"""What a page may take, pictures included; mail and browsers carry 10 MB easily."""
SCRIPTS = ("dom.js", "tables.js", "charts.js", "detail.js", "items.js", "page.js")


def write_report(out: Path, store: FeatureStore, page: Path | None = None) -> Path:
    """Render ``OUT/report.html`` from results.json, the samples and the stored pictures.

    Args:
        page: another file to write.

    Raises:
        VLMIGError: the folder holds no results, or broken ones.
    """
    run = read_run(out)
    block = run.results["vlmig"]
    numbers: Numbers = {}
    data = {"kind": "run", "k": run.k, "floor": block.get("alignment_floor"), "seeds": run.seeds}
    data |= {"head": headline(run), "main": main_rows(run), "charts": charts(run)}
    data |= {"comparisons": block["comparisons"], "conditions": block["conditions"]}
    data |= {"items": _items(run, numbers), "total": sum(run.items(task) for task in run.tasks)}
    return write_page(page or out / "report.html", f"vlmig: {', '.join(run.results['results'])}", data, store, numbers)


def _items(run: Run, numbers: Numbers) -> list[Row]:
    """Read as many items as the page can carry, spread evenly over tasks."""
    items: dict[tuple[str, str], Row] = {}
    sizes = {task: run.items(task) for task in run.tasks}
    for task, share in shares([run], sizes, len(run.seeds)).items():
        for line in run.lines(task):
            if line["doc_id"] < share:
                item = items.setdefault((task, line["doc"]["id"]), item_of(task, line))
                item["runs"].append(entry_of(run, line, numbers))
    return list(items.values())


def write_page(path: Path, title: str, data: Row, store: FeatureStore, numbers: Numbers) -> Path:
    """Add the pictures, as fine as there is room for, and write the page.

    Raises:
        VLMIGError: the file cannot be written.
    """
    data = rounded(data)
    room = CHARACTERS - len(embedded(data)) - 100_000
    page = rendered(title, {**data, "pictures": thumbnails(store, numbers, room)})
    try:
        write_text(path, page)
    except OSError as error:
        raise VLMIGError(f"cannot write the page {path}: {error}; choose a folder that can be written") from error
    return path


def rendered(title: str, data: Row) -> str:
    """Put title, style, script and data into one page; hashes in its policy keep anything else from running."""
    style, script = f"\n{_part('page.css')}", "\n'use strict';\n(() => {\n" + "".join(map(_part, SCRIPTS)) + "})();\n"
    allowed = f"style-src '{_hashed(style)}'; script-src '{_hashed(script)}'"
    policy = f"default-src 'none'; img-src data:; {allowed}; base-uri 'none'"
    parts = {"title": html.escape(title), "policy": policy, "style": style, "script": script}
    return Template(_part("page.html")).substitute(parts, data=embedded(data))


def embedded(data: Row) -> str:
    """Write data as JSON that may stand inside a script element: nothing in it can end the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hashed(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _part(name: str) -> str:
    return resources.files("vlmig.report").joinpath("assets", name).read_text(encoding="utf-8")
