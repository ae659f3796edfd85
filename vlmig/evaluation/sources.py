"""Where benchmark files come from when no folder is given: their public source, verified by content hash."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from vlmig.errors import VLMIGError

_VALM = "https://raw.githubusercontent.com/guyyariv/vLMIG/a47e5f25c4304bd8e2cecacc0d7dc4762921eb90/evaluation_data/"
_IMAGENETVC = "https://huggingface.co/datasets/hemingkx/ImageNetVC/resolve/main/"
SOURCES = {
    "valm/memory_color_data.csv": (
        _VALM + "valm/memory_color_data.csv",
        "c33265206ab7716f55185c1eb0b39ae8500903671f777dafe02db46583ebb1ba",
    ),
    "valm/shape.csv": (_VALM + "valm/shape.csv", "4f01c3ec1abfcb70b667efd22564407a7edacb7b6fd2b4afa44205a1fd5e7152"),
    "imagenetvc/color.csv": (
        _IMAGENETVC + "color.csv",
        "16871521ebbfcf35888b10e8d359d71de3d2af5558bb101c6a7f576c66a1f2d7",
    ),
    "imagenetvc/shape.csv": (
        _IMAGENETVC + "shape.csv",
        "01e0ebafb6a1e9b77417fb1b79b5d25c257c0eca03fd611b76fa8fa5589a2fe5",
    ),
}
"""Path below the data folder -> URL and SHA-256."""


def fetch(files: Sequence[str], folder: Path) -> Path:
    """Download the files that are not yet in ``folder``; none is kept whose content is not the expected one.

    Raises:
        VLMIGError: no known source, no network, or a content that differs.
    """
    for name in files:
        if (folder / name).is_file():
            continue
        if name not in SOURCES:
            raise VLMIGError(f"{name} has no source known here; get it and pass --data (or VLMIG_DATA) its folder")
        url, expected = SOURCES[name]
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                content = response.read()
        except (urllib.error.URLError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise VLMIGError(
                f"cannot download {url}: {reason}; pass --data (or VLMIG_DATA) a folder that has {name}"
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise VLMIGError(
                f"{url} has SHA-256 {found[:12]}..., expected {expected[:12]}...: the source changed; pass --data a folder with the known file"
            )
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        part = folder / (name + ".part")
        part.write_bytes(content)
        os.replace(part, folder / name)
    return folder
