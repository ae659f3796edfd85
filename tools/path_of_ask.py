"""Count the files and functions that one warm ``ask`` passes: python -m tools.path_of_ask [k].

A change of file is a call from a function of one file of vlmig to a function of another one.
Comprehensions belong to the function that they are in.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import vlmig
from vlmig import VLMIG

PACKAGE = str(Path(vlmig.__file__).parent)
QUESTION, CHOICES = "What is the color of a banana?", ["yellow", "red", "green"]
COMPREHENSIONS = ("<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>")
GENERATOR = 0x20
"""Flag of a generator's code, which is entered again for each value."""


class Recorder:
    """Counts calls; an instance is given to ``sys.setprofile``."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        """By (file, function), in the order of the first calls."""
        self.changes = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Count a call of a function of the package."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        resumed = code.co_flags & GENERATOR and frame.f_lasti > 2
        if code.co_name in COMPREHENSIONS or resumed:
            return
        self.calls[str(Path(code.co_filename).relative_to(PACKAGE)), code.co_qualname] += 1
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(PACKAGE):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != code.co_filename:
            self.changes += 1


def main() -> None:
    """Ask once to warm up, then once more, and print the path of the second."""
    word = sys.argv[1] if len(sys.argv) > 1 else "6"
    k = int(word) if word.isdigit() else word
    recorder = Recorder()
    torch.set_num_threads(1)  # calls of other threads would not be counted
    with tempfile.TemporaryDirectory() as store:
        model = VLMIG.from_pretrained("pocket", store=store)
        model.ask(QUESTION, CHOICES, k)
        sys.setprofile(recorder)
        model.ask(QUESTION, CHOICES, k)
        sys.setprofile(None)
    files: dict[str, list[str]] = {}
    for (file, function), count in recorder.calls.items():
        files.setdefault(file, []).append(f"{function} x{count}" if count > 1 else function)
    for file, functions in files.items():
        print(f"{file}: {', '.join(functions)}")
    counted = f"{len(files)} files, {len(recorder.calls)} functions"
    print(f"k={k}: {counted}, {recorder.changes} changes of file")


if __name__ == "__main__":
    main()
