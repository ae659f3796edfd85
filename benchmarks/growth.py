"""What grows with the number of items: memory, time, and what it takes to go on after a stop.

python -m benchmarks.growth --items 1000,10000,100000 --fast

Two long jobs, each with every number of items in a process of its own and a fresh folder, then
once more with one item added,
as after a stop: ``eval`` measures a task of one question, two candidates and k pictures;
``imagine`` fills the store. Times begin when
the model is loaded. Memory is the process's resident memory; what it had before the job stands
beside it.

Simulated: the pictures (noise by seed, no generator), the items (sentences with a number) and the
models: a GPT-2 of one layer
and a ViT of one layer without a text side, of random weights. ``--fast`` leaves out the models'
arithmetic too: the generator gives
embeddings in place of pictures, and scores are random. So an item costs little, and what is told
is what the package itself needs
for it. Nothing else is replaced: store, journal, statistics and samples are those of ``vlmig
eval``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, ViTConfig, ViTImageProcessor, ViTModel

from vlmig import VLMIG
from vlmig.evaluation.evaluator import Evaluator, Measured
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Item, Question, Task
from vlmig.imagination import Request
from vlmig.imagination.visuals import Visuals
from vlmig.models.checkpoint import POCKET
from vlmig.predict.scores import Scores

K = 2
SIDE = 32
"""Pixels of a picture's side."""
WIDTH = 32
"""Of both models."""
MIB = 1024**2
JOBS = {
    "eval": "Evaluator and measure_tasks over a task, as vlmig eval runs it",
    "imagine": "Imagination.fill over a list of texts, as vlmig imagine runs it",
}
Told = dict[str, Any]


class Noise:
    """Simulates a generator: noise that depends on the request's seed alone.

    Args:
        embeds: whether it gives embeddings in place of pictures.
    """

    seeded = True

    def __init__(self, embeds: bool) -> None:
        self.embeds = embeds

    def imagine(self, requests: Sequence[Request]) -> list[torch.Tensor]:
        """Give a picture, uint8 (3, H, W), or an embedding, (E,), for each request."""
        seeds = [torch.Generator().manual_seed(request.seed) for request in requests]
        if self.embeds:
            return [F.normalize(torch.randn(WIDTH, generator=seed), dim=-1) for seed in seeds]
        return [
            torch.randint(0, 256, (3, SIDE, SIDE), generator=seed, dtype=torch.uint8)
            for seed in seeds
        ]

    def fits(self, prompt: str) -> bool:
        """Every prompt is read whole."""
        return True

    def identity(self) -> dict[str, str | int | float]:
        """Name the kind."""
        return {"generator": "noise"}


def guessed(
    contexts: Sequence[str], choices: Sequence[Sequence[str]], visuals: Sequence[Visuals], **_: bool
) -> list[Scores]:
    """Simulate ``VLMIG.score``: log-probabilities that depend on the context alone."""
    made = []
    for context, own, seen in zip(contexts, choices, visuals, strict=True):
        random = np.random.default_rng(zlib.crc32(context.encode()))
        drawn = -random.random((len(seen.features) + 2, len(own)))
        made.append(Scores(drawn[0], drawn[2:], drawn[1], seen.alignment.numpy()))
    return made


