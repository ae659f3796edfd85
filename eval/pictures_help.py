"""Which signal tells beforehand that images will help here: the AUROC of each, on the items that
images decide.

An entry counts where exactly one of text alone and the images alone (prob / uniform: the text has
no share) is right: 1 where the images are, 0 where they do harm. Entries that both get right, or
both wrong, say nothing about it. A signal that knows nothing has 0.5.

Objects that the language model was told nothing about, beside facts it was told:

    vlmig eval --tasks memory_color,pocket_color --subset covered --k 0,6 --out runs/untold
    vlmig eval --tasks pocket_known --k 0,6 --out runs/told
    python -m eval.pictures_help runs/untold runs/told
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch

from eval.results import Results, Samples
from eval.tables import Column, markdown, resampled, run, title
from vlmig.evaluation.metrics.rescoring import confidence
from vlmig.models.learned import FEATURES, Learned

RESAMPLES = 1000
SIGNALS = {
    "text alone is unsure (1 - its highest probability)": "unsure",
    "entropy of text alone": "text_entropy",
    "small lead of text alone's favorite": "text_margin",
    "CLIP similarity of pictures and prompt": "alignment",
    "agreement of the pictures": "agreement",
    "low entropy beside the pictures": "image_entropy",
    "contrast with a blank image": "contrast",
    "learned weight": "learned",
}
"""Names of the table's rows, and of what is computed."""
FALLING = ("text_margin", "image_entropy")
"""Signals of which less speaks for pictures."""


def report(runs: Sequence[Results]) -> str:
    """Put every signal's AUROC in a column for each task, covered items where they are told apart,
    and one for all together."""
    heads, parts = [], []
    for own in runs:
        for column in dict(resampled(own)).items():
            heads.append(title([own], column))
            parts.append(decided(own, column))
    if len(parts) > 1:
        heads.append("together")
        shared = set.intersection(*map(set, parts))
        parts.append({name: np.concatenate([part[name] for part in parts]) for name in shared})
    counts = [f"{int(p['helped'].sum())} / {int((~p['helped']).sum())}" for p in parts]
    rows = [["entries where pictures help / harm", *counts]]
    for name, signal in SIGNALS.items():
        rows.append([name, *(auroc(part, signal) for part in parts)])
    note = f"""\
AUROC with 95 % intervals over objects ({RESAMPLES} resamples); - where there is one kind of entry
only, or no such signal."""
    return f"{markdown([f'k={runs[0].k}', *heads], rows)}\n\n{note}"


def decided(own: Results, column: Column) -> dict[str, np.ndarray]:
    """Return of the entries that images decide whether they help, the object, and every signal."""
    samples = Samples(own, *column)
    rescorer = samples.rescorer
    described = rescorer.examples("none", samples.k)
    before = rescorer.right(samples.read(0, *samples.main))
    after = rescorer.right(samples.read(samples.k, "prob", "uniform"))
    inside = np.array(
        [column[1] == "all" or bool(samples.records[i]["covered"]) for i in rescorer.owner]
    )
    kept = inside & (before != after)
    features = described.features[kept].mean(1)
    signals = {name: features[:, i] for i, name in enumerate(FEATURES)}
    for name in FALLING:
        signals[name] = -signals[name]
    signals["unsure"] = 1 - confidence(samples.read(0, *samples.main))[kept]
    if (fitted := own.block.get("learned")) is not None:
        trust = Learned.of(fitted).trust(torch.from_numpy(described.features[kept]))
        signals["learned"] = trust.numpy().mean(1)
    names = np.array([rescorer.items[i].cluster for i in rescorer.owner])[kept]
    return {"helped": after[kept] > before[kept], "object": names, **signals}


def auroc(part: dict[str, np.ndarray], signal: str) -> str:
    """Format a signal's AUROC with its interval: percentiles over resampled objects."""
    helped, values = part["helped"], part.get(signal, np.array([np.nan]))
    if not helped.any() or helped.all() or np.isnan(values).any():
        return "-"
    names, index = np.unique(part["object"], return_inverse=True)
    entries = np.eye(len(names))[index]  # which object an entry is of, (entries, objects)
    above = (np.sign(values[helped][:, None] - values[~helped]) + 1) / 2  # ties count half
    ordered = entries[helped].T @ above @ entries[~helped]
    pairs = np.outer(entries[helped].sum(0), entries[~helped].sum(0))
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(names), (RESAMPLES, len(names)))
    times = np.stack([np.bincount(draw, minlength=len(names)) for draw in draws])
    with np.errstate(invalid="ignore"):  # a resample with one kind of entry only has no pairs
        shares = _summed(times, ordered) / _summed(times, pairs)
    low, high = np.nanquantile(shares, [0.025, 0.975])
    return f"{ordered.sum() / pairs.sum():.2f} [{low:.2f}, {high:.2f}]"


def _summed(times: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Sum a table over all pairs of objects, each counted as often as a resample has it.

    Args:
        times: how often each resample has each object, (resamples, objects).
        table: (objects, objects).

    Returns:
        (resamples,).
    """
    return ((times @ table) * times).sum(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of results folders."""
    return run(report, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
