"""What weights of 8 and 4 bits cost the pocket model: bytes, time, accuracy with and without
pictures, perplexity.

VLMIG_DATA=DIR python -m benchmarks.quantization --store STORE --out runs/quantization

The language model alone is quantized (bitsandbytes); adapter, generator and encoder stay whole, so
every row sees the same
pictures. ``memory_color`` counts objects that the pocket world can draw and the language model was
told no colour of, and is
left out without benchmark files; ``pocket_known`` asks for colours that it was told;
``pocket_text`` is plain text.
The time is that of the language model alone, whole texts of 64 tokens one by one.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from vlmig import VLMIG
from vlmig.evaluation.evaluator import Evaluator, Settings
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.run_folder import main_condition
from vlmig.evaluation.tasks.yaml_task import choose_tasks
from vlmig.models.quantization import config_for, weight_bytes
from vlmig.pocket import tasks as pocket

KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "8bit": {"kind": "8bit"},
    "4bit": {"kind": "4bit"},
    "4bit, the rest bfloat16": {"kind": "4bit", "dtype": "bfloat16"},
}
TASKS = {"memory_color": "covered", "pocket_known": "all", "pocket_text": "all"}
FILE = "valm/memory_color_data.csv"
TOKENS = 64


def load(store: Path | None, kind: str | None = None, **settings: Any) -> VLMIG:
    """Load the pocket model."""
    if kind:
        settings["quantization_config"] = config_for(kind)
    return VLMIG.from_pretrained("pocket", store=store, **settings)


@torch.inference_mode()
def seconds(model: VLMIG, times: int = 25) -> float:
    """Measure how long the language model reads a text, the median of several times."""
    ids = torch.randint(0, 3000, (1, TOKENS), generator=torch.Generator().manual_seed(0)).to(
        model.model.device
    )
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        model.model(ids)
        spent.append(time.perf_counter() - started)
    return median(spent)


def measure(model: VLMIG, arguments: argparse.Namespace, out: Path) -> list[str]:
    """Measure the tasks, and return a cell for each: text only, then with pictures."""
    cells = []
    for name, subset in TASKS.items():
        if name == "memory_color" and not (arguments.data / FILE).is_file():
            continue
        settings = Settings(ks=(0, arguments.k), subset=subset, limit=arguments.limit)
        evaluator = Evaluator(model, settings, arguments.data, out / name, pocket.covered)
        results = measure_tasks(evaluator, choose_tasks([name], pocket.TASKS, "default"))
        rows = [main_condition(results, name, subset, k) for k in (0, arguments.k)]
        cells += [cell(row) for row in rows if row]
    return cells


def cell(row: dict[str, Any]) -> str:
    """Format an accuracy in % with its interval, or a perplexity, and the number of items."""
    if row["acc"] is None:
        return f"{row['perplexity']:.4f} (n = {row['n']})"
    low, high = row["ci95"]
    return f"{100 * row['acc']:.1f} [{100 * low:.0f}, {100 * high:.0f}] (n = {row['n']})"


def main(argv: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("VLMIG_DATA", ".")), help="benchmark files"
    )
    parser.add_argument(
        "--store", type=Path, help="folder of imagined features (default: the user's cache)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/quantization"), help="where measurements are kept"
    )
    parser.add_argument("--k", type=int, default=6, help="pictures (default: 6)")
    parser.add_argument("--limit", type=int, help="only the first N items of each task")
    arguments = parser.parse_args(argv)
    tasks = [name for name in TASKS if name != "memory_color" or (arguments.data / FILE).is_file()]
    head = ["language model", "MB", f"ms / {TOKENS} tokens"]
    head += [f"{name}, {what}" for name in tasks for what in ("text only", f"k={arguments.k}")]
    lines = [head, ["---"] * len(head)]
    for name, settings in KINDS.items():
        model = load(arguments.store, **settings)
        size = f"{weight_bytes(model.model.language_model) / 1e6:.2f}"
        row = [name, size, f"{1000 * seconds(model):.1f}"]
        lines.append(
            row
            + measure(model, arguments, arguments.out / name.replace(", ", "_").replace(" ", "_"))
        )
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
