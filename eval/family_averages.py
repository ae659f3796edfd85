"""Table 4 of arXiv 2406.13621v2: means over visual commonsense (VC, ImageNetVC), commonsense (CR)
and reading (RC).

SQuAD and QuAC count with exact match, all others with accuracy.

The pocket model, which knows too little text for CR and RC:

    vlmig eval \
      --tasks imagenetvc_color,imagenetvc_shape,imagenetvc_material,imagenetvc_component,imagenetvc_others \
      --k 0,6 --out runs/vc
    python -m eval.family_averages runs/vc

The paper's sizes, here GPT-2 (RUN_OF_GPT2 is what a `vlmig train` recipe or `vlmig convert` wrote;
no adapter of that size exists yet; Gemma-2B, Vicuna-7B, Llama3-8B and Qwen-2.5-7B alike):

    vlmig eval --model RUN_OF_GPT2 \
      --tasks imagenetvc_color,imagenetvc_shape,imagenetvc_material,imagenetvc_component,imagenetvc_others,piqa,siqa,hellaswag,winogrande,arc,openbookqa,commonsenseqa,boolq,squad,quac \
      --k 0,6 --protocol reference --out runs/gpt2_families
    python -m eval.family_averages runs/gpt2_families
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from eval.results import Results
from eval.tables import SUBSETS, accuracy, columns, markdown, mean, percent, remarks, run

FAMILIES = {
    "VC": tuple(
        f"imagenetvc_{name}" for name in ("color", "shape", "material", "component", "others")
    ),
    "CR": ("piqa", "siqa", "hellaswag", "winogrande", "arc", "openbookqa", "commonsenseqa"),
    "RC": ("boolq", "squad", "quac"),
}
PUBLISHED = {
    "GPT-2": ("30.3", "46.1", "30.5", "35.6"),
    "LaMI GPT-2": ("38.6", "46.7", "32.2", "39.2"),
    "Gemma-2B": ("45.6", "63.8", "48.8", "52.7"),
    "LaMI Gemma-2B": ("50.1", "65.1", "48.9", "54.7"),
    "Vicuna-7B-v1.5": ("45.1", "57.6", "57.5", "53.4"),
    "InstructBLIP (Vicuna)": ("50.1", "52.6", "53.6", "52.1"),
    "LLaVA-NeXT (Vicuna)": ("50.3", "54.5", "54.7", "53.1"),
    "LaMI Vicuna-7B": ("48.6", "58.8", "57.9", "55.1"),
    "Llama3-8B": ("52.0", "72.0", "57.9", "60.6"),
    "LaMI Llama3-8B": ("55.0", "72.9", "58.0", "62.0"),
    "Llama3-8B-Instruct": ("53.0", "71.6", "59.2", "61.2"),
    "LLaVA-NeXT (Llama3-8B-I)": ("56.5", "70.8", "54.8", "60.7"),
    "LaMI Llama3-8B-I": ("55.6", "71.7", "60.9", "62.7"),
    "Qwen-2.5-7B-Instruct": ("54.8", "75.6", "63.0", "64.4"),
    "Qwen2-VL-7B-Instruct": ("59.0", "74.4", "57.9", "63.7"),
    "LaMI Qwen-2.5-7B-I": ("57.8", "75.9", "64.4", "66.0"),
}
NOTES = """\
(2 of 5): a mean over two of the family's five tasks, which is no family mean. Always giving the
most frequent answer is right for 36.3 % of VC, chance 19.4 %. Intervals of means take the tasks as
independent."""


def report(runs: Sequence[Results]) -> str:
    """Put our means under the published ones."""
    rows = [[name, *numbers] for name, numbers in PUBLISHED.items()]
    for own in runs:
        measured = columns([own], [task for family in FAMILIES.values() for task in family])
        for subset in SUBSETS:
            tasks = [
                [task for task in family if (task, subset) in measured]
                for family in FAMILIES.values()
            ]
            rows += _ours(own, subset, tasks) if any(tasks) else []
    table = markdown(["", *FAMILIES, "average"], rows)
    return f"{table}\n\n{remarks(runs, 'Table 4, family means')}\n{NOTES}"


def _ours(own: Results, subset: str, tasks: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Make a folder's rows about one subset; ``tasks`` are what was measured of each family."""
    name = f"{own.folder}, {subset}"
    for i, label in enumerate(("majority", "chance")):
        values = [[own.floor(task, subset)[i] for task in part] for part in tasks]
        yield [
            f"{name}: {label}",
            *(percent(np.mean(v)) if v and None not in v else "-" for v in values),
            "-",
        ]
    for label, k in (("text only", 0), (f"k={own.k}", own.k)):
        means = [
            mean([own.row(task, subset, k) for task in part]) if part else None for part in tasks
        ]
        sizes = [
            (len(part), len(family)) for part, family in zip(tasks, FAMILIES.values(), strict=True)
        ]
        cells = [
            accuracy(row) + (f" ({n} of {of})" if 0 < n < of else "")
            for row, (n, of) in zip(means, sizes, strict=True)
        ]
        whole = (
            percent(np.mean([row["acc"] for row in means]))
            if all(n == of for n, of in sizes)
            else "-"
        )
        yield [f"**{name}: {label}**", *cells, whole]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of results folders, one for each model."""
    return run(report, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
