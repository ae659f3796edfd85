"""``vlmig calibrate``: fit ``--k auto`` to a run."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s RUN --model FOLDER"
    text = "results folder of vlmig eval --k 0,10, on items that you do not evaluate on later"
    parser.add_argument("folder", type=Path, metavar="RUN", help=text)
    text = "folder of the checkpoint, whose config.json is changed"
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help=text)


def run(arguments: argparse.Namespace) -> None:
    from vlmig.evaluation.fit_auto_k import calibrate

    rule = calibrate(arguments.folder, arguments.model)
    print(
        f"text alone is enough from a probability of {rule.sure:.3f}; images scatter by "
        f"{rule.spread:.3f} nats; level {rule.level}, at most {rule.most} images"
    )
