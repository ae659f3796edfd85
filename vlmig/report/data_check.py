"""Findings as one self-contained page: a table, some pairs with their pictures, and the bad records."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from vlmig.data.check import Findings, summary
from vlmig.data.pairs import BadPicture, Pair
from vlmig.io.atomic import write_text

SAMPLES = 24
SIDE = 224
"""Longest side of a picture on the page, in pixels."""
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>vlmig: training data</title>
<style>
:root { --paper: #fcfbf9; --ink: #20242a; --soft: #59616c; --line: #e5e3de; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e2e5e9; --soft: #9aa3ae; --line: #2c323a; }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1240px; padding: 2.2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif;
}
h1 { font-size: 1.7rem; font-weight: 650; margin: 0 0 0.7rem; }
h2 { font-size: 1.15rem; font-weight: 650; margin: 2.6rem 0 0.5rem; overflow-wrap: anywhere; }
.frame { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.87rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.6rem; font-weight: 400; }
tbody tr { border-top: 1px solid var(--line); }
th, figcaption { white-space: pre-wrap; }
.much { text-align: right; white-space: nowrap; }
.aside { color: var(--soft); overflow-wrap: anywhere; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1.4rem; margin: 1.2rem 0; }
figure { margin: 0; font-size: 0.85rem; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; margin-bottom: 0.3rem; }
summary { cursor: pointer; padding: 0.5rem 0; }
</style>
</head>
<body>
<h1>Training data</h1>
$body
</body>
</html>
""")


def write_page(path: Path, findings: Sequence[Findings], seed: int = 0) -> None:
    """Write a page of several sources' findings; the seed chooses the samples."""
    write_text(path, PAGE.substitute(body="\n".join(_section(found, seed) for found in findings)))


def _section(found: Findings, seed: int) -> str:
    rows = np.random.default_rng(seed).permutation(found.good)[:SAMPLES]
    samples = "".join(_sample(found, found.index[int(row)]) for row in np.sort(rows))
    table = "".join(
        f'<tr><th>{_safe(what)}</th><td class="much">{_safe(much)}</td><td class="aside">{_safe(remark)}</td></tr>'
        for what, much, remark in summary(found)
    )
    bad = "".join(
        f'<tr><td>{_safe(own.reason)}</td><td class="aside">{_safe(own.place)}</td></tr>' for own in found.listed
    )
    every = sum(found.bad.values()) + sum(found.index.dropped.values())
    listed = (
        f"<details><summary>Bad and left out records: {len(found.listed)} of {every}</summary>{_frame(bad)}</details>"
    )
    return f'<h2>{_safe(found.index.source.name)}</h2>{_frame(table)}<div class="samples">{samples}</div>{listed}'


def _sample(found: Findings, pair: Pair) -> str:
    remark = f'<div class="aside">imagined: {_safe(pair.prompt)}</div>' if pair.prompt else ""
    images = ""
    for own in pair.pictures():
        try:
            picture, buffer = found.index.source.open(own), io.BytesIO()
        except BadPicture:  # the file changed since it was checked
            return ""
        picture.thumbnail((SIDE, SIDE))
        picture.save(buffer, "JPEG", quality=80)
        images += f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    return f"<figure>{images}<figcaption>{_safe(pair.caption)}</figcaption>{remark}</figure>"


def _frame(rows: str) -> str:
    return f'<div class="frame"><table><tbody>{rows}</tbody></table></div>'


def _safe(text: str) -> str:
    """Write a text so that it is no markup; halves of characters, which file names may hold, become question marks."""
    return escape(text.encode("utf-8", "replace").decode())
