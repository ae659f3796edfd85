"""Table 3 of arXiv 2406.13621v2: does the same effort help without images? Published: best of N
texts, Gemma-2B.

Ours is an ensemble over an item's wordings: the mean of their normalized log-probabilities, which
is one answer for all of them. It costs as many readings of the language model as there are
wordings, where images cost one reading, a fusion layer's for each image, and the drawing; the
seconds were matched by the paper, not here. Nothing is measured anew: the samples have every
wording's distribution.

The pocket model:

    vlmig eval --tasks memory_color,object_shape,imagenetvc_color,imagenetvc_shape --k 0,6 \
      --out runs/wordings
    python -m eval.compute_matched runs/wordings

The paper's size (RUN_OF_GEMMA is what a `vlmig train` recipe or `vlmig convert` wrote; no adapter
of that size exists yet):

    vlmig eval --model RUN_OF_GEMMA \
      --tasks imagenetvc_color,imagenetvc_shape,imagenetvc_material,imagenetvc_component,imagenetvc_others \
      --k 0,6 --out runs/gemma_vc
    python -m eval.compute_matched runs/gemma_vc
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax

from eval.results import Results, Row, Samples
from eval.tables import (
    Column,
    accuracy,
    difference,
    floors,
    markdown,
    remarks,
    resampled,
    run,
    title,
)
from vlmig.evaluation.metrics.bootstrap import holm, verdict

PUBLISHED = {
    "text only": ("45.6", "63.8", "48.8"),
    "text only, ensemble (published: best of N, same runtime as k=6)": ("47.8", "64.8", "49.0"),
    "pictures": ("50.1", "65.1", "48.9"),
}
NONE = ("-", "-", "-")
NOTES = """\
Ours: what one wording gets on average, and the ensemble of all wordings; verdicts are adjusted for
this table's differences (Holm)."""


def report(runs: Sequence[Results]) -> str:
    """Make a table for each folder."""
    return (
        "\n\n".join(map(_table, runs))
        + f"\n\n{remarks(runs, 'Table 3, family means of Gemma-2B')}\n{NOTES}"
    )


def _table(own: Results) -> str:
    """Put ours beside the published means, a column for every task that has several wordings."""
    measured = {column: found for column in resampled(own) if (found := _measured(own, column))}
    judged = [row for found in measured.values() for row in found[3:]]
    for row, p in zip(judged, holm([row["p"] for row in judged]), strict=True):
        row["verdict"] = verdict(row["delta"], p)
    labels = [
        *PUBLISHED,
        "pictures − text-only ensemble",
        "pictures, ensemble − text-only ensemble",
    ]
    rows = [
        [
            name,
            *PUBLISHED.get(name, NONE),
            *((accuracy if i < 3 else difference)(f[i]) for f in measured.values()),
        ]
        for i, name in enumerate(labels)
    ]
    rows += [[name, *NONE, *cells] for name, *cells in floors([own], list(measured))]
    heads = [title([own], column) for column in measured]
    return markdown(
        [str(own.folder), "VC, published", "CR, published", "RC, published", *heads], rows
    )


def _measured(own: Results, column: Column) -> list[Row] | None:
    """Measure text only, its ensemble, images, and both differences; None where every item has one
    wording."""
    samples = Samples(own, *column)
    if len(samples.rescorer.owner) == len(samples.rescorer.items):
        return None
    text, pictures = samples.read(0, *samples.main), samples.read(samples.k, *samples.main)
    alone = samples.right(ensemble(samples, text))
    rows: list[Row] = [own.row(*column, 0), samples.estimate(alone), own.row(*column)]
    for found in (pictures, ensemble(samples, pictures)):
        gain = samples.estimate(samples.right(found) - alone, least=-1.0)
        rows.append({**gain, "delta": gain["acc"]})
    return rows


def ensemble(samples: Samples, found: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Give every wording of an item the mean of all its wordings' log-probabilities.

    Wordings that ask for something else, such as the opposite order of two things, are ensembles of
    their own.
    """
    asked = list(zip(samples.rescorer.owner, samples.rescorer.answers, strict=True))
    groups: dict[tuple[int, int], list[np.ndarray]] = {}
    for key, own in zip(asked, found, strict=True):
        groups.setdefault(key, []).append(log_softmax(own))
    means = {key: np.mean(group, axis=0) for key, group in groups.items()}
    return [means[key] for key in asked]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of results folders."""
    return run(report, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
