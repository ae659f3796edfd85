"""What the commands of ``vlmig data`` do. Imports are lazy, as in ``commands.py``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vlmig.commands import _imagination


def check_data(arguments: argparse.Namespace) -> None:
    """Read training data to its last picture, and say what is wrong with it."""
    from tempfile import TemporaryDirectory

    from vlmig.data.build import build_source
    from vlmig.data.check import check, table
    from vlmig.data.curation import Curation
    from vlmig.data.entries import assigned, entries_of
    from vlmig.data.index import check_share
    from vlmig.data.page import write_page
    from vlmig.pocket.adapter import SOURCES

    entries = entries_of(arguments.path, arguments.source, assigned("--option", arguments.option))
    rules, found = assigned("--curate", arguments.curate), []
    with TemporaryDirectory() as folder:
        for number, entry in enumerate(entries):
            curation = Curation.from_mapping(rules or entry.pop("curate", None))
            limit = entry.pop("limit", None) if arguments.limit is None else arguments.limit
            options = {name: value for name, value in entry.items() if name not in ("curate", "limit")}
            source = build_source(options, arguments.data, lambda: _tokenizer(arguments.model), SOURCES)
            aligned = _alignment(arguments) if curation.min_alignment is not None else None
            found.append(check(source, Path(folder) / str(number), curation, limit, aligned))
            print(table(found[-1]))
        if arguments.out:
            write_page(arguments.out, found)
            print(arguments.out)
    for one in found:
        check_share(one.bad, one.index.records, arguments.max_bad, one.index.source.name, arguments.out)


def _alignment(arguments: argparse.Namespace) -> Any:
    """Make what compares pictures with captions: the checkpoint's encoder, over the store."""
    import torch

    from vlmig.training.pictures import Pictures

    return Pictures(_imagination(arguments), torch.zeros(0, 0), True, 0).alignment


def _tokenizer(model: str) -> Any:
    """Load the tokenizer of a checkpoint's base LM."""
    from vlmig.checkpoint import load_tokenizer, resolve_checkpoint
    from vlmig.config import VLMIGConfig

    folder = resolve_checkpoint(model)
    config = VLMIGConfig.from_pretrained(folder)
    return load_tokenizer(config.locate(config.language_model, folder), config.language_model_revision)
