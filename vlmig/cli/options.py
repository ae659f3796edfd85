"""What several commands share: option types, groups of options, and loading what they name."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmig.errors import VLMIGError

if TYPE_CHECKING:
    from vlmig.imagination.engine import Engine
    from vlmig.imagination.pipeline import Imagination
    from vlmig.imagination.store import FeatureStore
    from vlmig.predict.predictor import VLMIG

Options = argparse._ActionsContainer
"""A parser, or a group of its options."""
POLICIES = ["subject", "question", "sentences", "each", "option"]
"""As in ``vlmig.models.config``, which takes seconds to import."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # argparse would say "invalid int value"; these say what was expected.
        self.register("type", int, integer)
        self.register("type", float, number)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments here, so that the error names this command's help."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> None:  # type: ignore[override]
        message = " ".join(message.split())  # arguments may hold ends of lines
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def integer(text: str) -> int:
    """Parse a whole number."""
    try:
        return int(text)
    except ValueError:
        raise _unexpected(text, "a whole number") from None


def number(text: str) -> float:
    """Parse a finite number."""
    try:
        parsed = float(text)
    except ValueError:
        parsed = math.nan
    if not math.isfinite(parsed):
        raise _unexpected(text, "a number")
    return parsed


def share(text: str) -> float:
    """Parse a share."""
    parsed = number(text)
    if not 0 <= parsed <= 1:
        raise _unexpected(text, "a number from 0 to 1")
    return parsed


def new_file(text: str) -> Path:
    """Parse the path of a file to write, which is refused before hours of work."""
    if Path(text).is_dir():
        raise _unexpected(text, "a file, but this is a folder")
    new_folder(str(Path(text).parent))
    return Path(text)


def new_folder(text: str) -> Path:
    """Parse the path of a folder to write, which may be new."""
    folder = Path(text)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise _unexpected(text, f"a folder, but {there} is a file")
    return folder


def words(text: str) -> list[str]:
    """Split a comma-separated list."""
    listed = [word.strip() for word in text.split(",") if word.strip()]
    if not listed:
        raise _unexpected(text, "comma-separated words")
    return listed


def integers(text: str) -> list[int]:
    """Split a comma-separated list of whole numbers."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise _unexpected(text, "comma-separated whole numbers") from None


def image_count(text: str) -> int | str:
    """Parse a number of images, ``auto`` or ``auto:LEVEL``."""
    try:
        return text if text.partition(":")[0] == "auto" else int(text)
    except ValueError:
        raise _unexpected(text, "a whole number or auto") from None


def image_counts(text: str) -> list[int | str]:
    """Split a comma-separated list of numbers of images, which may include ``auto``."""
    return [image_count(word) for word in text.split(",")]


def byte_count(text: str) -> int:
    """Parse a number of bytes such as 20GB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text.strip())
    if not match:
        raise _unexpected(text, "a number of bytes such as 500MB or 20GB")
    return int(float(match[1]) * 1000 ** " kMGT".index(match[2] or " "))


def shard(text: str) -> tuple[int, int]:
    """Parse a shard such as 2/4 into its index from 0 and the number of shards: (1, 4)."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise _unexpected(text, "I/N with I from 1 to N, such as 2/4")
    return int(index) - 1, int(count)


def _unexpected(text: str, expected: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")


def add_data(options: Options, text: str) -> None:
    default = os.environ.get("VLMIG_DATA") or None
    options.add_argument("--data", type=Path, default=default, metavar="FOLDER", help=text)


def add_model(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of the checkpoint and of its source of images."""
    group = parser.add_argument_group("model")
    text = "pocket, smollm2, a checkpoint folder or a hub id (default: %(default)s)"
    group.add_argument("--model", default="pocket", help=text)
    group.add_argument(
        "--imaginer",
        metavar="SOURCE",
        help="another source of images: a diffusers pipeline (folder or hub id), "
        "http:URL#MODEL (a server), retrieval:FOLDER, folder:FOLDER, prior:NAME, text or blank",
    )
    text = "side of its images in pixels (default: its family's)"
    group.add_argument("--imaginer-size", type=int, metavar="N", help=text)
    text = "images per call, or concurrent requests to a server (default: 8; 1 on a CPU)"
    group.add_argument("--imaginer-batch", type=int, metavar="N", help=text)
    return group


