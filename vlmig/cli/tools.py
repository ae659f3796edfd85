"""TODO."""

from __future__ import annotations

import argparse
from pathlib import Path


def convert_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "source", type=Path, help="a file of weights or a folder; or a LLaVA of transformers, or its hub id"
    )
    sub.add_argument(
        "--language-model", help="hub id or folder of the LM it was trained around; a LLaVA brings its own"
    )
    sub.add_argument("--vision", help="open_clip encoder (default: ViT-B-32/openai, or the LLaVA's own)")
    sub.add_argument(
        "--generator", default="stabilityai/sdxl-turbo", help="text-to-image pipeline (default: %(default)s)"
    )
    sub.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")


def convert(arguments: argparse.Namespace) -> None:
    """Import a published checkpoint."""
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


def doctor(arguments: argparse.Namespace) -> None:
    """Say what is installed, and where components come from."""
    from vlmig.cli.doctor import diagnose

    print(diagnose(arguments.model))
