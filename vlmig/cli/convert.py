"""``vlmig convert``: import a published checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path


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
    parser.add_argument("--generator", default=default, metavar="PIPELINE", help=text)


def run(arguments: argparse.Namespace) -> None:
    from transformers.utils import logging as transformers_logging

    from vlmig.models.convert.published import convert

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