def add_language_model(group: Options) -> None:
    """Add the options of the language model and its predictions."""
    group.add_argument(
        "--protocol",
        choices=["default", "reference"],
        help="reference: predict and mix as the published code does (docs/fidelity.md; "
        "default: the checkpoint's)",
    )
    text = "load the language model in 8-bit or 4-bit precision"
    group.add_argument("--quantize", choices=["8bit", "4bit"], help=text)


def add_store(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("feature store")
    text = "folder of stored features (default: VLMIG_STORE, or the user's cache)"
    group.add_argument("--store", type=Path, metavar="FOLDER", help=text)
    text = "keep at most this much, such as 20GB (default: no limit)"
    group.add_argument("--store-limit", type=byte_count, metavar="BYTES", help=text)
    text = "store the features only, not the images"
    group.add_argument("--no-pictures", action="store_true", help=text)


def add_engine(group: Options) -> None:
    """Add the options of what draws many images."""
    text = "what draws: this process, or actors of a Ray cluster (RAY_ADDRESS, or this machine)"
    group.add_argument("--engine", choices=["here", "ray"], default="here", help=text)
    text = "actors of the Ray cluster (default: one for each accelerator, or CPU)"
    group.add_argument("--actors", type=int, metavar="N", help=text)


def open_engine(arguments: argparse.Namespace) -> Engine | None:
    """Return what draws many images; None is this process.

    Raises:
        VLMIGError: --actors without Ray or below one, or torchrun's processes beside it.
    """
    if arguments.engine == "here":
        if arguments.actors is not None:
            raise VLMIGError("--actors are those of --engine ray; give both, or neither")
        return None
    from vlmig.imagination.cluster import Cluster
    from vlmig.runtime import rank_and_processes

    if arguments.actors is not None and arguments.actors < 1:
        raise VLMIGError(f"--actors {arguments.actors}; expected at least one")
    if rank_and_processes()[1] > 1:
        raise VLMIGError("--engine ray under torchrun; expected one of them; start vlmig itself")
    return Cluster(arguments.actors)


def load_model(arguments: argparse.Namespace, **fields: Any) -> VLMIG:
    """Load the model; the libraries' loading bars are shown only with --verbose."""
    from transformers.utils import logging as transformers_logging

    from vlmig.predict.predictor import VLMIG

    if not arguments.verbose:
        transformers_logging.disable_progress_bar()
    if arguments.quantize:
        from vlmig.models.quantization import config_for

        fields["quantization_config"] = config_for(arguments.quantize)
    fields = {**_config_fields(arguments), **fields}
    return VLMIG.from_pretrained(arguments.model, store=open_store(arguments), **fields)


def load_imagination(arguments: argparse.Namespace) -> Imagination:
    """Load the image source and the vision encoder, without the language model."""
    from vlmig.imagination.pipeline import Imagination
    from vlmig.models.checkpoint import resolve_checkpoint
    from vlmig.models.config import VLMIGConfig, changed
    from vlmig.runtime import Stopwatch

    folder = resolve_checkpoint(arguments.model)
    config = VLMIGConfig.from_pretrained(folder, **changed(_config_fields(arguments)))
    return Imagination(config, folder, open_store(arguments), Stopwatch())


def open_store(arguments: argparse.Namespace) -> FeatureStore:
    from vlmig.imagination.store import FeatureStore

    return FeatureStore(arguments.store, arguments.store_limit, not arguments.no_pictures)


def _config_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the configuration that the command line changes."""
    from vlmig.models.checkpoint import absolute
    from vlmig.models.config import REFERENCE

    fields: dict[str, Any] = {}
    protocol = getattr(arguments, "protocol", None)
    if protocol:
        fields |= REFERENCE if protocol == "reference" else {"protocol": protocol}
    if getattr(arguments, "imaginer", None):
        fields["imaginer"] = absolute(arguments.imaginer)
    for name in ("imaginer_size", "imaginer_batch"):
        if getattr(arguments, name, None) is not None:
            fields[name] = getattr(arguments, name)
    return fields


def similarity(value: float) -> str:
    """Format a CLIP similarity; NaN is unknown."""
    return "unknown" if value != value else f"{value:.2f}"
