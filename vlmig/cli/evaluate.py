"""``vlmig eval``, ``lm-eval``, ``calibrate`` and ``report``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vlmig.cli.options import POLICIES, each_pictures, load_model, numbers, words
from vlmig.errors import VLMIGError

if TYPE_CHECKING:
    pass


def report_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", type=Path, metavar="OUT", help="what vlmig eval --out wrote")
    sub.add_argument("other", type=Path, metavar="OTHER", nargs="?", help="a second run, to compare item by item")
    sub.add_argument("--out", type=Path, help="file of the page (default: OUT/report.html, or OUT/against_OTHER.html)")
    sub.add_argument("--store", type=Path, help="where the runs' pictures are")


def eval_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--tasks",
        type=words,
        required=True,
        help="comma-separated tasks: names, with @split for another split, or .yaml files",
    )
    text = "comma-separated numbers of pictures, or auto: as many as each answer needs (default: 0,6)"
    sub.add_argument("--k", type=each_pictures, default=[0, 6], help=text)
    sub.add_argument("--out", type=Path, required=True, help="folder for results.json, samples and report.html")
    sub.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("VLMIG_DATA"),
        help="folder of benchmark files (or VLMIG_DATA; default: download)",
    )
    sub.add_argument("--limit", type=int, help="only the first N items of each task")
    sub.add_argument(
        "--subset", choices=["all", "covered"], default="all", help="covered: only what the pocket world can draw"
    )
    sub.add_argument("--seed", type=numbers, default=[0], help="comma-separated imagination seeds")
    sub.add_argument("--mix", type=words, default=[], help="further mixing rules: prob, logit, geometric, evidence")
    sub.add_argument(
        "--weights", type=words, default=[], help="further weights: uniform, clip, doubled, entropy, learned"
    )
    sub.add_argument(
        "--control",
        type=words,
        help="what stands beside the pictures: none,blank,shuffled,caption,few-shot (default: all of them; with --k auto alone not shuffled)",
    )
    sub.add_argument(
        "--calibrated", action="store_true", help="divide by the LM's prediction for a content-free question"
    )
    sub.add_argument(
        "--policy",
        choices=["item", *POLICIES],
        help="what to imagine (default: the task's way, mostly item, what the item is about, once for all its wordings)",
    )


def evaluate(arguments: argparse.Namespace) -> None:
    """Measure tasks."""
    from vlmig.evaluation.evaluator import Evaluator
    from vlmig.evaluation.results import measure_tasks
    from vlmig.evaluation.settings import CONTROLS, Settings
    from vlmig.evaluation.tasks.download import fetch
    from vlmig.evaluation.tasks.yaml_task import choose_tasks
    from vlmig.imagination.store import default_store
    from vlmig.pocket import tasks as pocket
    from vlmig.predict.adaptive_k import MOST
    from vlmig.report import table, write_report

    tasks = choose_tasks(arguments.tasks, pocket.TASKS, arguments.protocol or "default")
    numbers = [k for k in arguments.k if isinstance(k, int)]
    whole = len(numbers) == len(arguments.k) or max(numbers, default=0) >= MOST
    settings = Settings(
        ks=arguments.k,
        mixes=arguments.mix,
        weights=arguments.weights,
        controls=arguments.control or [name for name in CONTROLS if whole or name != "shuffled"],
        seeds=arguments.seed,
        limit=arguments.limit,
        policy=arguments.policy,
        subset=arguments.subset,
        calibrated=arguments.calibrated,
    )
    shots = "few-shot" in settings.controls
    files = [file for task in tasks for file in task.files + (task.demonstration_files if shots else ())]
    data = Path(arguments.data) if arguments.data else fetch(files, default_store() / "data")
    for task in tasks:
        task.load(data)  # a missing file is said before hours of imagining
    model = load_model(arguments)
    covered = pocket.covered if pocket.draws_pocket_pictures(model) else None
    evaluator = Evaluator(model, settings, data, arguments.out, covered)
    results = measure_tasks(evaluator, tasks)
    if results:
        print(table(results))
        print(write_report(arguments.out, model.imagination.store))


def lm_eval(arguments: argparse.Namespace) -> None:
    """Run lm-eval's own command line."""
    try:
        from vlmig.integrations.launch import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise VLMIGError('lm-eval is not installed; install it with pip install "vlmig[lm-eval]"') from None
    run(arguments.arguments)


def calibrate(arguments: argparse.Namespace) -> None:
    """Set when ``--k auto`` imagines and stops."""
    from vlmig.evaluation.fit_auto_k import calibrate

    rule = calibrate(arguments.folder, arguments.model)
    print(
        f"text alone is enough from a probability of {rule.sure:.3f}; pictures scatter by {rule.spread:.3f} nats; "
        f"level {rule.level}, at most {rule.most} pictures"
    )


def report(arguments: argparse.Namespace) -> None:
    """Write the report of a results folder again, or of two compared."""
    from vlmig.evaluation.run_folder import read_run

    first, second = arguments.folder, arguments.other
    _ = read_run(first), second and read_run(second)  # what is wrong is said before torch is loaded
    from vlmig.imagination.store import FeatureStore, default_store
    from vlmig.report import compare_runs, write_report

    store = FeatureStore(arguments.store or default_store())
    if second is None:
        print(write_report(first, store, arguments.out))
    else:
        print(compare_runs(first, second, arguments.out or first / f"against_{second.resolve().name}.html", store))
