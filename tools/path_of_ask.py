"""Count the files and functions of vlmig that one warm ``ask`` passes: python -m tools.path_of_ask [k].

A change of file is a call from a function of one file into a function of another one. Comprehensions and generator
expressions belong to the function that they stand in.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import vlmig
from vlmig import VLMIG

PACKAGE = str(Path(vlmig.__file__).parent)
QUESTION, CHOICES = "What is the color of a banana?", ["yellow", "red", "green"]


class Path_:
    """What is passed, in the order of first calls."""

    def __init__(self) -> None:
        self.functions: dict[CodeType, int] = {}
        self.changes: list[tuple[str, str]] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call; given to ``sys.setprofile``."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        if code.co_name in ("<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>"):
            return
        if frame.f_lasti > 2 and code.co_flags & 0x20:
            return
        self.functions[code] = self.functions.get(code, 0) + 1
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(PACKAGE):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != code.co_filename:
            self.changes.append((caller.f_code.co_qualname, code.co_qualname))


def main() -> None:
    """Ask once to warm up, then once more, and print what the second one passes."""
    k: Any = sys.argv[1] if len(sys.argv) > 1 else 6
    k = int(k) if str(k).isdigit() else k
    with tempfile.TemporaryDirectory() as store:
        model = VLMIG.from_pretrained("pocket", store=store)
        model.ask(QUESTION, CHOICES, k)
        path = Path_()
        sys.setprofile(path)
        model.ask(QUESTION, CHOICES, k)
        sys.setprofile(None)
    files: dict[str, list[str]] = {}
    for code, count in path.functions.items():
        name = str(Path(code.co_filename).relative_to(PACKAGE))
        files.setdefault(name, []).append(code.co_qualname + (f" x{count}" if count > 1 else ""))
    for name, functions in files.items():
        print(f"{name}: {', '.join(functions)}")
    print(f"k={k}: {len(files)} files, {len(path.functions)} functions, {len(path.changes)} changes of file")


if __name__ == "__main__":
    main()
