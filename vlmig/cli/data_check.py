"""``vlmig data check``: read all of a training set, and list what is wrong with it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmig.cli.options import add_data, add_store, load_imagination, new_file, share
from vlmig.errors import VLMIGError, one_line

if TYPE_CHECKING:
    from vlmig.data.check import Findings


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s PATH [options]"
    text = "a folder, a .jsonl, .csv, .parquet or .tar file, or a recipe (.yaml)"
    parser.add_argument("path", metavar="PATH", help=text)
    text = "format, such as visual_genome or table (default: guessed from the path)"
    parser.add_argument("--source", metavar="NAME", help=text)
    text = "an option of the format, e.g. min_side=8; may be repeated"
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help=text)
    text = "count what a curation rule would drop, e.g. min_words=3; may be repeated"
    parser.add_argument("--curate", action="append", default=[], metavar="KEY=VALUE", help=text)
    add_data(parser, "folder that relative paths start from (default: VLMIG_DATA)")
    text = "only the first N records of each source"
    parser.add_argument("--limit", type=int, metavar="N", help=text)
    text = "largest accepted share of bad records (default: %(default)s)"
    parser.add_argument("--max-bad", type=share, default=0.1, metavar="X", help=text)
    text = (
        "checkpoint whose encoder computes min_alignment and whose tokenizer splits wikitext "
        "(default: %(default)s)"
    )
    parser.add_argument("--model", default="pocket", help=text)
    text = "write an HTML page with samples and the bad records"
    parser.add_argument("--out", type=new_file, metavar="FILE", help=text)
    add_store(parser)


def run(arguments: argparse.Namespace) -> None:
    from tempfile import TemporaryDirectory

    from vlmig.data.check import summary
    from vlmig.data.index import check_read, check_share
    from vlmig.io.config_file import assigned, entries_of
    from vlmig.report.data_check import write_findings
    from vlmig.report.text_table import text_table

    entries = entries_of(arguments.path, arguments.source, assigned("--option", arguments.option))
    results = []
    with TemporaryDirectory() as folder:
        for number, entry in enumerate(entries):
            try:
                result = _check_source(arguments, entry, Path(folder) / str(number))
            except OSError as error:
                raise VLMIGError(
                    f"cannot write to {folder}: {one_line(error)}; make room, or name another "
                    "folder in TMPDIR"
                ) from error
            results.append(result)
            print(result.index.source.name)
            rows = [(f"  {name}", value, remark) for name, value, remark in summary(result)]
            print(text_table(rows, "<><"))
        if arguments.out:
            write_findings(arguments.out, results)
            print(arguments.out)
    for result in results:
        records, name = result.index.records, result.index.source.name
        check_share(result.bad, records, arguments.max_bad, name, arguments.out)
        check_read(result.index)


def _check_source(arguments: argparse.Namespace, entry: dict[str, Any], folder: Path) -> Findings:
    """Check one source; its index is written to a folder."""
    from vlmig.data.check import check
    from vlmig.data.curation import Curation
    from vlmig.data.sources.build import build_source
    from vlmig.io.config_file import assigned
    from vlmig.pocket.lessons import SOURCES

    options = dict(entry)
    recipe_rules, limit = options.pop("curate", None), options.pop("limit", None)
    curation = Curation.from_mapping(assigned("--curate", arguments.curate) or recipe_rules)
    if arguments.limit is not None:
        limit = arguments.limit
    source = build_source(options, arguments.data, lambda: _tokenizer(arguments.model), SOURCES)
    compare = _alignment(arguments) if curation.min_alignment is not None else None
    return check(source, folder, curation, limit, compare)


def _alignment(arguments: argparse.Namespace) -> Any:
    """Return the function that computes the CLIP similarity of images and captions."""
    import torch

    from vlmig.training.images import ImageFeatures

    return ImageFeatures(load_imagination(arguments), torch.zeros(0, 0), True, 0).alignment


def _tokenizer(model: str) -> Any:
    """Load the tokenizer of a checkpoint's language model."""
    from vlmig.models.checkpoint import load_tokenizer, resolve_checkpoint, tokenizer_place
    from vlmig.models.config import VLMIGConfig

    folder = resolve_checkpoint(model)
    config = VLMIGConfig.from_pretrained(folder)
    location, revision = tokenizer_place(config, folder)
    return load_tokenizer(location, revision, config.text_config)
