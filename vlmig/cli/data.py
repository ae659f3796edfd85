"""What the commands of ``vlmig data`` do. Imports are lazy, as in ``commands.py``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from vlmig.cli.options import Parser, load_imagination, store_options, words
from vlmig.errors import VLMIGError


def data_command(subparsers: argparse._SubParsersAction[Parser]) -> None:
    text = "look after training data"
    data = subparsers.add_parser("data", help=text, description=text)
    works = data.add_subparsers(dest="work", required=True, metavar="COMMAND", parser_class=Parser)
    text = "read every record and every picture of training data, and say what is wrong with them"
    sub = works.add_parser("check", help=text, description=text)
    sub.set_defaults(run=check_data, verbose=False)
    sub.add_argument("path", help="a folder, a .jsonl, .csv, .parquet or .tar file, or a recipe (.yaml)")
    sub.add_argument("--source", help="what it is, such as visual_genome or table (default: told by the path)")
    for name, text in (
        ("--option", "an option of the source, e.g. min_side=8; may be given again"),
        ("--curate", "tell what a rule would drop, e.g. min_words=3; may be given again"),
    ):
        sub.add_argument(name, action="append", default=[], metavar="KEY=VALUE", help=text)
    sub.add_argument(
        "--data", type=Path, default=os.environ.get("VLMIG_DATA"), help="folder that paths start from (or VLMIG_DATA)"
    )
    sub.add_argument("--limit", type=int, help="only the first N records of each source")
    sub.add_argument("--max-bad", type=float, default=0.1, help="largest share of bad records (default: 0.1)")
    sub.add_argument(
        "--model",
        default="pocket",
        help="whose encoder compares for min_alignment, whose tokenizer cuts wikitext (default: pocket)",
    )
    sub.set_defaults(imaginer=None)
    store_options(sub)
    sub.add_argument("--out", type=Path, help="write a page with samples and the bad records")
    text = "have a language model write LLaVA's kinds of instruction data about the pictures of Visual Genome"
    _instruct_options(works.add_parser("instruct", help=text, description=text))


def _instruct_options(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(run=instruct, verbose=False)
    sub.add_argument("path", metavar="VG_FOLDER", help="folder with region_descriptions.json and the pictures")
    sub.add_argument("--out", type=Path, required=True, help="folder of the rows; the same command goes on there")
    sub.add_argument("--teacher", required=True, help="who writes: a chat model's folder, hub id or name at --endpoint")
    sub.add_argument("--endpoint", metavar="URL", help="address that speaks OpenAI's protocol (default: this machine)")
    sub.add_argument("--key-variable", metavar="NAME", help="environment variable of its key (default: OPENAI_API_KEY)")
    kinds = ["conversation", "detail", "reasoning"]
    sub.add_argument("--kinds", type=words, default=kinds, help=f"what to write (default: {','.join(kinds)})")
    for name, kind, default, text in (
        ("limit", int, None, "only the first N images"),
        ("regions", int, 16, "most phrases, and most boxes, that the teacher is told of an image"),
        ("seed", int, 0, "of the choice of phrases, questions and words"),
        ("retries", int, 2, "how often a reply of no use is asked for again"),
        ("parallel", int, None, "requests to an endpoint at a time (default: 4)"),
        ("timeout", float, 120.0, "seconds to wait for an endpoint's next byte"),
        ("max-tokens", int, 800, "longest reply"),
        ("temperature", float, 0.7, "0: always the likeliest token"),
        ("price-in", float, None, "price of a million tokens of prompt"),
        ("price-out", float, None, "price of a million tokens of reply"),
        ("max-cost", float, None, "stop when the replies cost this much"),
        ("max-rejected", float, 0.5, "stop when a larger share of at least 20 is rejected"),
    ):
        told = f"{text} (default: %(default)s)" if default is not None else text
        sub.add_argument(f"--{name}", type=kind, default=default, metavar="N" if kind is int else "X", help=told)


def check_data(arguments: argparse.Namespace) -> None:
    """Read training data to its last picture, and say what is wrong with it."""
    from tempfile import TemporaryDirectory

    from vlmig.data.check import check, table
    from vlmig.data.curation import Curation
    from vlmig.data.index import check_share
    from vlmig.data.sources.build import build_source
    from vlmig.io.config_file import assigned, entries_of
    from vlmig.pocket.lessons import SOURCES
    from vlmig.report.data_check import write_page

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

    return Pictures(load_imagination(arguments), torch.zeros(0, 0), True, 0).alignment


def _tokenizer(model: str) -> Any:
    """Load the tokenizer of a checkpoint's base LM."""
    from vlmig.models.checkpoint import load_tokenizer, resolve_checkpoint
    from vlmig.models.config import VLMIGConfig

    folder = resolve_checkpoint(model)
    config = VLMIGConfig.from_pretrained(folder)
    return load_tokenizer(config.locate(config.language_model, folder), config.language_model_revision)


def instruct(arguments: argparse.Namespace) -> None:
    """Have a language model write instruction data about the pictures of Visual Genome."""
    from vlmig.data.instruct.generate import Settings, generate
    from vlmig.data.instruct.ledger import Bounds
    from vlmig.data.instruct.teachers import EndpointTeacher, LocalTeacher, Sampling, Teacher, key_of
    from vlmig.data.sources.visual_genome import VisualGenome

    folder, model, url = Path(arguments.path), arguments.teacher, arguments.endpoint
    if url is None and (arguments.parallel or 1) != 1:
        raise VLMIGError(
            f"--parallel {arguments.parallel} without --endpoint; expected one thread for a model on this machine; leave --parallel out"
        )
    bounds = Bounds(
        images=arguments.limit,
        parallel=1 if url is None else 4 if arguments.parallel is None else arguments.parallel,
        price_in=arguments.price_in,
        price_out=arguments.price_out,
        max_cost=arguments.max_cost,
        max_rejected=arguments.max_rejected,
    )
    settings = Settings(
        teacher=Path(model).resolve().name if url is None and Path(model).is_dir() else model,
        kinds=tuple(dict.fromkeys(arguments.kinds)),
        seed=arguments.seed,
        retries=arguments.retries,
        regions=arguments.regions,
        sampling=Sampling(arguments.max_tokens, arguments.temperature),
    )
    VisualGenome(folder)  # a missing file is said before a model is loaded
    teacher: Teacher = (
        LocalTeacher(model, settings.sampling)
        if url is None
        else EndpointTeacher(url, model, key_of(arguments.key_variable), settings.sampling, arguments.timeout)
    )
    report = generate(folder, arguments.out, teacher, settings, bounds)
    rejected = {kind: sum(reasons.values()) for kind, reasons in report["rejected"].items()}
    for kind in settings.kinds:
        print(f"{kind}: {report['rows'].get(kind, 0)} rows, {rejected.get(kind, 0)} rejected")
    reasons = ", ".join(f"{reason} {count}" for reason, count in report["rejected_replies"].items())
    cost = "" if report["cost"] is None else f", cost {report['cost']:.4f}"
    print(
        f"{report['requests']} requests ({report['retries']} for replies of no use{': ' + reasons if reasons else ''})"
    )
    print(f"{report['prompt_tokens']} tokens of prompt, {report['answer_tokens']} of reply{cost}")
    print(f"wrote {arguments.out}")
