"""The tools that make proof and the other environments print their figures with."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tools import fuzz, fuzz_inputs
from tools.counts import ROOT, density, floors, longest_function
from tools.moved import moved

LOCK = """\
# made by hand
numpy==1.0 ; python_full_version < '3' \\
    --hash=sha256:00
numpy==2.0 ; python_full_version >= '3' \\
    --hash=sha256:00
typing-extensions==4.0 \\
    --hash=sha256:00
absent==1.0
"""


def test_only_what_differs_from_this_pythons_lines_has_moved() -> None:
    installed = {"numpy": "2.0", "typing-extensions": "4.1", "unlocked": "1"}
    assert moved(LOCK, installed) == ["typing-extensions 4.1 (locked: 4.0)"]
    assert moved(LOCK, {"numpy": "1.0"}) == ["numpy 1.0 (locked: 2.0)"]


def trees(**texts: str) -> dict[Path, ast.Module]:
    return {ROOT / f"vlmig/{name}.py": ast.parse(text) for name, text in texts.items()}


def test_counts_are_those_of_small_files() -> None:
    first = trees(a="import vlmig.b", b="def f():\n    from vlmig import c\n", c="")
    assert floors(first) == "3, no cycle"
    assert floors(trees(a="import vlmig.b", b="import vlmig.a")).startswith("a cycle: ")
    text = 'def f(n):\n    """Two\n    lines."""\n    return [i for i in range(n)]\n'
    assert longest_function(trees(a=text)) == (4, "vlmig/a.py:f")
    assert density(trees(a=text)) == 50, "one in two lines, the docstring left out"


def traced(_: list[str]) -> int:
    raise KeyError("mix")


def verbose(_: list[str]) -> int:
    print("vlmig: x is wrong;\ncorrect it", file=sys.stderr)
    return 2


def twice(_: list[str]) -> int:
    print("vlmig: x is wrong\nvlmig: x is wrong", file=sys.stderr)
    return 2


@pytest.mark.parametrize(
    ("command", "wrong", "fault"),
    [
        (traced, False, "KeyError: 'mix'"),
        (verbose, False, "status 2 without one line"),
        (twice, False, "several lines"),
        (lambda _: 0, True, "taken with status 0, of a wrong type"),
        (lambda _: 0, False, ""),
    ],
)
def test_the_fuzzer_notices(
    command: object, wrong: bool, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "main", command)
    found = fuzz.fault_of(["ask"], wrong, fuzz.Tally())
    assert fault in found and bool(found) == bool(fault)


def test_another_value_at_a_place() -> None:
    good = {"a": [1, {"b": 2}], "c": "x"}
    assert list(fuzz_inputs.places(good)) == [("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("c",)]
    assert fuzz_inputs.replaced(good, ("a", 1, "b"), None) == {"a": [1, {"b": None}], "c": "x"}
    assert good["a"] == [1, {"b": 2}], "the good one stays"
    wrong = [fuzz_inputs.plainly_wrong(2, value) for value in (3, 2.5, None, "2", True, [2])]
    assert wrong == [False, False, False, True, True, True]
