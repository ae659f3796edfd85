"""Table 2 of arXiv 2406.13621v2: where images join the language model (GPT-2), and one image
against several.

    python -m eval.fusion_ablation --measure runs/ablation

trains early fusion (visual tokens among the words) and late fusion in the pocket world on the same
LM, data, samples and steps, with several seeds; early fusion with an LM that learns, as LLaVA and
VILA do, and for one seed with a frozen one. It measures every model with one image and with six,
beside controls, and what is left of its skill with text. It takes one to two hours on two cores
(the images themselves are imagined once), and the same command goes on where it stopped.

Folders that vlmig eval wrote stand beside the published numbers: base is text only, "multi" all
images. Intermediate fusion (as VaLM) is published numbers only: this package has no such model.

    vlmig eval --tasks memory_color,color_terms,object_shape,relative_size --k 0,1,6 \
      --out runs/objects
    vlmig eval --model runs/ablation/early_0 \
      --tasks memory_color,color_terms,object_shape,relative_size --k 0,1,6 --out runs/objects_early
    python -m eval.fusion_ablation runs/objects runs/objects_early

The paper's size (RUN_OF_GPT2 is what a `vlmig train` recipe or `vlmig convert` wrote; no adapter of
that size exists yet):

    vlmig eval --model RUN_OF_GPT2 --tasks memory_color,color_terms,object_shape,relative_size \
      --k 0,1,6 --out runs/gpt2
    python -m eval.fusion_ablation runs/gpt2
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval.object_commonsense import TASKS
from eval.results import Results, Row, Samples
from eval.tables import accuracy, columns, difference, floors, markdown, remarks, said, title
from vlmig.cli.main import main as vlmig
from vlmig.errors import VLMIGError
from vlmig.evaluation.metrics.bootstrap import Clusters, holm, verdict

PUBLISHED = {
    "base": ("32.4", "34.6", "44.5", "43.1"),
    "early": ("49.1", "45.3", "40.3", "70.1"),
    "early + multi": ("55.5", "52.1", "41.2", "75.5"),
    "intermediate": ("62.8", "59.3", "60.0", "77.2"),
    "intermediate + multi": ("69.7", "67.8", "63.0", "81.1"),
    "late": ("65.1", "62.2", "63.5", "80.2"),
    "late + multi": ("72.5", "69.2", "66.8", "85.5"),
}


SYSTEMS = {
    "late": ("configs/pocket.yaml", ""),
    "early": ("configs/pocket_early.yaml", ""),
    "early, LM frozen": ("configs/pocket_early.yaml", "stages.0.trains=[projector]"),
}
"""Recipe of each, and what is changed in it."""
ONE_SEED = ("early, LM frozen",)
"""Measured with the first seed only: a remark beside the comparison."""
MEASURED = {
    "covered": ("memory_color", "imagenetvc_color", "object_shape", "imagenetvc_shape"),
    "all": ("pocket_color", "pocket_shape", "pocket_known"),
}
"""Tasks by the subset of their items that is measured: pocket_known asks what the LM was told in
texts."""
TEXT = "pocket_text"
K = 6


def report(runs: Sequence[Results]) -> str:
    """Put ours beside the published number of each task and kind of fusion."""
    measured = columns(runs, TASKS)
    tasks = [task for task in TASKS if task in dict(measured)]
    ours = [(own, column) for column in measured for own in runs if own.row(*column, 0)]
    head = ["fusion", *(f"{task}, published" for task in tasks)]
    head += [f"{title([own], column)}, {own.folder}" for own, column in ours]
    rows = [
        [
            name,
            *(numbers[TASKS.index(task)] for task in tasks),
            *(_ours(name, *place) for place in ours),
        ]
        for name, numbers in PUBLISHED.items()
    ]
    for i, name in enumerate(("majority", "chance")):
        rows.append(
            [name, *("-" for _ in tasks), *(floors([own], [column])[i][1] for own, column in ours)]
        )
    notes = "Intermediate fusion: published numbers only, this package has no such model."
    return f"{markdown(head, rows)}\n\n{remarks(runs, 'Table 2, accuracies of GPT-2')}\n{notes}"


def _ours(fusion: str, own: Results, column: tuple[str, str]) -> str:
    """Format what stands for a kind of fusion in a folder."""
    kind = "early" if own.block.get("fusion") == "prefix" else "late"
    if fusion == kind:
        return accuracy(own.average(*column, 1))
    k = {"base": 0, f"{kind} + multi": own.k}.get(fusion)
    return "-" if k is None else accuracy(own.row(*column, k))


def measure(
    out: Path, seeds: Sequence[int], changes: Sequence[str], limit: int, others: Sequence[str]
) -> None:
    """Train and measure every system with every seed, as far as that is not done.

    Args:
        changes: of all recipes alike: steps, batch.
        limit: most items of a task.
        others: options of both commands, such as a store.

    Raises:
        VLMIGError: one of the commands ended in an error.
    """
    for seed in seeds:
        for name, (recipe, change) in SYSTEMS.items():
            if seed not in seeds_of(name, seeds):
                continue
            model = out / folder(name, seed)
            given = [
                option
                for own in (f"seed={seed}", *changes, change)
                if own
                for option in ("--set", own)
            ]
            _run(["train", recipe, "--out", str(model), *given, *others])
            for subset, tasks in (*MEASURED.items(), ("text", (TEXT,))):
                asked = [
                    "--tasks",
                    ",".join(tasks),
                    "--k",
                    f"0,1,{K}",
                    "--control",
                    "none,shuffled,blank",
                ]
                asked += ["--subset", "covered"] if subset == "covered" else []
                asked += ["--limit", str(limit)] if subset != "text" else []
                _run(["eval", "--model", str(model), *asked, "--out", f"{model}_{subset}", *others])


def _run(command: list[str]) -> None:
    """Run one of our commands."""
    print(f"$ vlmig {' '.join(command)}", flush=True)
    if vlmig(command):
        raise VLMIGError(
            f"vlmig {command[0]} ended in the error above; mend it and run the same command again"
        )


def seeds_of(name: str, seeds: Sequence[int]) -> Sequence[int]:
    """Choose the seeds that a system is measured with."""
    return seeds[:1] if name in ONE_SEED else seeds


def folder(name: str, seed: int) -> str:
    """Name a system's folder."""
    return f"{name.replace(', LM frozen', '_frozen')}_{seed}"


