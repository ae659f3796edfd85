"""Table 6 of arXiv 2406.13621v2: how k images' predictions become one. And what each rule keeps of
the text model's knowledge.

Every rule is computed from the samples, so that any results folder has them all, whatever --mix and
--weights it was measured with. "kept" is the share of text-only's right answers that stay right.

The pocket model, held-out objects beside facts that its language model was told:

    vlmig eval --tasks memory_color,pocket_known --k 0,6 --out runs/rules
    python -m eval.aggregation runs/rules

The paper's size (RUN_OF_GEMMA is what a `vlmig train` recipe or `vlmig convert` wrote; no adapter
of that size exists yet):

    vlmig eval --model RUN_OF_GEMMA --tasks imagenetvc_color,piqa,boolq --k 0,6 \
      --out runs/gemma_rules
    python -m eval.aggregation runs/gemma_rules
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy.special import log_softmax
from scipy.stats import entropy

from eval.results import Results, Samples
from eval.tables import accuracy, floors, markdown, percent, remarks, resampled, run, title
from vlmig.evaluation.settings import CROSS_FITTED
from vlmig.models.config import MIX_RULES

PUBLISHED = {
    "single picture": ("40.8", "76.1", "66.1"),
    "average: prob / uniform": ("44.6", "76.5", "66.5"),
    "max confidence": ("43.0", "76.1", "66.9"),
    "CLIP: prob / clip": ("45.4", "77.7", "67.0"),
}
NAMES = {("prob", "uniform"): "average: prob / uniform", ("prob", "clip"): "CLIP: prob / clip"}
WEIGHTS = ("uniform", "clip", "entropy")
NOTES = """\
Single picture: each of ours alone, without the text, on average. Max confidence: the image with the
lowest entropy. Bold: the main setting. Kept: the share of text-only's right answers that stay
right. Generate, then answer: the image most like its prompt alone, without the text. Contrast:
where the run was measured with --mix contrast. Learned: as the checkpoint has them; cross-fitted:
on other objects of the same task."""


def report(runs: Sequence[Results]) -> str:
    """Make a table for each folder."""
    published = "Table 6, accuracies of Gemma-2B, k = 6"
    return "\n\n".join(map(_table, runs)) + f"\n\n{remarks(runs, published)}\n{NOTES}"


def _table(own: Results) -> str:
    """Put every rule's accuracy and what it keeps beside the published numbers; of covered items
    where they are told apart."""
    shown = list(dict(resampled(own)).items())
    samples = [Samples(own, *column) for column in shown]
    measured = [rules(part) for part in samples]
    bold = {_named(*part.main) for part in samples}
    rows = []
    for name in dict.fromkeys(name for found in measured for name in found):
        cells = [
            cell for pair in zip(samples, measured, strict=True) for cell in _cells(*pair, name)
        ]
        rows.append(
            [f"**{name}**" if name in bold else name, *PUBLISHED.get(name, ("-",) * 3), *cells]
        )
    rows += [
        [name, *("-",) * 3, *(c for cell in cells for c in (cell, ""))]
        for name, *cells in floors([own], shown)
    ]
    heads = [head for column in shown for head in (title([own], column), "kept")]
    return markdown(
        [
            f"{own.folder}, k={own.k}",
            *(f"{t}, published" for t in ("Color", "PIQA", "BoolQ")),
            *heads,
        ],
        rows,
    )


def rules(samples: Samples) -> dict[str, np.ndarray]:
    """Say for every rule which entries are right."""
    k, scores = samples.k, samples.scores
    images = [log_softmax(score.per_image[:k], -1) for score in scores]
    alone = [samples.right([own[i] for own in images]) for i in range(k)]
    surest = [own[entropy(np.exp(own), axis=-1).argmin()] for own in images]
    found = {
        "text only": samples.right(samples.read(0, *samples.main)),
        "single picture": np.mean(alone, axis=0),
    }
    found |= {
        "max confidence": samples.right(surest),
        "vote": samples.right(samples.read(k, "vote", "uniform")),
        "generate, then answer": samples.right(samples.read(k, "best-image", "uniform")),
    }
    aligned = not any(np.isnan(score.alignment).any() for score in scores)
    fitted = ["learned"] if samples.rescorer.config.learned else []
    beside = [(mix, w) for mix in ("prob", samples.main[0]) for w in (*fitted, CROSS_FITTED)]
    generic = samples.rescorer.complete("generic")
    for mix, weights in dict.fromkeys([*product(MIX_RULES, WEIGHTS), *beside, samples.main]):
        if (aligned or weights not in ("clip", "doubled")) and (generic or mix != "contrast"):
            found[_named(mix, weights)] = samples.right(samples.read(k, mix, weights))
    return found


def _named(mix: str, weights: str) -> str:
    """Name a rule, as published where it is."""
    return NAMES.get((mix, weights), f"{mix} / {weights}")


def _cells(samples: Samples, found: dict[str, np.ndarray], name: str) -> tuple[str, str]:
    """Format a rule's accuracy and what it keeps."""
    if name not in found:
        return "-", "-"
    before = found["text only"] > 0
    kept = found[name][before].mean() if before.any() else None
    return accuracy(samples.estimate(found[name])), percent(kept)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of results folders."""
    return run(report, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
