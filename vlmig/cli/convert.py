"""``vlmig convert``: import a published checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmig.errors import VLMIGError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s SOURCE --out FOLDER [options]"
    text = "a weights file or folder as published, or a LLaVA in transformers' format or its hub id"
    parser.add_argument("source", type=Path, metavar="SOURCE", help=text)
    text = "folder of the new checkpoint"
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=text)
    text = "hub id or folder of the language model it was trained with; a LLaVA includes its own"
    parser.add_argument("--language-model", metavar="LM", help=text)
    text = "open_clip encoder (default: ViT-B-32/openai, or the LLaVA's)"
    parser.add_argument("--vision", metavar="ENCODER", help=text)
    text = "text-to-image pipeline (default: %(default)s)"
    default = "stabilityai/sdxl-turbo"
    force = "write into --out although it holds files"
    parser.add_argument("--force", action="store_true", help=force)
    parser.add_argument("--generator", default=default, metavar="PIPELINE", help=text)


def run(arguments: argparse.Namespace) -> None:
    from transformers.utils import logging as transformers_logging

    from vlmig.models.convert.published import convert

    _check_out(arguments.out, arguments.source, arguments.force)
    if not arguments.verbose:
        transformers_logging.disable_progress_bar()
    lines = convert(
        arguments.source,
        arguments.out,
        language_model=arguments.language_model,
        vision=arguments.vision,
        generator=arguments.generator,
    )
    print("\n".join([*lines, f"wrote {arguments.out}; use it with --model {arguments.out}"]))


def _check_out(out: Path, source: Path, force: bool) -> None:
    """Refuse to write over what is there: a checkpoint, a base LM, the source itself.

    Raises:
        VLMIGError: it holds files and there is no ``force``, or it is no folder.
    """
    if out.exists() and not out.is_dir():
        raise VLMIGError(f"--out {out} is a file; expected a new folder")
    if out.is_dir() and source.exists() and out.samefile(source):
        raise VLMIGError(f"--out {out} is the source itself; expected another folder")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise VLMIGError(f"--out {out} holds files; expected a new folder, or --force")
