"""Table 1 of arXiv 2406.13621v2, object commonsense: text only and with images, beside twelve
published systems.

The pocket model:

    vlmig eval --tasks memory_color,color_terms,object_shape,relative_size --k 0,1,3,6 \
      --out runs/objects
    python -m eval.object_commonsense runs/objects

The paper's sizes, GPT-2 and BERT with SDXL-turbo's images (RUN is what a `vlmig train` recipe or
`vlmig convert` wrote; no adapter of that size exists yet), once by our protocol and once by the
published scripts':

    vlmig eval --model RUN_OF_GPT2 --tasks memory_color,color_terms,object_shape,relative_size \
      --k 0,1,3,6,10 --out runs/gpt2
    vlmig eval --model RUN_OF_GPT2 --tasks memory_color,color_terms,object_shape,relative_size \
      --k 0,6 --protocol reference --out runs/gpt2_reference
    vlmig eval --model RUN_OF_BERT --tasks memory_color,color_terms,object_shape,relative_size \
      --k 0,1,3,6,10 --out runs/bert
    python -m eval.object_commonsense runs/gpt2 runs/gpt2_reference runs/bert
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from eval.results import Results
from eval.tables import accuracy, beside, columns, floors, markdown, remarks, run, title

TASKS = ("memory_color", "color_terms", "object_shape", "relative_size")
PUBLISHED = {
    "BERT": ("31.6", "30.7", "28.1", "38.1"),
    "BERT fine-tuned on the same text": ("33.9", "31.5", "21.5", "35.7"),
    "Vokenization (BERT)": ("14.2", "20.0", "43.2", "72.4"),
    "X-adapter (BERT)": ("64.1", "60.0", "-", "-"),
    "LaMI (BERT)": ("74.5", "72.5", "67.3", "78.4"),
    "GPT-2": ("32.4", "34.6", "44.5", "43.1"),
    "GPT-2 fine-tuned on the same text": ("33.3", "34.9", "39.3", "38.2"),
    "LIVE (BART)": ("49.6", "46.7", "41.5", "66.7"),
    "Z-LaVI (GPT-Neo-1.3B)": ("50.4", "49.2", "64.4", "76.8"),
    "VaLM, k=4": ("54.0", "52.7", "62.8", "85.0"),
    "VaLM, k=8": ("58.6", "50.2", "59.4", "62.4"),
    "LaMI (GPT-2)": ("72.5", "69.2", "66.8", "85.5"),
}
NOTES = """\
Published accuracies stand in a task's first column. Always "round" is right for 73.6 % of Object
Shape, above every published number. Published Relative Size is asked in one order, where "yes" is
always right; ours, unless by the reference protocol, in both."""


def report(runs: Sequence[Results]) -> str:
    """Put our rows under the published ones, a column for every task and subset measured."""
    shown = columns(runs, TASKS)
    rows = [
        [name, *beside(dict(zip(TASKS, numbers, strict=True)), shown)]
        for name, numbers in PUBLISHED.items()
    ]
    rows += floors(runs, shown)
    for own in runs:
        for label, k in (("text only", 0), (f"k={own.k}", own.k)):
            rows.append(
                [f"**{own.folder}, {label}**", *(accuracy(own.row(*column, k)) for column in shown)]
            )
    table = markdown(["", *(title(runs, column) for column in shown)], rows)
    return f"{table}\n\n{remarks(runs, 'Table 1, accuracies')}\n{NOTES}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of results folders, one for each model."""
    return run(report, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
