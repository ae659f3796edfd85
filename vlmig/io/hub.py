"""Whether the Hugging Face Hub can be reached, found out once."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

PATIENCE = 5.0
"""Seconds to wait for the hub's answer."""


def settle_hub(name: str | Path = "") -> None:
    """Find out whether the hub answers, unless ``name`` is a file or folder; where it does not, let
    the libraries use their caches at once: each would try again for half a minute, and say so line
    by line."""
    if not name or not Path(name).exists():
        _settle()


@cache
def _settle() -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    address = urlparse(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    if getproxies():  # a proxy answers for the hub
        return
    try:
        socket.create_connection((address.hostname or "", port), PATIENCE).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that read it later
