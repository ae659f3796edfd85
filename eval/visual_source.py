"""Table 5 of arXiv 2406.13621v2 and its appendix B: images drawn, retrieved, or replaced by a
text's embedding.

One results folder for each imaginer, all of one model.

The pocket model (GALLERY is a folder of images; `text` is refused beside an adapter that reads
patches, as the pocket model's does):

    vlmig eval --tasks memory_color --k 0,6 --out runs/drawn
    vlmig eval --tasks memory_color --k 0,6 --imaginer retrieval:GALLERY --out runs/retrieved
    vlmig eval --tasks memory_color --k 0,6 --imaginer blank --out runs/blank
    python -m eval.visual_source runs/drawn runs/retrieved runs/blank

The paper's size (RUN_OF_GEMMA and RUN_OF_GEMMA_POOLED are what `vlmig train` recipes or `vlmig
convert` wrote, the second with vision_features="pooled"; no adapter of that size exists yet):

    vlmig eval --model RUN_OF_GEMMA --tasks imagenetvc_color,memory_color,color_terms --k 0,6 \
      --out runs/drawn
    vlmig eval --model RUN_OF_GEMMA --tasks imagenetvc_color,memory_color,color_terms --k 0,6 \
      --imaginer retrieval:GALLERY --out runs/retrieved
    vlmig eval --model RUN_OF_GEMMA_POOLED --tasks imagenetvc_color,memory_color,color_terms \
      --k 0,6 --imaginer text --out runs/embedded
    python -m eval.visual_source runs/drawn runs/retrieved runs/embedded
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from eval.results import Results
from eval.tables import Column, accuracy, beside, columns, floors, markdown, remarks, run, title

HEAD = ("VC, published", "CR, published", "RC, published", "ms, published")
PUBLISHED = {
    "Gemma-2B: text only": ("45.6", "63.8", "48.8", "20"),
    "Gemma-2B: CLIP's text embedding of nouns": ("47.9", "64.7", "48.9", "58"),
    "Gemma-2B: generated, k=6": ("50.1", "65.1", "48.9", "389"),
}
RETRIEVED = {
    "GPT-2: retrieved (VaLM's retriever), appendix B": {
        "memory_color": "65.5",
        "color_terms": "62.8",
    },
    "GPT-2: generated, appendix B": {"memory_color": "72.5", "color_terms": "69.2"},
}


def report(runs: Sequence[Results]) -> str:
    """Put our sources under the published ones, a column for every task and subset measured."""
    shown = columns(runs)
    none = ["-"] * len(HEAD)
    rows = [[name, *numbers, *("-" for _ in shown)] for name, numbers in PUBLISHED.items()]
    rows += [[name, *none, *beside(numbers, shown)] for name, numbers in RETRIEVED.items()]
    rows += [[name, *none, *cells] for name, *cells in floors(runs, shown)]
    for own in runs:
        for label, k in (("text only", 0), (f"{_source(own)}, k={own.k}", own.k)):
            rows.append(
                [
                    f"**{own.folder}: {label}**",
                    *none,
                    *(accuracy(own.row(*column, k)) for column in shown),
                ]
            )
    table = markdown(["", *HEAD, *(title(runs, column) for column in shown)], rows)
    published = (
        "Table 5, family means of Gemma-2B and milliseconds per token, and appendix B, GPT-2"
    )
    return "\n".join([table, "", remarks(runs, published), *_differing(runs, shown)])


def _source(own: Results) -> str:
    """Say where a folder's images came from: the kind of imaginer and its name or digest."""
    kind, name = next(iter(own.block["identity"].items()))
    return f"{kind} {name}"


def _differing(runs: Sequence[Results], shown: Sequence[Column]) -> list[str]:
    """Warn where text alone does not agree: then the folders differ in more than the images."""
    texts = [{row["acc"] for own in runs if (row := own.row(*column, 0))} for column in shown]
    if all(len(found) == 1 for found in texts):
        return []
    return [
        "Text only differs between the folders: they differ in more than where the images come "
        "from."
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of results folders, one for each imaginer."""
    return run(report, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
