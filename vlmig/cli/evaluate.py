"""``vlmig eval``: evaluate tasks and write the results with a report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmig.cli import options

if TYPE_CHECKING:
    from vlmig.evaluation.settings import Settings
    from vlmig.evaluation.tasks.items import Task

PLANNED = """\
Columns of numbers: the smallest difference in points that is called better or worse with 80 %
power, by Holm's worst case over all comparisons of the run, if differences between objects have a
standard deviation of 0.2 (typical between numbers of images), 0.45 (typical against text alone
and controls), or 1 (the most there can be)."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s --tasks TASK,... --out FOLDER [options]"
    _add_items(parser.add_argument_group("tasks"))
    _add_conditions(parser.add_argument_group("conditions"))
    text = "print what the run could find: sizes, and the smallest differences; measure nothing"
    parser.add_argument("--plan", action="store_true", help=text)
    options.add_language_model(options.add_model(parser))
    options.add_store(parser)
    options.add_engine(parser.add_argument_group("many machines"))


def _add_items(group: argparse._ArgumentGroup) -> None:
    text = "comma-separated task names, each with @SPLIT for another split, or task files (.yaml)"
    group.add_argument("--tasks", type=options.words, required=True, metavar="TASK,...", help=text)
    text = "folder for results.json, samples and report.html; run the command again to resume"
    group.add_argument("--out", type=options.new_folder, required=True, metavar="FOLDER", help=text)
    options.add_data(group, "folder of the benchmark files (default: VLMIG_DATA, or download)")
    text = "only N items of each task, drawn by a hash of the item"
    group.add_argument("--limit", type=int, metavar="N", help=text)
    text = "tell accuracy apart by these columns of the tasks' rows; the worst group is named"
    group.add_argument("--groups", type=options.words, default=[], metavar="COLUMN,...", help=text)
    text = "covered: only the items that the pocket model's image generator can draw"
    group.add_argument("--subset", choices=["all", "covered"], default="all", help=text)


def _add_conditions(group: argparse._ArgumentGroup) -> None:
    text = "comma-separated numbers of images; auto: as many as each answer needs (default: 0,6)"
    group.add_argument("--k", type=options.image_counts, default=[0, 6], metavar="K,...", help=text)
    text = "comma-separated seeds of the imagined images (default: 0)"
    group.add_argument("--seed", type=options.integers, default=[0], metavar="N,...", help=text)
    text = "further mixing rules: prob, logit, geometric, evidence, contrast"
    group.add_argument("--mix", type=options.words, default=[], metavar="RULE,...", help=text)
    text = "further image weights: uniform, clip, doubled, entropy, learned, cross-fitted"
    group.add_argument("--weights", type=options.words, default=[], metavar="RULE,...", help=text)
    text = (
        "controls: none,blank,shuffled,caption,few-shot "
        "(default: all of them; without shuffled if --k is only auto)"
    )
    group.add_argument("--control", type=options.words, metavar="CONTROL,...", help=text)
    text = "divide by the language model's prediction for a content-free question"
    group.add_argument("--calibrated", action="store_true", help=text)
    text = "say in samples and report what in each image moved the answer"
    group.add_argument("--why", action="store_true", help=text)
    text = (
        "what to imagine (default: the task's choice, mostly item: "
        "what the item is about, once for all its wordings)"
    )
    group.add_argument("--policy", choices=["item", *options.POLICIES], help=text)


def run(arguments: argparse.Namespace) -> None:
    from vlmig.evaluation.evaluator import Evaluator
    from vlmig.evaluation.results import measure_tasks
    from vlmig.evaluation.settings import CONTROLS, Settings
    from vlmig.evaluation.tasks.download import fetch
    from vlmig.evaluation.tasks.yaml_task import choose_tasks
    from vlmig.imagination.store import default_store
    from vlmig.pocket import tasks as pocket
    from vlmig.predict.adaptive_k import MOST
    from vlmig.report.agreement import agreement_table
    from vlmig.report.by_group import pair_lines, spread_lines
    from vlmig.report.finding import finding
    from vlmig.report.losses import loss_table
    from vlmig.report.run_page import write_report
    from vlmig.report.tables import table

    tasks = choose_tasks(
        arguments.tasks, pocket.TASKS, arguments.protocol or "default", arguments.groups
    )
    numbers = [k for k in arguments.k if isinstance(k, int)]
    # Shuffled images are another item's, which under auto alone may have too few.
    shuffles = len(numbers) == len(arguments.k) or max(numbers, default=0) >= MOST
    settings = Settings(
        ks=arguments.k,
        mixes=arguments.mix,
        weights=arguments.weights,
        controls=arguments.control or [c for c in CONTROLS if shuffles or c != "shuffled"],
        seeds=arguments.seed,
        limit=arguments.limit,
        policy=arguments.policy,
        subset=arguments.subset,
        calibrated=arguments.calibrated,
        why=arguments.why,
    )
    files: list[str] = []
    for task in tasks:
        files += task.files
        if "few-shot" in settings.controls:
            files += task.demonstration_files
    data = arguments.data or fetch(files, default_store() / "data")
    for task in tasks:
        task.load(data)  # reports a missing file before hours of imagining
    if arguments.plan:
        _print_plan(arguments, tasks, settings, data)
        return
    model = options.load_model(arguments)
    model.imagination.engine = options.open_engine(arguments)
    covered = pocket.covered if pocket.draws_pocket_pictures(model) else None
    evaluator = Evaluator(model, settings, data, arguments.out, covered)
    results = measure_tasks(evaluator, tasks)
    if results:
        print(f"{finding(results)}\n")
        print(table(results))
        for other in (agreement_table(results), loss_table(results)):
            if other:
                print(f"\n{other}\n")
        for line in [*spread_lines(results), *pair_lines(results)]:
            print(line)
        print(write_report(arguments.out, model.imagination.store))


def _print_plan(
    arguments: argparse.Namespace, tasks: Sequence[Task], settings: Settings, data: Path
) -> None:
    """Print the sizes of a run and what it could find; the model is not loaded."""
    from vlmig.evaluation.plan import plan
    from vlmig.models.checkpoint import EMBEDDED
    from vlmig.pocket import tasks as pocket
    from vlmig.report.text_table import text_table

    draws_pocket = arguments.model in EMBEDDED or settings.subset == "covered"
    rows = plan(tasks, settings, data, pocket.covered if draws_pocket else None)
    print(text_table(rows, "<<" + ">" * (len(rows[0]) - 2)))
    print(PLANNED)
