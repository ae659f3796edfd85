"""``vlmig data instruct``: have a language model write instruction data about Visual Genome."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmig.cli.options import words
from vlmig.errors import VLMIGError

KINDS = ["conversation", "detail", "reasoning"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s VG_FOLDER --out FOLDER --teacher MODEL [options]"
    text = "folder with region_descriptions.json and the images"
    parser.add_argument("path", metavar="VG_FOLDER", help=text)
    text = "folder of the new rows; run the command again to resume"
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=text)
    rows = parser.add_argument_group("rows")
    text = f"what to write (default: {','.join(KINDS)})"
    rows.add_argument("--kinds", type=words, default=KINDS, metavar="KIND,...", help=text)
    _add_numbers(
        rows,
        ("limit", int, None, "only the first N images"),
        ("regions", int, 16, "most region phrases, and most boxes, in the prompt of an image"),
        ("seed", int, 0, "seed that picks phrases, questions and instructions"),
    )
    teacher = parser.add_argument_group("teacher")
    text = "model that writes: a chat model's folder, its hub id, or its name at --endpoint"
    teacher.add_argument("--teacher", required=True, metavar="MODEL", help=text)
    text = "address of an OpenAI-compatible server (default: run the model on this machine)"
    teacher.add_argument("--endpoint", metavar="URL", help=text)
    text = "environment variable that holds the server's API key (default: OPENAI_API_KEY)"
    teacher.add_argument("--key-variable", metavar="NAME", help=text)
    _add_numbers(
        teacher,
        ("max-tokens", int, 800, "longest reply, in tokens"),
        ("temperature", float, 0.7, "sampling temperature; 0 always takes the likeliest token"),
        ("parallel", int, None, "concurrent requests to an endpoint (default: 4)"),
        ("timeout", float, 120.0, "seconds to wait for the endpoint's next byte"),
    )
    _add_numbers(
        parser.add_argument_group("limits"),
        ("retries", int, 2, "how often to repeat a request whose reply is unusable"),
        ("price-in", float, None, "price of a million prompt tokens"),
        ("price-out", float, None, "price of a million reply tokens"),
        ("max-cost", float, None, "stop when the replies cost this much"),
        ("max-rejected", float, 0.5, "stop when a larger share of at least 20 replies is rejected"),
    )


def _add_numbers(
    group: argparse._ArgumentGroup, *options: tuple[str, type, float | None, str]
) -> None:
    for name, kind, default, text in options:
        if default is not None:
            text += " (default: %(default)s)"
        metavar = "N" if kind is int else "X"
        group.add_argument(f"--{name}", type=kind, default=default, metavar=metavar, help=text)


def run(arguments: argparse.Namespace) -> None:
    from vlmig.data.instruct.generate import Settings, generate
    from vlmig.data.instruct.ledger import Bounds
    from vlmig.data.instruct.teachers import (
        EndpointTeacher,
        LocalTeacher,
        Sampling,
        Teacher,
        key_of,
    )
    from vlmig.data.sources.visual_genome import VisualGenome

    folder, model, url = Path(arguments.path), arguments.teacher, arguments.endpoint
    parallel = arguments.parallel
    if url is None and (parallel or 1) != 1:
        raise VLMIGError(
            f"--parallel {parallel} without --endpoint; expected one request at a time for a "
            "model on this machine; leave --parallel out"
        )
    if url is None:
        parallel = 1
    elif parallel is None:
        parallel = 4
    bounds = Bounds(
        images=arguments.limit,
        parallel=parallel,
        price_in=arguments.price_in,
        price_out=arguments.price_out,
        max_cost=arguments.max_cost,
        max_rejected=arguments.max_rejected,
    )
    sampling = Sampling(arguments.max_tokens, arguments.temperature)
    local = url is None and Path(model).is_dir()
    settings = Settings(
        teacher=Path(model).resolve().name if local else model,
        kinds=tuple(dict.fromkeys(arguments.kinds)),
        seed=arguments.seed,
        retries=arguments.retries,
        regions=arguments.regions,
        sampling=sampling,
    )
    VisualGenome(folder)  # reports a missing file before a model is loaded
    teacher: Teacher
    if url is None:
        teacher = LocalTeacher(model, sampling)
    else:
        key = key_of(arguments.key_variable)
        teacher = EndpointTeacher(url, model, key, sampling, arguments.timeout)
    report = generate(folder, arguments.out, teacher, settings, bounds)
    _print_report(report, settings.kinds)
    print(f"wrote {arguments.out}")


def _print_report(report: dict, kinds: tuple[str, ...]) -> None:
    """Print rows, rejections, requests, tokens and cost."""
    for kind in kinds:
        rejected = sum(report["rejected"].get(kind, {}).values())
        print(f"{kind}: {report['rows'].get(kind, 0)} rows, {rejected} rejected")
    reasons = ", ".join(f"{reason} {n}" for reason, n in report["rejected_replies"].items())
    retries = f"{report['retries']} for unusable replies" + (f": {reasons}" if reasons else "")
    print(f"{report['requests']} requests ({retries})")
    cost = "" if report["cost"] is None else f", cost {report['cost']:.4f}"
    print(f"{report['prompt_tokens']} prompt tokens, {report['answer_tokens']} reply tokens{cost}")
