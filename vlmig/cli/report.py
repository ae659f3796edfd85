"""``vlmig report``: the HTML page of one run, of two compared, or of a training run."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmig.cli.options import add_data, new_file

TRAINING = Path("training") / "recipe.json"
"""What a folder has that ``vlmig train`` wrote."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s RUN [OTHER] [options]"
    text = "results folder that vlmig eval --out wrote, or the checkpoint's that vlmig train did"
    parser.add_argument("folder", type=Path, metavar="RUN", help=text)
    text = "a second results folder, to compare with the first item by item"
    parser.add_argument("other", type=Path, metavar="OTHER", nargs="?", help=text)
    text = "file to write (default: RUN/report.html, or RUN/against_OTHER.html)"
    parser.add_argument("--out", type=new_file, metavar="FILE", help=text)
    add_data(parser, "of a training run: folder of its data (default: VLMIG_DATA)")
    text = "feature store with the images of the runs (default: VLMIG_STORE, or the user's cache)"
    parser.add_argument("--store", type=Path, metavar="FOLDER", help=text)


def run(arguments: argparse.Namespace) -> None:
    from vlmig.evaluation.run_folder import read_run, reading

    first, second = arguments.folder, arguments.other
    if second is None and (first / TRAINING).is_file():
        from vlmig.pocket.lessons import SOURCES
        from vlmig.report.training import write_training

        print(write_training(first, arguments.out, data=arguments.data, own=SOURCES))
        return
    for folder in filter(None, (first, second)):
        read_run(folder)  # refuses a folder without results before torch is loaded
    from vlmig.imagination.store import FeatureStore
    from vlmig.report.comparison import compare_runs
    from vlmig.report.run_page import write_report

    store = FeatureStore(arguments.store)
    with reading(*filter(None, (first, second))):
        if second is None:
            print(write_report(first, store, arguments.out))
        else:
            page = arguments.out or first / f"against_{second.resolve().name}.html"
            print(compare_runs(first, second, page, store))
