"""``vlmig imagine``: generate images for a few prompts or many, and maintain the store."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from vlmig.cli import options
from vlmig.errors import VLMIGError

if TYPE_CHECKING:
    from vlmig.imagination.visuals import Visuals


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [PROMPT ...] [options]"
    text = "what to imagine; several prompts are separate arguments"
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help=text)
    text = "images for each prompt (default: %(default)s)"
    parser.add_argument("--k", type=int, default=6, metavar="K", help=text)
    text = "seed of the images (default: %(default)s)"
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=text)
    text = "which text of a prompt to imagine (default: question, all of it)"
    parser.add_argument("--policy", choices=options.POLICIES[:4], default="question", help=text)
    text = "write the images to this folder as PNG files"
    parser.add_argument("--out", type=options.new_folder, metavar="FOLDER", help=text)
    text = "Run the command again to resume. Work is split under torchrun, or by --shard."
    _add_many(parser.add_argument_group("many prompts", text))
    _add_maintenance(parser.add_argument_group("store maintenance"))
    options.add_model(parser)
    options.add_store(parser)


def _add_many(group: argparse._ArgumentGroup) -> None:
    text = "a file with one prompt per line, .jsonl, .csv, or a dataset's folder or hub id"
    group.add_argument("--prompts", metavar="FILE", help=text)
    text = "field of a .jsonl, .csv or dataset (default: %(default)s)"
    group.add_argument("--column", default="prompt", metavar="NAME", help=text)
    text = "split of a dataset (default: %(default)s)"
    group.add_argument("--split", default="train", metavar="NAME", help=text)
    text = "only shard I of N of the prompts (default: torchrun's rank)"
    group.add_argument("--shard", type=options.shard, metavar="I/N", help=text)
    options.add_engine(group)
    text = "write CLIP similarity, diversity and redraws of each prompt to a .jsonl file"
    group.add_argument("--report", type=options.new_file, metavar="FILE", help=text)


def _add_maintenance(group: argparse._ArgumentGroup) -> None:
    text = "print what the store holds, and imagine nothing"
    group.add_argument("--stats", action="store_true", help=text)
    text = "check every entry, and rewrite the store without damaged ones"
    group.add_argument("--mend", action="store_true", help=text)
    text = "import entries from other stores"
    group.add_argument("--merge", type=Path, nargs="+", metavar="STORE", help=text)


def run(arguments: argparse.Namespace) -> None:
    if arguments.k < 1:
        raise VLMIGError(f"--k {arguments.k}; expected at least one image")
    if arguments.prompts and (arguments.prompt or arguments.out):
        raise VLMIGError("--prompts fills the store; it goes neither with a prompt nor with --out")
    many = arguments.report or arguments.shard or arguments.engine != "here"
    if arguments.prompt and many:
        raise VLMIGError(
            "--report, --shard and --engine are for many prompts; give them with --prompts"
        )
    if arguments.stats or arguments.mend or arguments.merge:
        _maintain_store(arguments)
    elif arguments.prompts:
        _imagine_many(arguments)
    elif arguments.prompt:
        _imagine_few(arguments)
    else:
        raise VLMIGError("nothing to imagine; give a prompt, or a file of them with --prompts")


def _imagine_few(arguments: argparse.Namespace) -> None:
    from vlmig.processing.texts import check_texts

    check_texts("prompts", arguments.prompt)
    imagination = options.load_imagination(arguments)
    k = arguments.k
    prompts = [imagination.prompts(prompt, k, arguments.policy) for prompt in arguments.prompt]
    written: Counter[str] = Counter()
    for visuals in imagination.visuals(prompts, k, arguments.seed, progress=True):
        similarities = " ".join(map(options.similarity, visuals.alignment.tolist()))
        diversity = f"diversity {visuals.diversity:.2f}"
        print(f"{visuals.prompt}: CLIP similarity {similarities}, {diversity}")
        if arguments.out:
            _write_images(visuals, arguments.out, written)
    print(f"{imagination.tally}; {len(imagination.store)} images in {imagination.store.path}")


def _write_images(visuals: Visuals, folder: Path, written: Counter[str]) -> None:
    """Write images under names that ``--imaginer folder:FOLDER`` looks for.

    Args:
        written: how many there are of each name; prompts may share one.
    """
    from vlmig.imagination.prompts import slug

    if any(item.image is None for item in visuals.items):
        raise VLMIGError(
            f"no images of {visuals.prompt!r} to write: the store keeps none, or the imaginer "
            "gives none; choose another --store"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for prompt, image in zip(visuals.prompts, visuals.images, strict=True):
            name = slug(prompt)
            image.save(folder / f"{name}_{written[name]}.png")
            written[name] += 1
    except OSError as error:
        raise VLMIGError(
            f"cannot write images to {folder}: {error}; choose a folder that can be written"
        ) from error


def _imagine_many(arguments: argparse.Namespace) -> None:
    """Fill the store for this process's shard of a list of prompts."""
    import time

    from vlmig.io.rows import read_prompts, shard_of
    from vlmig.runtime import rank_and_processes

    index, count = arguments.shard or rank_and_processes()
    prompts = read_prompts(arguments.prompts, arguments.column, arguments.split)
    prompts = shard_of(prompts, index, count)
    report = arguments.report
    if report and count > 1:
        report = report.with_name(f"{report.stem}_{index + 1}_of_{count}{report.suffix}")
    imagination = options.load_imagination(arguments)
    imagination.engine = options.open_engine(arguments)
    start = time.monotonic()
    imagination.fill(prompts, arguments.k, arguments.seed, arguments.policy, report)
    rate = imagination.tally.drawn / (time.monotonic() - start)
    name = f"part {index + 1} of {count}: " if count > 1 else ""
    print(f"{name}{len(prompts)} prompts, {imagination.tally}, {rate:.2f} images per second")


def _maintain_store(arguments: argparse.Namespace) -> None:
    """Merge, mend and describe a store."""
    from vlmig.imagination.mending import mend
    from vlmig.imagination.store import FeatureStore, default_store

    if arguments.mend:
        intact, damaged = mend(arguments.store or default_store())
        print(f"{intact} intact entries kept, {damaged} damaged ones removed; imagine them again")
    store = options.open_store(arguments)
    for other in arguments.merge or []:
        if not (other / store.path.name).is_file():
            raise VLMIGError(
                f"no store to merge at {other}; expected a folder that was given with --store"
            )
        print(f"{store.merge(FeatureStore(other))} images imported from {other}")
    print(f"{len(store)} images with features, {store.size() / 1e6:.1f} MB, in {store.path}")
    for row in store.statistics():
        identity = row.pop("identity").strip("{}").replace('"', "")
        size = row.pop("bytes") / max(1, row["entries"]) / 1e3
        counts = ", ".join(f"{value} {name}" for name, value in row.items())
        print(f"  {counts}, {size:.1f} kB each: {identity}")
