"""``vlmig lm-eval``: lm-eval's command line with this package's model."""

from __future__ import annotations

import argparse

from vlmig.errors import VLMIGError
from vlmig.io.hub import settle_hub

PARSER = {"add_help": False, "prefix_chars": "\0"}
"""No option starts with this prefix, so all of them go to lm-eval, --help included."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs=argparse.REMAINDER)


def run(arguments: argparse.Namespace) -> None:
    settle_hub()  # before datasets reads whether it may ask the hub
    try:
        from vlmig.integrations.launch import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        cure = 'pip install "vlmig[lm-eval]"'
        raise VLMIGError(f"lm-eval is not installed; install it with {cure}") from None
    run(arguments.arguments)
