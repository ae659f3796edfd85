"""Accuracy of each wording of a task: does the answer depend on how it is asked?

    vlmig eval --tasks spatial_size --k 0,1,6 --control none,shuffled --out runs/sizes
    python -m eval.wordings runs/sizes

A wording is shown as the first item has it; where two things are asked about in both orders, the
orders are one wording. 95 % intervals over objects.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from eval.results import Results, Samples
from eval.tables import Column, accuracy, markdown, resampled, run, title
from vlmig.evaluation.metrics.bootstrap import Clusters
from vlmig.evaluation.tasks.items import Item


def report(runs: Sequence[Results]) -> str:
    """Print a table for each task and subset."""
    return "\n\n".join(_table(own, column) for own in runs for column in resampled(own))


def _table(own: Results, column: Column) -> str:
    samples = Samples(own, *column)
    rescorer, items = samples.rescorer, samples.rescorer.items
    right = {"text only": rescorer.right(samples.read(0, *samples.main))}
    right[f"k={own.k}"] = rescorer.right(samples.read(own.k, *samples.main))
    if rescorer.has("shuffled"):
        reads = []
        for donor in range(rescorer.donors):
            read = rescorer.rescore(own.k, *samples.main, "shuffled", donor)
            reads.append(rescorer.right(read))
        right["shuffled"] = np.mean(reads, axis=0)
    wording = np.concatenate([_wordings(item) for item in items])
    covered = np.array([column[1] == "all" or bool(r["covered"]) for r in samples.records])
    rows = []
    for number in np.unique(wording):
        chosen = (wording == number) & covered[rescorer.owner]
        clusters = Clusters([items[i].objects for i in rescorer.owner[chosen]])
        cells = []
        for values in right.values():
            found = clusters.estimate(values[chosen])
            cells.append(accuracy({"acc": found.mean, "ci95": [found.low, found.high]}))
        rows.append([items[0].questions[number].contexts[0], *cells])
    return markdown([title([own], column), *right], rows)


def _wordings(item: Item) -> np.ndarray:
    """Number an item's questions by their wording."""
    # The other order of a wording has the same letters.
    letters = [sorted(question.contexts[0].lower()) for question in item.questions]
    half = len(letters) // 2
    both_orders = bool(item.things) and letters[:half] == letters[half:]
    return np.arange(len(letters)) % (half if both_orders else len(letters))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of results folders."""
    return run(report, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
