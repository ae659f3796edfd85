"""How time and memory grow with pictures, length of the text and batch.

python -m benchmarks.curves --size gpt2 --rounds 5 --plot docs/performance.png

Sides as in ``benchmarks.scoring``; each point is measured in turns with the same point of text
alone. The slope is that of a line
through all points of a curve, by least squares. ``benchmarks.growth`` has the number of items.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.scoring import SIZES, Bench
from benchmarks.side_by_side import in_turns, introduction, machine, peak_bytes

KS, LENGTHS, BATCHES = (1, 3, 10, 30, 100), (16, 64, 256, 1024, 4000), (1, 4, 16, 32)
SIDES = ("text", "default rule", "prob rule", "every prediction", "new pictures")
SET_BY = {
    "k": "rows of the fusion layer; under prob rows of the head, too; for new pictures the "
    "projector and their keys and values",
    "tokens": "the LM's layers; pictures add one row however long the text is",
    "batch": "the LM's layers and the head: rows that are asked",
}
"""What sets each slope."""
Point = dict[str, Any]


def sides(bench: Bench, k: int) -> dict[str, Callable[[], Any]]:
    """Return what is measured at one point, each of B texts with k pictures of its own."""
    features = bench.pictures(k)[1].expand(len(bench.ids), -1, -1, -1).clone()
    with torch.no_grad():
        states = bench.model.encode_with_blank(features)
    return {
        "text": bench.text,
        "default rule": lambda: bench.mixed(states, "evidence"),
        "prob rule": lambda: bench.mixed(states, "prob"),
        "every prediction": lambda: bench.all(states),
        "new pictures": lambda: bench.all(features),
    }


def curve(bench: Bench, name: str, values: Sequence[int], rounds: int) -> list[Point]:
    """Measure one curve: milliseconds and megabytes of each side at each value; print a line for
    each."""
    print(f"\n{name:<8}" + "".join(f"{side:>28}" for side in SIDES) + "   (ms, peak MB of tensors)")
    points = []
    for value in values:
        texts, tokens, k = (
            value if name == own else usual
            for own, usual in (("batch", 1), ("tokens", 20), ("k", 10))
        )
        bench.ask(texts, tokens)
        own = sides(bench, k)
        spent = in_turns(own, rounds)
        point = {side: [1000 * median(spent[side]), peak_bytes(own[side]) / 1e6] for side in own}
        points.append({name: value, **point})
        print(
            f"{value:<8}" + "".join(f"{ms:>18.1f}{mb:>10.1f}" for ms, mb in point.values()),
            flush=True,
        )
    x = [point[name] for point in points]
    slopes = {
        side: [float(np.polyfit(x, [point[side][i] for point in points], 1)[0]) for i in (0, 1)]
        for side in SIDES
    }
    print("slope   " + "".join(f"{ms:>18.3f}{mb:>10.4f}" for ms, mb in slopes.values()))
    print(f"set by: {SET_BY[name]}")
    return [*points, {"slope": slopes}]


def plot(told: dict[str, Any], path: Path) -> None:
    """Draw time over k and over the length of the text, relative to text alone."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for axis, name in zip(axes, ("k", "tokens"), strict=True):
        points = [point for point in told[name] if name in point]
        for side in SIDES[1:]:
            axis.plot(
                [p[name] for p in points],
                [p[side][0] / p["text"][0] for p in points],
                marker="o",
                label=side,
            )
        axis.set(
            xscale="log",
            xlabel={"k": "pictures", "tokens": "tokens of the prompt, k=10"}[name],
            ylabel="time / text alone",
        )
        axis.axhline(1, color="grey", linewidth=0.8)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", choices=SIZES, default="gpt2", help="of model and encoder (default: gpt2)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: 5)")
    parser.add_argument(
        "--curves", default="k,tokens,batch", help="which of them (default: k,tokens,batch)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every figure to a file"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the curves over k and length"
    )
    arguments = parser.parse_args(argv)
    told: dict[str, Any] = {"machine": machine()}
    print(introduction(told["machine"]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench = Bench(arguments.size, 20, device)
    print(f"{arguments.size}, {bench.dtype}; {arguments.rounds} rounds")
    every = {"k": KS, "tokens": LENGTHS, "batch": BATCHES}
    for name, values in every.items():
        if name not in arguments.curves.split(","):
            continue
        limit = bench.model.config.text_limit or max(values)
        told[name] = curve(
            bench, name, [v for v in values if name != "tokens" or v <= limit], arguments.rounds
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    if arguments.plot:
        plot(told, arguments.plot)


if __name__ == "__main__":
    main()
