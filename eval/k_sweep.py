"""Figure 3 of arXiv 2406.13621v2: accuracy against the number of images.

Published, Gemma-2B, k = 1 to 10, mean of ImageNetVC Color, PIQA and BoolQ on an axis from 60 to 64:
it rises from k = 1, is useful at k = 3, saturates near k = 6 and stays flat to 10. Numbers were not
given. All k come from one pass over the largest: k images are any k of those (the mean over
subsets; results.json: curves), not the first k, which are one draw.

The pocket model:

    vlmig eval --tasks memory_color,imagenetvc_color,pocket_color --k 0,1,2,3,4,6,8,10 \
      --control none,shuffled --out runs/sweep
    python -m eval.k_sweep runs/sweep --png sweep.png

The paper's size (RUN_OF_GEMMA is what a `vlmig train` recipe or `vlmig convert` wrote; no adapter
of that size exists yet):

    vlmig eval --model RUN_OF_GEMMA --tasks imagenetvc_color,piqa,boolq --k 0,1,2,3,4,6,8,10 \
      --out runs/gemma_sweep
    python -m eval.k_sweep runs/gemma_sweep --png gemma_sweep.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from eval.results import Results
from eval.tables import Column, accuracy, columns, floors, markdown, mean, remarks, run, title

PUBLISHED = ("imagenetvc_color", "piqa", "boolq")
SHAPE = {1: "rises from here", 3: "useful", 6: "saturates", 10: "flat since 6"}


def report(runs: Sequence[Results], png: Path | None = None) -> str:
    """Make a table for each folder, and an image of all of them if asked for."""
    if png:
        draw(runs).savefig(png, dpi=120)
    return (
        "\n\n".join(map(_table, runs))
        + f"\n\n{remarks(runs, 'Figure 3, its shape in words, Gemma-2B')}"
    )


def every_k(own: Results) -> list[int]:
    """List the numbers of images measured, or averaged over subsets of the largest."""
    rows = [*own.block["conditions"], *own.block.get("curves", ())]
    return sorted({row["k"] for row in rows if isinstance(row["k"], int)})


def _table(own: Results) -> str:
    """Make a row for each k, with the published mean's tasks averaged where all of them are
    there."""
    shown = columns([own])
    whole = all((task, "all") in shown for task in PUBLISHED)
    rows = []
    for k in every_k(own):
        cells = [accuracy(own.average(*column, k)) for column in shown]
        published = [row for task in PUBLISHED if (row := own.average(task, "all", k))]
        complete = len(published) == len(PUBLISHED)
        average = [accuracy(mean(published) if complete else None)] if whole else []
        rows.append([f"{own.folder}, k={k}", SHAPE.get(k, ""), *cells, *average])
    rows += [[name, "", *cells, *["-"] * whole] for name, *cells in floors([own], shown)]
    head = [
        "",
        "published",
        *(title([own], column) for column in shown),
        *["mean of Color, PIQA, BoolQ"] * whole,
    ]
    return markdown(head, rows)


def draw(runs: Sequence[Results]) -> Figure:
    """Draw accuracy against k."""
    figure = Figure(figsize=(7, 4), layout="tight")
    axis = figure.subplots()
    for own in runs:
        for column in columns([own]):
            ks, shares, low, high = curve(own, column)
            color = axis.plot(
                ks, shares, marker="o", label=f"{own.folder}: {title([own], column)}"
            )[0].get_color()
            axis.fill_between(ks, low, high, color=color, alpha=0.12)
            axis.plot(*curve(own, column, "shuffled")[:2], "--", color=color, alpha=0.5)
    axis.set(
        xlabel="pictures (k)",
        ylabel="accuracy, %",
        title="bands: 95 % intervals; dashed: other objects' pictures",
    )
    axis.legend(fontsize=7)
    return figure


def curve(own: Results, column: Column, control: str = "none") -> np.ndarray:
    """Return every k, the accuracy there, and the lower and upper end of its interval, in %: (4,
    k)."""
    of_k = own.average if control == "none" else partial(own.row, control=control)
    rows = [row for k in every_k(own) if (row := of_k(*column, k))]
    shares = 100 * np.array([[row["acc"], *row["ci95"]] for row in rows]).reshape(-1, 3)
    return np.vstack([[row["k"] for row in rows], shares.T])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of results folders."""
    return run(report, __doc__, argv, png="a picture to draw, such as sweep.png")


if __name__ == "__main__":
    sys.exit(main())
