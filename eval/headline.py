"""The tables of docs/results.md: accuracy with pictures beside text alone, one picture, controls,
baselines and their differences.

    vlmig eval --tasks memory_color,imagenetvc_color,pocket_color,pocket_known,pocket_text --k 0,1,6 --out runs/headline
    python -m eval.headline runs/headline

An adapter of another size (RUN is what a `vlmig train` recipe or `vlmig convert` wrote) is measured alike:

    vlmig eval --model RUN --tasks memory_color,color_terms,object_shape,imagenetvc_color,imagenetvc_shape --k 0,1,6 --out runs/other
    python -m eval.headline runs/other
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from eval.results import Results
from eval.tables import Column, accuracy, columns, difference, markdown, percent, run

OTHERS = ("text-only", "k=1", "shuffled", "blank", "caption", "few-shot", "vote", "clip", "zlavi")
OTHERS += ("best-image",)


def report(runs: Sequence[Results]) -> str:
    """Print the tables of each folder, under its name where there are several."""
    tables = (_main, _others, _shuffled, _differences, _perplexities)
    parts = [[str(own.folder), *(table(own) for table in tables)] for own in runs]
    return "\n\n".join(text for part in parts for text in part[len(runs) == 1 :] if text)


def _shown(own: Results) -> list[Column]:
    """List tasks and subsets, covered items first."""
    found = columns([own])
    return [(task, s) for task in dict(found) for s in ("covered", "all") if (task, s) in found]


def _main(own: Results) -> str:
    """Text only, one picture (any of those measured) and all, against other objects' pictures."""
    head = [
        "task",
        "n",
        "majority",
        "text only",
        "k=1",
        f"**k={own.k}**",
        "shuffled",
        f"balanced: text / k={own.k}",
    ]
    rows = []
    for column in _shown(own):
        alone, main = own.row(*column, 0), own.row(*column)
        cells = [accuracy(alone), accuracy(own.average(*column, 1)), f"**{accuracy(main)}**"]
        cells.append(accuracy(own.row(*column, control="shuffled")))
        balanced = f"{percent(alone['balanced_acc'])} / {percent(main['balanced_acc'])}"
        rows.append(
            [", ".join(column), str(alone["n"]), percent(alone["majority"]), *cells, balanced]
        )
    return markdown(head, rows)


def _others(own: Results) -> str:
    """Other ways to spend the effort: solved examples or the pictures' prompt as text; CLIP alone or beside the text; votes."""
    head = [
        "task",
        "few-shot",
        "caption",
        "CLIP alone",
        "Z-LaVI",
        "vote",
        "generate, then answer",
        f"**k={own.k}**",
        "visual gain",
    ]
    rows = []
    for column in _shown(own):
        cells = [own.row(*column, 0, control) for control in ("few-shot", "caption")]
        cells += [own.baseline(*column, name) for name in ("clip", "zlavi", "vote", "best-image")]
        gain = difference(own.comparison(*column, "shuffled"))
        rows.append(
            [", ".join(column), *map(accuracy, cells), f"**{accuracy(own.row(*column))}**", gain]
        )
    note = "Visual gain: less what other objects' pictures (shuffled) get. "
    note += "Generate, then answer: the picture most like its prompt alone."
    if any("cannot name" in cell for row in rows for cell in row):
        note += " Cannot name: the encoder's text side never read some of the candidates' words."
    return f"{markdown(head, rows)}\n\n{note}"


def _shuffled(own: Results) -> str:
    """Other objects' pictures: on average, and beside objects of the item's label and of another one."""
    rows = []
    for column in _shown(own):
        row = own.row(*column, control="shuffled")
        if row and row.get("donors"):
            share = percent(row.get("same_label_share"))
            apart = [percent(row.get(name)) for name in ("acc_same_label", "acc_other_label")]
            rows.append([", ".join(column), str(row["donors"]), accuracy(row), *apart, share])
    head = ["task", "other objects", "shuffled", "same label", "other label", "% same label"]
    return markdown(head, rows) if rows else ""


def _differences(own: Results) -> str:
    """The main setting less every other one, in points; verdicts are adjusted for all of them together (Holm)."""
    every = dict.fromkeys((c["task"], c["subset"]) for c in own.block["comparisons"])
    found = [column for column in every if column[0] not in own.tasks or column in columns([own])]
    names = [name for name in OTHERS if any(own.comparison(*column, name) for column in found)]
    rows = [
        [", ".join(column), *(difference(own.comparison(*column, n)) for n in names)]
        for column in found
    ]
    if not found:
        return ""
    note = (
        f"Verdicts are adjusted for {len(own.block['comparisons'])} differences (Holm): beside an interval without zero one may be tied. "
        "Finds: the smallest difference detected with 80 % power, by Holm's worst case. k=1: each picture by itself, on average."
    )
    return f"{markdown([f'points, k={own.k} less', *names], rows)}\n\n{note}"


def _perplexities(own: Results) -> str:
    """Perplexities of the tasks that are plain text."""
    found = [c for c in own.block["conditions"] if "perplexity" in c]
    return "\n".join(
        f"{c['task']}, k={c['k']}: perplexity {c['perplexity']:.4f} (n = {c['n']})" for c in found
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of results folders."""
    return run(report, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
