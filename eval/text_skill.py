"""What a model with eyes keeps of its LM's skill with texts: ARC, BoolQ, CommonsenseQA, PIQA, SIQA,
SQuAD 2.0 and plain text.

    python -m eval.text_skill --model smollm2 --data ../shared/data --limit 500 --out runs/skill

It runs

    vlmig eval --model smollm2 --limit 500 --k 0,6 --control none,blank,shuffled --out runs/skill \\
      --tasks arc@easy,arc@challenge,boolq,commonsenseqa,piqa,siqa,squad,squad_text

and lm-eval's own tasks on the same items, of our model and of lm-eval's model of the base LM
(eval/lm_eval_own.py), and prints the tables. The same command goes on where it stopped. --k 0 is
text alone, without a generator. --protocol reference measures as the published scripts do, without
controls and lm-eval; it wants an --out of its own. What is there is printed again by

    python -m eval.text_skill runs/skill
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.results import Results, Samples
from eval.tables import accuracy, difference, markdown, percent, said
from vlmig.cli.main import main as vlmig
from vlmig.evaluation.metrics.bootstrap import Clusters, Estimate
from vlmig.evaluation.run_folder import read_run
from vlmig.models.mixture import Mixture

TASKS = ("arc@easy", "arc@challenge", "boolq", "commonsenseqa", "piqa", "siqa", "squad")
TEXT = "squad_text"
NOTE = """\
Kept: of the items right by text alone, those still right with images. Trusted: images like enough
to their prompt to count at all. SQuAD: exact match of generated answers, which have no controls."""


def report(folder: Path) -> str:
    """Print the tables of a folder: ours, the perplexity of plain text, and lm-eval's."""
    own = Results(folder)
    parts = [f"{_main(own)}\n\n{NOTE}", _perplexity(own), _lm_eval(folder)]
    return "\n\n".join(part for part in parts if part)


def _main(own: Results) -> str:
    head = ["task", "n", "text only", f"**k={own.k}**", "shuffled", "blank"]
    head += [f"k={own.k} less text only", "kept", "trusted"]
    rows = []
    for task in own.tasks:
        alone, main = own.row(task, "all", 0), own.row(task, "all")
        if alone is None or main is None:
            continue
        controls = [own.row(task, "all", control=name) for name in ("shuffled", "blank")]
        cells = [accuracy(alone), f"**{accuracy(main)}**", *map(accuracy, controls)]
        cells += [difference(own.comparison(task, "all", "text-only")), percent(main.get("kept"))]
        rows.append([task, str(alone["n"]), *cells, percent(_trusted(own, task))])
    return markdown(head, rows)


def _trusted(own: Results, task: str) -> float | None:
    """Return the share of images that the mixture listens to; None where none are scored."""
    if not own.k or not own.has_distributions(task):
        return None
    samples = Samples(own, task, "all")
    mixture = Mixture.of(samples.rescorer.config, *samples.main)
    trusts = [scores.trust(own.k, mixture) for scores in samples.scores]
    return float((np.concatenate(trusts, None) > 0).mean())


def _perplexity(own: Results) -> str:
    """Compare the perplexity of plain text with images and without; 95 % intervals over pages."""
    if TEXT not in own.tasks or not own.k:
        return ""
    lines = list(read_run(own.folder).lines(TEXT))
    tokens = np.array([line["tokens"][0] for line in lines])
    losses = {k: np.array([line["loss"][str(k)][0] for line in lines]) for k in (0, own.k)}
    values = {k: np.exp(loss.sum() / tokens.sum()) for k, loss in losses.items()}
    # A mean over tokens: each paragraph counts by its length.
    more = (losses[own.k] - losses[0]) * len(tokens) / tokens.sum()
    found = Clusters([line["doc"]["cluster"] for line in lines]).estimate(more, -1.0)
    rise, low, high = (100 * np.expm1(v) for v in (found.mean, found.low, found.high))
    return (
        f"Perplexity of plain text ({TEXT}, n = {len(lines)}): {values[0]:.3f} by text alone, "
        f"{values[own.k]:.3f} with k={own.k} ({rise:+.2f} % [{low:+.2f}, {high:+.2f}])."
    )


def _lm_eval(folder: Path) -> str:
    """Compare with lm-eval's own model of the base LM, answer by answer."""
    rows: list[list[str]] = []
    k = 0
    for file in sorted((folder / "lm_eval").glob("*.json")):
        found = json.loads(file.read_text())
        k, answers, drawn = found["settings"]["k"], found["answers"], Clusters(found["clusters"])
        hf, text, seen = answers["hf"], answers["0"], answers[str(k)]
        for metric in hf["right"]:
            right = [np.array(own["right"][metric], dtype=float) for own in (hf, text, seen)]
            means = [drawn.estimate(values) for values in right]
            gain = drawn.estimate(right[2] - right[1], -1.0)
            before = right[1] > 0.5
            kept = float(right[2][before].mean()) if before.any() else None
            row = [f"{file.stem}, {metric}", str(len(right[0])), *map(_share, means)]
            row += [_points(gain), percent(kept)] if k else ["-", "-"]
            rows.append([*row, *_apart(hf, text, metric)])
    head = ["lm-eval's task", "n", "lm-eval's hf", "text only", f"**k={k}**"]
    head += [f"k={k} less text only", "kept", "answers unlike hf's", "greatest difference"]
    note = "The last two columns compare text alone: answers, and log-likelihoods in nats."
    return f"{markdown(head, rows)}\n\n{note}" if rows else ""


def _apart(hf: dict[str, Any], text: dict[str, Any], metric: str) -> list[str]:
    """Count the answers that differ, and find the greatest difference of log-likelihoods."""
    pairs = zip(hf["chosen"][metric], text["chosen"][metric], strict=True)
    different = str(sum(one != other for one, other in pairs))
    if hf["scores"] is None:
        return [different, "-"]
    pairs = zip(hf["scores"], text["scores"], strict=True)
    return [different, f"{max(np.abs(np.subtract(*pair)).max() for pair in pairs):.1e}"]


def _share(found: Estimate) -> str:
    return accuracy({"acc": found.mean, "ci95": [found.low, found.high]})


def _points(found: Estimate) -> str:
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def measure(given: argparse.Namespace) -> int:
    """Measure by ``vlmig eval`` and by lm-eval."""
    published = given.protocol == "reference"
    command = ["eval", "--model", given.model, "--tasks", ",".join([*TASKS, TEXT])]
    command += ["--limit", str(given.limit), "--k", f"0,{given.k}" if given.k else "0"]
    command += ["--control", "none,blank,shuffled" if given.k and not published else "none"]
    command += ["--protocol", given.protocol, "--data", str(given.data), "--out", str(given.out)]
    print(f"$ vlmig {' '.join(command)}\n", flush=True)
    status = vlmig(command)
    if status or published:
        return status
    from eval import lm_eval_own
    from vlmig import VLMIG

    model = VLMIG.from_pretrained(given.model)
    return said(
        lambda: lm_eval_own.measure(model, Path(given.data), given.limit, given.k, given.out)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, unless a folder is given, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", help="results to print; nothing is measured"
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--data", type=Path, default=os.environ.get("VLMIG_DATA", "../shared/data"))
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--k", type=int, default=6)
    parser.add_argument("--protocol", choices=["default", "reference"], default="default")
    parser.add_argument("--out", type=Path, default=Path("runs/skill"))
    given = parser.parse_args(argv)
    status = 0 if given.folder else measure(given)
    return status or said(lambda: print(report(given.folder or given.out)))


if __name__ == "__main__":
    sys.exit(main())
