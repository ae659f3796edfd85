"""``vlmig train``: run a recipe or print its plan."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from vlmig.cli.options import open_store, store_options
from vlmig.errors import VLMIGError


def train_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("recipe", type=Path, help="a YAML file, or the name of a recipe of the package, such as pocket")
    sub.add_argument("--out", type=Path, help="folder of the checkpoint; the same command goes on with a stopped run")
    sub.add_argument(
        "--data", default=os.environ.get("VLMIG_DATA"), help="folder of the recipe's sources (or VLMIG_DATA)"
    )
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe, e.g. stages.0.steps=100; may be given again",
    )
    sub.add_argument("--plan", action="store_true", help="only say what would run: parameters, memory, steps, storage")
    store_options(sub)


def train(arguments: argparse.Namespace) -> None:
    """Run a recipe's stages, or say what they would be."""
    from vlmig.training.recipe import find_recipe, load_recipe

    recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
    data = Path(arguments.data) if arguments.data else None
    if not arguments.plan and arguments.out is None:
        raise VLMIGError("vlmig train writes a checkpoint; expected --out DIR, or --plan to be told what would run")
    from vlmig.pocket.lessons import SOURCES

    if arguments.plan:
        from vlmig.training.plan import plan

        print(plan(recipe, open_store(arguments), data, SOURCES))
        return
    from vlmig.evaluation.probe import probe_of
    from vlmig.pocket.tasks import TASKS
    from vlmig.training import train

    probe = probe_of(recipe.probe.tasks, recipe.probe.k, recipe.probe.limit, data, TASKS)
    model = train(recipe, arguments.out, data=data, store=open_store(arguments), own=SOURCES, probe=probe)
    if os.environ.get("RANK", "0") != "0":
        return
    for stage in (model.config.training or {})["stages"]:
        measured = {name: value for name, value in stage["measured"].items() if isinstance(value, dict)}
        print(f"{stage['name']}: {stage['steps']} steps", *(f"{k} {v}" for k, v in measured.items()), sep="; ")
    print(f"wrote {arguments.out}; use it with --model {arguments.out}")
