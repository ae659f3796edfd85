"""What pictures keep of the answers that text alone has right, and what they add: the default rule and others beside it.

    vlmig eval --model smollm2 --tasks memory_color,imagenetvc_color --k 0,1,6 --out runs/smollm2
    python -m eval.kept runs/smollm2

An entry is a wording of an item. *kept* is the share of entries right with pictures among those right by text alone, *won* among
those wrong by text alone; 95 % intervals over objects.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from eval.results import Results, Samples
from eval.tables import Column, accuracy, columns, markdown, run, title
from vlmig.evaluation.metrics.bootstrap import Clusters

RULES = [(mix, weights) for mix in ("evidence", "logit", "prob") for weights in ("uniform", "clip")]
RULES += [("evidence", "entropy"), ("evidence", "learned")]


def report(runs: Sequence[Results]) -> str:
    """Print a table for each task, covered items where they are told apart."""
    found = columns(runs)
    chosen = [
        (task, subset)
        for task, subset in found
        if subset == "covered" or (task, "covered") not in found
    ]
    return "\n\n".join(_table(own, column) for own in runs for column in chosen if own.row(*column))


def _table(own: Results, column: Column) -> str:
    samples = Samples(own, *column)
    before = samples.right(samples.read(0, *samples.main)) > 0.5
    rows = [["text only", accuracy(own.row(*column, 0)), "", ""]]
    for rule in [samples.main, *(rule for rule in RULES if rule != samples.main)]:
        if rule[1] == "learned" and own.block.get("learned") is None:
            continue
        after = samples.right(samples.read(samples.k, *rule))
        name = f"**{'/'.join(rule)}**" if rule == samples.main else "/".join(rule)
        shares = [_share(after, samples.clusters, among) for among in (before, ~before)]
        rows.append([name, accuracy(samples.estimate(after)), *shares])
    head = [f"{title([own], column)}, k={samples.k}", "accuracy", "kept", "won"]
    return markdown(head, rows)


def _share(right: np.ndarray, clusters: np.ndarray, among: np.ndarray) -> str:
    """Format the share that is right of some entries."""
    if not among.any():
        return "-"
    found = Clusters(clusters[among]).estimate(right[among], 0.0)
    return accuracy({"acc": found.mean, "ci95": [found.low, found.high]})


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of results folders."""
    return run(report, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