class Seeds:
    """A system's runs with several seeds, measured alike.

    Args:
        out: where ``measure`` has put them.
    """

    def __init__(self, out: Path, name: str, seeds: Sequence[int]) -> None:
        self.runs = {
            subset: [
                Results(out / f"{folder(name, seed)}_{subset}") for seed in seeds_of(name, seeds)
            ]
            for subset in (*MEASURED, "text")
        }
        self._samples: dict[str, list[Samples]] = {}

    def samples(self, task: str, subset: str) -> list[Samples]:
        """Read a task's samples, once."""
        if task not in self._samples:
            self._samples[task] = [Samples(run, task, subset) for run in self.runs[subset]]
        return self._samples[task]

    def right(self, task: str, subset: str, k: int, control: str = "none") -> list[np.ndarray]:
        """Say of each seed's run which questions are right."""
        own = self.samples(task, subset)
        return [one.right(one.rescorer.rescore(k, *one.main, control)) for one in own]

    def accuracy(self, task: str, subset: str, k: int, control: str = "none") -> Row:
        """Average over seeds: the interval is over objects; ``range`` has the worst and the best
        seed."""
        right = self.right(task, subset, k, control)
        means = [float(one.mean()) for one in right]
        return {
            **self.samples(task, subset)[0].estimate(np.mean(right, 0)),
            "range": (min(means), max(means)),
        }

    def losses(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the held-out texts' losses in nats, averaged over seeds, and their numbers of
        tokens."""
        rows = [
            [
                json.loads(line)
                for line in (run.folder / f"samples_{TEXT}.jsonl").read_text().splitlines()
            ]
            for run in self.runs["text"]
        ]
        losses = np.mean([[row["loss"][str(k)][0] for row in own] for own in rows], 0)
        return losses, np.array([row["tokens"][0] for row in rows[0]])


def compare(out: Path, seeds: Sequence[int]) -> str:
    """Make the tables of what ``measure`` left."""
    systems = {name: Seeds(out, name, seeds) for name in SYSTEMS}
    tasks = [(task, subset) for subset, own in MEASURED.items() for task in own]
    frozen = systems["late"]  # its LM is the LM itself
    rows = [
        [
            "the LM itself",
            *(accuracy(frozen.accuracy(*task, 0)) for task in tasks),
            _perplexity(frozen, frozen, 0),
        ]
    ]
    for name, own in systems.items():
        for label, k, control in (
            (f"{name}: text only", 0, "none"),
            (name, 1, "none"),
            (f"**{name} + multi**", K, "none"),
            (f"{name} + multi, shuffled", K, "shuffled"),
        ):
            if (name, k) == ("late", 0):
                continue
            cells = [_cell(own.accuracy(*task, k, control)) for task in tasks]
            rows.append([label, *cells, "-" if control != "none" else _perplexity(own, frozen, k)])
    heads = [
        f"{task}, {subset} (n = {frozen.runs[subset][0].row(task, subset, 0)['n']})"
        for task, subset in tasks
    ]  # type: ignore[index]
    return (
        f"{markdown(['', *heads, f'{TEXT}, perplexity'], rows)}\n\n{_differences(systems, tasks)}"
    )


def _cell(row: Row) -> str:
    """Format an accuracy with its interval, and the worst and the best seed."""
    low, high = row["range"]
    return accuracy(row) + ("" if low == high else f", {100 * low:.1f} to {100 * high:.1f}")


def _perplexity(own: Seeds, base: Seeds, k: int) -> str:
    """Format a perplexity, and how much higher it is than the LM's own, with the interval over
    texts."""
    losses, tokens = own.losses(k)
    value = np.exp(losses.sum() / tokens.sum())
    if own is base and k == 0:
        return f"{value:.3f}"
    return f"{value:.3f} ({_ratio(losses - base.losses(0)[0], tokens)})"


def _ratio(difference_: np.ndarray, tokens: np.ndarray) -> str:
    """Format the change of a perplexity in %: texts are drawn whole."""
    drawn = Clusters(np.repeat(np.arange(len(tokens)), tokens))
    found = drawn.estimate(np.repeat(difference_ / tokens, tokens), least=-np.inf)
    return "{:+.1f} % [{:+.1f}, {:+.1f}]".format(
        *(100 * np.expm1(x) for x in (found.mean, found.low, found.high))
    )


def _differences(systems: dict[str, Seeds], tasks: Sequence[tuple[str, str]]) -> str:
    """Compare systems question by question, in points; verdicts are adjusted for all differences
    (Holm)."""
    wanted = (
        ("late + multi less early + multi", "late", K, "early", K),
        ("late + multi less early + multi, LM frozen", "late", K, "early, LM frozen", K),
        ("early + multi less early", "early", K, "early", 1),
        ("late + multi less late", "late", K, "late", 1),
        ("text only: early less the LM itself", "early", 0, "late", 0),
    )
    found: list[list[Row]] = []
    for _, a, first, b, second in wanted:
        row = []
        for task in tasks:
            gain = np.mean(systems[a].right(*task, first), 0) - np.mean(
                systems[b].right(*task, second), 0
            )
            own = systems[a].samples(*task)[0].estimate(gain, least=-1.0)
            row.append({**own, "delta": own["acc"]})
        found.append(row)
    flat = [one for row in found for one in row]
    for one, p in zip(flat, holm([one["p"] for one in flat]), strict=True):
        one["verdict"] = verdict(one["delta"], p)
    rows = [[wanted[i][0], *map(difference, row)] for i, row in enumerate(found)]
    return markdown(["points", *(task for task, _ in tasks)], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of results folders, or train, measure and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="*", help="what vlmig eval --out wrote")
    parser.add_argument(
        "--measure", type=Path, metavar="OUT", help="train and measure in the pocket world"
    )
    parser.add_argument("--seeds", default="0,1,2", help="of training (default: 0,1,2)")
    parser.add_argument("--steps", type=int, default=1000, help="of training (default: 1000)")
    parser.add_argument("--batch", type=int, default=32, help="samples per step (default: 32)")
    parser.add_argument(
        "--limit", type=int, default=120, help="most items of a task (default: 120)"
    )
    parser.add_argument("--data", help="folder of benchmark files (or VLMIG_DATA)")
    parser.add_argument("--store", help="folder of features")
    given = parser.parse_args(argv)
    if bool(given.folders) == (given.measure is not None):
        parser.error("got both or neither of folders and --measure; expected one of them")
    if given.folders:
        return said(lambda: print(report([Results(own) for own in given.folders])))
    seeds = [int(seed) for seed in given.seeds.split(",")]
    others = [
        o for name in ("data", "store") if (v := getattr(given, name)) for o in (f"--{name}", v)
    ]

    def work() -> None:
        changes = [f"stages.0.steps={given.steps}", f"stages.0.batch={given.batch}"]
        measure(given.measure, seeds, changes, given.limit, others)
        print(compare(given.measure, seeds))

    return said(work)


if __name__ == "__main__":
    sys.exit(main())
