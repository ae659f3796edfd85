"""What the commands of ``vlmig data`` do. Imports are lazy, as in ``commands.py``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vlmig.commands import _imagination
from vlmig.errors import VLMIGError


def check_data(arguments: argparse.Namespace) -> None:
    """Read training data to its last picture, and say what is wrong with it."""
    from tempfile import TemporaryDirectory

    from vlmig.data.build import build_source
    from vlmig.data.check import check, table
    from vlmig.data.curation import Curation
    from vlmig.data.entries import assigned, entries_of
    from vlmig.data.index import check_share
    from vlmig.data.page import write_page
    from vlmig.pocket.lessons import SOURCES

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


def instruct(arguments: argparse.Namespace) -> None:
    """Have a language model write instruction data about the pictures of Visual Genome."""
    from vlmig.data.instruct.generate import Settings, generate
    from vlmig.data.instruct.ledger import Bounds
    from vlmig.data.instruct.teachers import EndpointTeacher, LocalTeacher, Sampling, Teacher, key_of
    from vlmig.data.visual_genome import VisualGenome

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
