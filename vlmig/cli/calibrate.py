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
        f"text alone: images change one answer in ten at a probability of {rule.sure:.3f}; they "
        f"scatter by {rule.spread:.3f} nats; level {rule.level}, at most {rule.most} images"
    )
    least = min((risk for _, risk in rule.risks), default=None)
    if least is None or least > rule.level:
        known = "no level below 0.5" if least is None else f"no level below {least}"
        print(
            f"these items vouch for {known}: at {rule.level} --k auto draws all images; "
            "calibrate on more items"
        )
