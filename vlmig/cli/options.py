"""What the options of the command line understand; anything else is a line that says what was expected."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmig.imagination.pipeline import Imagination
    from vlmig.imagination.store import FeatureStore
    from vlmig.predict.predictor import VLMIG


def words(text: str) -> list[str]:
    """Split a comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    """Split a comma-separated list of whole numbers."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected comma-separated whole numbers") from None


def pictures(text: str) -> int | str:
    """Understand a number of pictures, or ``auto``."""
    try:
        return text if text.partition(":")[0] == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number or auto") from None


def each_pictures(text: str) -> list[int | str]:
    """Split a comma-separated list of numbers of pictures, ``auto`` among them."""
    return [pictures(word) for word in text.split(",")]


def size(text: str) -> int:
    """Understand a number of bytes such as 20GB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of bytes such as 500MB or 20GB")
    return int(float(found[1]) * 1000 ** " kMGT".index(found[2] or " "))


def shard(text: str) -> tuple[int, int]:
    """Understand a part of a whole such as 2/4: (1, 4)."""
    part, _, count = text.partition("/")
    if not (part.isdigit() and count.isdigit() and 1 <= int(part) <= int(count)):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected I/N with I from 1 to N, such as 2/4")
    return int(part) - 1, int(count)


POLICIES = ["subject", "question", "sentences", "option"]
"""As in ``vlmig.models.config``, which takes seconds to import."""


class Parser(argparse.ArgumentParser):
    """Report a wrong argument in one line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def reading_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--protocol",
        choices=["default", "reference"],
        help="reference: predict and mix as the published code does (docs/fidelity.md; default: the checkpoint's)",
    )
    sub.add_argument("--quantize", choices=["8bit", "4bit"], help="keep the language model's weights in so many bits")


def model_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", default="pocket", help="pocket, a checkpoint folder, or a hub id (default: pocket)")
    store_options(sub)
    sub.add_argument(
        "--imaginer",
        help="another source of pictures: a diffusers pipeline, retrieval:PLACE, folder:PLACE, prior:NAME, text, blank",
    )


def store_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--store", type=Path, help="folder of imagined features (default: VLMIG_STORE or the user's cache)"
    )
    sub.add_argument("--store-limit", type=size, help="keep at most this much, such as 20GB (default: everything)")
    sub.add_argument("--no-pictures", action="store_true", help="keep features only, not the pictures")


def load_model(arguments: argparse.Namespace, **fields: Any) -> VLMIG:
    """Load the model; the libraries' own loading bars are noise beside our one bar for long work."""
    from transformers.utils import logging as transformers_logging

    from vlmig.predict.predictor import VLMIG

    if not arguments.verbose:
        transformers_logging.disable_progress_bar()
    if arguments.quantize:
        from vlmig.models.quantization import config_for

        fields["quantization_config"] = config_for(arguments.quantize)
    return VLMIG.from_pretrained(arguments.model, store=open_store(arguments), **_fields(arguments), **fields)


def load_imagination(arguments: argparse.Namespace) -> Imagination:
    """Load what imagines and sees; no language model."""
    from vlmig.imagination.pipeline import Imagination
    from vlmig.models.checkpoint import resolve_checkpoint
    from vlmig.models.config import VLMIGConfig, changed
    from vlmig.runtime import Stopwatch

    folder = resolve_checkpoint(arguments.model)
    config = VLMIGConfig.from_pretrained(folder, **changed(_fields(arguments)))
    return Imagination(config, folder, open_store(arguments), Stopwatch())


def open_store(arguments: argparse.Namespace) -> FeatureStore:
    from vlmig.imagination.store import FeatureStore, default_store

    return FeatureStore(arguments.store or default_store(), arguments.store_limit, not arguments.no_pictures)


def _fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the configuration that the command line changes."""
    from vlmig.models.checkpoint import absolute
    from vlmig.models.config import REFERENCE

    protocol = getattr(arguments, "protocol", None)
    fields: dict[str, Any] = REFERENCE if protocol == "reference" else {"protocol": protocol} if protocol else {}
    return {**fields, "imaginer": absolute(arguments.imaginer)} if arguments.imaginer else fields
