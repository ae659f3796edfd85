"""How often the intervals of accuracies hold the truth: the table of docs/evaluation.md.

    python -m eval.coverage

Items are right or wrong, or are means over wordings that share their object's difficulty: a beta
distribution whose spread between objects is a share ("alike") of the largest possible. Each run
draws its accuracy anew around the column's, by at most 0.35 in log-odds: at a single accuracy no
interval of a count can hold in exactly 95 % (of 20 answers at 5 %, none to two come 92.5 % of the
time, none to three 98.4 %). It takes about a minute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit

from eval.tables import markdown
from vlmig.evaluation.metrics.bootstrap import share_interval

ACCURACIES = (0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 0.95, 0.98)
OBJECTS = (20, 40, 62, 100, 200, 500)
KINDS = {
    "right or wrong": (1, 1.0),
    "5 wordings, 0.5 alike": (5, 0.5),
    "9 wordings, 0.7 alike": (9, 0.7),
}
"""Wordings of an object, and the share of the largest spread that lies between objects."""
AROUND = 0.35


def coverage(accuracy: float, objects: int, wordings: int, alike: float, runs: int = 2000) -> float:
    """Return how often the interval holds the true accuracy, in runs of objects with so many
    wordings."""
    rng, hits = np.random.default_rng(0), 0
    counts = np.full(objects, wordings)
    for _ in range(runs):
        truth = expit(logit(accuracy) + rng.uniform(-AROUND, AROUND))
        rates = np.full(objects, truth)
        if wordings > 1:
            size = (1 - alike) / alike
            rates = rng.beta(truth * size, (1 - truth) * size, objects)
        low, high = share_interval(rng.binomial(wordings, rates).astype(float), counts)
        hits += low <= truth <= high
    return hits / runs


def report(runs: int = 2000) -> str:
    """Print the coverage in %, by kind of item, number of objects and accuracy."""
    rows = []
    for name, kind in KINDS.items():
        for objects in OBJECTS:
            found = [coverage(accuracy, objects, *kind, runs) for accuracy in ACCURACIES]
            rows.append([name, str(objects), *(f"{100 * share:.1f}" for share in found)])
    return markdown(["items", "objects", *(f"{100 * p:g} %" for p in ACCURACIES)], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2000, help="runs of each cell (default: 2000)")
    print(report(parser.parse_args(argv).runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
