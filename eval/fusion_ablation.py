"""Table 2 of arXiv 2406.13621v2: where pictures join the language model (GPT-2), and one picture against several.

Ours: base is text only, late one picture, late + multi all. Early fusion (as LIVE) and intermediate fusion (as VaLM) are published
numbers only for now: this package has no such models yet. Several folders stand beside each other, such as one for each kind of
fusion layer.

The pocket model:

    vlmig eval --tasks memory_color,color_terms,object_shape,relative_size --k 0,1,6 --out runs/objects
    vlmig eval --model runs/decoder_layer --tasks memory_color,color_terms,object_shape,relative_size --k 0,1,6 --out runs/objects_decoder_layer
    python -m eval.fusion_ablation runs/objects runs/objects_decoder_layer

The paper's size (RUN_OF_GPT2 is what a `vlmig train` recipe or `vlmig convert` wrote; no adapter of that size exists yet):

    vlmig eval --model RUN_OF_GPT2 --tasks memory_color,color_terms,object_shape,relative_size --k 0,1,6 --out runs/gpt2
    python -m eval.fusion_ablation runs/gpt2
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from eval.object_commonsense import TASKS
from eval.results import Results
from eval.tables import accuracy, columns, floors, markdown, remarks, run, title

PUBLISHED = {
    "base": ("32.4", "34.6", "44.5", "43.1"),
    "early": ("49.1", "45.3", "40.3", "70.1"),
    "early + multi": ("55.5", "52.1", "41.2", "75.5"),
    "intermediate": ("62.8", "59.3", "60.0", "77.2"),
    "intermediate + multi": ("69.7", "67.8", "63.0", "81.1"),
    "late": ("65.1", "62.2", "63.5", "80.2"),
    "late + multi": ("72.5", "69.2", "66.8", "85.5"),
}


def report(runs: Sequence[Results]) -> str:
    """Put ours beside the published number of each task and kind of fusion."""
    measured = columns(runs, TASKS)
    tasks = [task for task in TASKS if task in dict(measured)]
    ours = [(own, column) for column in measured for own in runs if own.row(*column, 0)]
    head = ["fusion", *(f"{task}, published" for task in tasks)]
    head += [f"{title([own], column)}, {own.folder}" for own, column in ours]
    rows = [
        [name, *(numbers[TASKS.index(task)] for task in tasks), *(_ours(name, *place) for place in ours)]
        for name, numbers in PUBLISHED.items()
    ]
    for i, name in enumerate(("majority", "chance")):
        rows.append([name, *("-" for _ in tasks), *(floors([own], [column])[i][1] for own, column in ours)])
    notes = "Early and intermediate fusion: published numbers only, this package has no such models yet."
    return f"{markdown(head, rows)}\n\n{remarks(runs, 'Table 2, accuracies of GPT-2')}\n{notes}"


def _ours(fusion: str, own: Results, column: tuple[str, str]) -> str:
    """Format what stands for a kind of fusion in a folder."""
    k = {"base": 0, "late": 1, "late + multi": own.k}.get(fusion)
    return "-" if k is None else accuracy(own.row(*column, k))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of results folders."""
    return run(report, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
