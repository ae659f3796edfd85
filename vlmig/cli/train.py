"""``vlmig train``: run a recipe or print its plan."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmig.cli.options import (
    add_data,
    add_engine,
    add_store,
    new_folder,
    open_engine,
    open_store,
)
from vlmig.errors import VLMIGError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s RECIPE --out FOLDER [options]"
    text = "a YAML file, or the name of a recipe in the package, such as pocket"
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help=text)
    text = "folder of the new checkpoint; run the command again to resume"
    parser.add_argument("--out", type=new_folder, metavar="FOLDER", help=text)
    add_data(parser, "folder of the recipe's training data (default: VLMIG_DATA)")
    text = "change a value of the recipe, e.g. stages.0.steps=100; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    text = "print parameters, memory, steps and storage, and train nothing"
    parser.add_argument("--plan", action="store_true", help=text)
    add_store(parser)
    add_engine(parser.add_argument_group("features on many machines"))


def run(arguments: argparse.Namespace) -> None:
    from vlmig.training.recipe import find_recipe, load_recipe

    recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
    if not arguments.plan and arguments.out is None:
        raise VLMIGError(
            "vlmig train writes a checkpoint; "
            "expected --out FOLDER, or --plan to see what would run"
        )
    from vlmig.pocket.lessons import SOURCES
    from vlmig.runtime import rank_and_processes

    rank, _ = rank_and_processes()
    data, store = arguments.data, open_store(arguments)
    if arguments.plan:
        from vlmig.training.plan import plan

        print(plan(recipe, store, data, SOURCES))
        return
    from vlmig.evaluation.probe import probe_of
    from vlmig.pocket.tasks import TASKS
    from vlmig.training import train

    probe = probe_of(recipe.probe.tasks, recipe.probe.k, recipe.probe.limit, data, TASKS)
    engine = open_engine(arguments)
    model = train(
        recipe, arguments.out, data=data, store=store, own=SOURCES, probe=probe, engine=engine
    )
    if rank > 0:
        return
    for stage in (model.config.training or {})["stages"]:
        facts = [stage["name"] + f": {stage['steps']} steps"]
        for name, value in stage["measured"].items():
            if isinstance(value, dict):
                facts.append(f"{name} {value}")
        print("; ".join(facts))
    print(f"wrote {arguments.out}; use it with --model {arguments.out}")