class Things(Sequence[Item]):
    """Items that are made when they are asked for, so that a list of them is not what is
    measured."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        """Make one item, or a list of some."""
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(self.count))]
        if not 0 <= place < self.count:
            raise IndexError(place)
        name, choices = f"thing {place}", ("red", "blue")
        question = Question((f"The color of {name} is",), (" red", " blue"), place % 2)
        return Item(str(place), name, f"a {name}", choices, (question,))


class Watched(Evaluator):
    """An evaluator that notes when its first new item and all of them were measured, and the
    memory then."""

    def measure(self, task: Task) -> Measured:
        """Measure as ever."""
        put, self.first = self.journal.put, 0.0

        def noted(key: str, record: Told) -> None:
            put(key, record)
            self.first = self.first or time.perf_counter()

        self.journal.put = noted  # type: ignore[method-assign]
        measured = super().measure(task)
        self.done, self.resident = time.perf_counter(), resident()
        return measured


def resident(peak: bool = False) -> float:
    """Return this process's resident memory in MiB, now or at its peak (Linux)."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def build(folder: Path) -> Path:
    """Write the two small models and a checkpoint around them, with its gates open."""
    torch.manual_seed(0)
    language, vision = folder / "language_model", folder / "vision_encoder"
    shutil.copytree(
        POCKET / "language_model",
        language,
        ignore=shutil.ignore_patterns("*.safetensors", "config.json"),
    )
    shape = {"n_embd": WIDTH, "n_layer": 1, "n_head": 2, "n_positions": 64}
    words = json.loads((POCKET / "language_model" / "config.json").read_text())["vocab_size"]
    GPT2LMHeadModel(
        GPT2Config(vocab_size=words, bos_token_id=0, eos_token_id=0, **shape)
    ).save_pretrained(language)
    tower = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 2 * WIDTH,
    }
    ViTModel(ViTConfig(**tower, image_size=SIDE, patch_size=SIDE // 2)).save_pretrained(vision)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(vision)
    base = {
        "vision": str(vision),
        "generator": "blank",
        "vision_features": "pooled",
        "fusion_heads": 2,
    }
    model = VLMIG.from_base(str(language), store=folder / "unused", **base)
    for gate in (model.model.fusion.attention_gate, model.model.fusion.feed_gate):
        torch.nn.init.constant_(gate, 1.0)
    model.config.trained = True
    model.model.save_pretrained(folder / "model")
    return folder / "model"


def load(checkpoint: Path, store: Path, fast: bool) -> VLMIG:
    """Load the checkpoint, put noise in the place of its pictures, and use everything once."""
    torch.set_num_threads(1)
    model = VLMIG.from_pretrained(checkpoint, store=store)
    model.imagination.__dict__["imaginer"] = Noise(fast)
    if fast:
        model.score = guessed  # type: ignore[method-assign]
    model.ask("What is the color of a cat?", ["red", "blue"], k=K)
    return model


def evaluate(checkpoint: Path, folder: Path, count: int, fast: bool) -> Told:
    """Measure a task of so many items, or go on with it."""
    model = load(checkpoint, folder / "store", fast)
    before, start = resident(), time.perf_counter()
    evaluator = Watched(model, Settings(ks=(0, K)), folder, folder)
    measure_tasks(evaluator, [Task("things", lambda _: Things(count))])
    told = {"before": before, "resident": evaluator.resident, "peak": resident(peak=True)}
    told |= {"first": evaluator.first - start, "work": evaluator.done - start}
    return told | {"rest": time.perf_counter() - evaluator.done}


def imagine(checkpoint: Path, folder: Path, count: int, fast: bool) -> Told:
    """Fill a store with pictures of so many texts, or go on with it."""
    imagination = load(checkpoint, folder / "store", fast).imagination
    texts = [f"a thing {i}" for i in range(count)]
    put, first = imagination.store.put, []

    def noted(items: Any) -> None:
        put(items)
        first.append(time.perf_counter() - start) if not first else None

    imagination.store.put = noted  # type: ignore[method-assign]
    before, start = resident(), time.perf_counter()
    imagination.fill(texts, K)
    work = time.perf_counter() - start
    told = {"before": before, "resident": resident(), "peak": resident(peak=True)}
    return told | {"first": first[0], "work": work, "rest": 0.0}


def run(job: str, checkpoint: Path, folder: Path, count: int, fast: bool) -> Told:
    """Run a job in this process."""
    return (evaluate if job == "eval" else imagine)(checkpoint, folder, count, fast)


def alone(job: str, checkpoint: Path, folder: Path, count: int, fast: bool) -> Told:
    """Run a job in a process of its own, so that its memory is its own too."""
    asked = [
        sys.executable,
        "-m",
        "benchmarks.growth",
        "--alone",
        job,
        str(checkpoint),
        str(folder),
        str(count),
    ]
    asked += ["--fast"] if fast else []
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        asked, env=quiet, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def slopes(counts: Sequence[int], rows: Sequence[Told]) -> Told:
    """Fit how each column grows: times as a power of the number of items, memory in bytes per
    item."""
    if len(set(counts)) < 2:
        return {}
    fits: Told = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name.endswith("MiB"):
            fits[name] = f"{np.polyfit(counts, np.array(values) * MIB, 1)[0]:.0f} B/item"
        elif min(values) > 0:
            fits[name] = f"n^{np.polyfit(np.log(counts), np.log(values), 1)[0]:.2f}"
    return fits


def grow(job: str, checkpoint: Path, counts: Sequence[int], fast: bool) -> list[Told]:
    """Run a job with each number of items, and once more with one item added; print the table and
    return its rows."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            whole = alone(job, checkpoint, Path(folder), count, fast)
            again = alone(job, checkpoint, Path(folder), count + 1, fast)
        row = {
            "work, s": whole["work"],
            "ms/item": 1000 * whole["work"] / count,
            "statistics, s": whole["rest"],
        }
        row |= {
            "before, MiB": whole["before"],
            "resident, MiB": whole["resident"],
            "peak, MiB": whole["peak"],
        }
        row |= {"resume, s": again["first"], "resumed peak, MiB": again["peak"]}
        if not rows:
            print(line("items", {name: name for name in row}))
        rows.append(row)
        print(line(str(count), {name: f"{value:.2f}" for name, value in row.items()}), flush=True)
    fits = slopes(counts, rows)
    print(line("slope", {name: fits.get(name, "") for name in rows[0]}))
    return rows


def line(head: str, cells: dict[str, str]) -> str:
    """Put cells below their columns' names."""
    return f"{head:>9}" + "".join(
        f"{cell:>{max(len(name), 9) + 2}}" for name, cell in cells.items()
    )


def items(counts: Sequence[int], fast: bool, jobs: Sequence[str] = tuple(JOBS)) -> None:
    """Print how jobs grow with the number of items."""
    models = (
        "embeddings in place of pictures, random scores"
        if fast
        else "a GPT-2 and a ViT of one layer"
    )
    print(f"simulated: noise in place of a generator, made items, {models}; real: all else")
    print(
        f"one question of two candidates, k={K}; one thread; load of the machine before: "
        f"{os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = build(Path(folder))
        for job in jobs:
            print(f"\n{job}: {JOBS[job]}")
            grow(job, checkpoint, counts, fast)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", help="numbers of items, such as 1000,10000,100000")
    parser.add_argument("--fast", action="store_true", help="leave out the models' arithmetic too")
    parser.add_argument("--job", choices=JOBS, help="only one of the jobs")
    # A job, the checkpoint, a folder and a number of items: what ``alone`` runs.
    parser.add_argument("--alone", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.alone:
        job, checkpoint, folder, count = arguments.alone
        print(json.dumps(run(job, Path(checkpoint), Path(folder), int(count), arguments.fast)))
    elif arguments.items:
        jobs = [arguments.job] if arguments.job else list(JOBS)
        items([int(count) for count in arguments.items.split(",")], arguments.fast, jobs)
    else:
        parser.error("nothing to measure; give --items")


if __name__ == "__main__":
    main()
