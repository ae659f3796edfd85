"""``vlmig calibrate``: fit ``--k auto`` and ``--weights learned`` to a run, and keep generic
images."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s RUN --model FOLDER"
    text = "results folder of vlmig eval --k 0,10, on items that you do not evaluate on later"
    parser.add_argument("folder", type=Path, metavar="RUN", help=text)
    text = "folder of the checkpoint, whose config.json and generic images are written"
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help=text)
    text = "folder of stored features (default: VLMIG_STORE, or the user's cache)"
    parser.add_argument("--store", type=Path, metavar="FOLDER", help=text)


def run(arguments: argparse.Namespace) -> None:
    from vlmig.evaluation import fit_learned
    from vlmig.evaluation.fit_auto_k import calibrate
    from vlmig.evaluation.keep_generic import keep_generic
    from vlmig.imagination.store import FeatureStore

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
    fitted = fit_learned.calibrate(arguments.folder, arguments.model)
    print(
        f"learned weights: of {fitted.images} images {fitted.helped:.0%} help; told apart on other "
        f"objects with AUROC {fitted.auroc:.2f}, squared error {fitted.brier:.3f}"
    )
    count = keep_generic(arguments.folder, arguments.model, FeatureStore(arguments.store))
    print(f"{count} generic images kept for the rule contrast")
