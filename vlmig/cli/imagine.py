"""``vlmig imagine``: draw pictures for prompts, in bulk too, and look after the store."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vlmig.cli.ask import cosine
from vlmig.cli.options import POLICIES, load_imagination, open_store, shard
from vlmig.errors import VLMIGError

if TYPE_CHECKING:
    from vlmig.imagination.visuals import Visuals


def imagine_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("prompt", nargs="*")
    sub.add_argument("--k", type=int, default=6)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument(
        "--policy", choices=POLICIES[:3], default="question", help="what of a prompt to imagine (default: all)"
    )
    sub.add_argument("--out", type=Path, help="folder to write the pictures to as PNG")
    many = sub.add_argument_group("many prompts: resumes by itself, in parts under torchrun or with --shard")
    many.add_argument(
        "--prompts", help="file with a prompt on each line, .jsonl, .csv, or a dataset's folder or hub id"
    )
    many.add_argument("--column", default="prompt", help="field of .jsonl, .csv or dataset (default: prompt)")
    many.add_argument("--split", default="train", help="split of a dataset (default: train)")
    many.add_argument("--shard", type=shard, help="I/N: only part I of N of the prompts (default: torchrun's rank)")
    many.add_argument(
        "--report", type=Path, help="write alignment, diversity and redraws of each prompt to a .jsonl file"
    )
    care = sub.add_argument_group("looking after the store")
    care.add_argument("--stats", action="store_true", help="only say what the store holds")
    care.add_argument(
        "--mend", action="store_true", help="check every entry, and write the store anew without damaged ones"
    )
    care.add_argument("--merge", type=Path, nargs="+", metavar="STORE", help="take over what other stores hold")


def imagine(arguments: argparse.Namespace) -> None:
    """Imagine a few prompts or many, or look after the store."""
    if arguments.k < 1:
        raise VLMIGError(f"--k {arguments.k}; expected at least one picture")
    if arguments.prompts and (arguments.prompt or arguments.out):
        raise VLMIGError("--prompts fills the store; it goes neither with a prompt nor with --out")
    if arguments.prompt and (arguments.report or arguments.shard):
        raise VLMIGError("--report and --shard are for many prompts; give them with --prompts")
    if arguments.stats or arguments.mend or arguments.merge:
        _look_after(arguments)
    elif arguments.prompts:
        _imagine_many(arguments)
    elif arguments.prompt:
        _imagine_few(arguments)
    else:
        raise VLMIGError("nothing to imagine; give a prompt, or a file of them with --prompts")


def _imagine_few(arguments: argparse.Namespace) -> None:
    imagination = load_imagination(arguments)
    prompts = [imagination.prompts(prompt, arguments.k, arguments.policy) for prompt in arguments.prompt]
    for visuals in imagination.visuals(prompts, arguments.k, arguments.seed, progress=True):
        alignment = " ".join(map(cosine, visuals.alignment.tolist()))
        print(f"{visuals.prompt}: alignment {alignment}, diversity {visuals.diversity:.2f}")
        if arguments.out:
            _write_pictures(visuals, arguments.out)
    print(f"{imagination.tally}; {len(imagination.store)} pictures in {imagination.store.path}")


def _write_pictures(visuals: Visuals, folder: Path) -> None:
    """Write pictures so that the imaginer ``folder:`` finds them."""
    from vlmig.imagination.prompts import slug

    if any(item.picture is None for item in visuals.items):
        raise VLMIGError(
            f"no pictures of {visuals.prompt!r} to write: the store keeps none, or the imaginer gives none; choose another --store"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for i, (prompt, picture) in enumerate(zip(visuals.prompts, visuals.images, strict=True)):
            picture.save(folder / f"{slug(prompt)}_{visuals.prompts[:i].count(prompt)}.png")
    except OSError as error:
        raise VLMIGError(f"cannot write pictures to {folder}: {error}; choose a folder that can be written") from error


def _imagine_many(arguments: argparse.Namespace) -> None:
    """Fill the store for a list of prompts: this process's part of them, under torchrun or with --shard."""
    import time

    from vlmig.io.rows import read_prompts, shard_of

    index, count = arguments.shard or (int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    prompts = shard_of(read_prompts(arguments.prompts, arguments.column, arguments.split), index, count)
    part = f"part {index + 1} of {count}: " if count > 1 else ""
    report = arguments.report
    if report and count > 1:
        report = report.with_name(f"{report.stem}_{index + 1}_of_{count}{report.suffix}")
    imagination = load_imagination(arguments)
    start = time.monotonic()
    imagination.fill(prompts, arguments.k, arguments.seed, arguments.policy, report)
    rate = imagination.tally.drawn / (time.monotonic() - start)
    print(f"{part}{len(prompts)} prompts, {imagination.tally}, {rate:.2f} pictures per second")


def _look_after(arguments: argparse.Namespace) -> None:
    """Merge, mend and describe a store."""
    from vlmig.imagination.store import FeatureStore

    store = open_store(arguments)
    for other in arguments.merge or []:
        if not (other / store.path.name).is_file():
            raise VLMIGError(f"no store to merge at {other}; expected a folder that --store named")
        print(f"{store.merge(FeatureStore(other))} pictures taken over from {other}")
    if arguments.mend:
        kept, damaged = store.mend()
        print(f"{kept} whole entries kept, {damaged} damaged ones left out; imagine again to make them")
    print(f"{len(store)} pictures with features, {store.size() / 1e6:.1f} MB, in {store.path}")
    for row in store.statistics():
        named = row.pop("identity").strip("{}").replace('"', "")
        counts = ", ".join(f"{value} {name}" for name, value in row.items() if name != "bytes")
        print(f"  {counts}, {row['bytes'] / max(1, row['entries']) / 1e3:.1f} kB each: {named}")
