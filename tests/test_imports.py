"""Imports flow one way, and each big library has one home."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Downward order: a module may import those before it.
ORDER = [
    "errors",
    "timing",
    "threads",
    "quantisation",
    "low_rank",
    "answer",
    "config",
    "chat",
    "shown",
    "mixture",
    "scores",
    "stopping",
    "projector",
    "cache",
    "fusion",
    "vision",
    "asking",
    "imagination",
    "store",
    "visuals",
    "heads",
    "reading",
    "early_fusion",
    "reference",
    "checkpoint",
    "late_fusion",
    "modeling",
    "convert_llava",
    "convert",
    "sights",
    "scoring",
    "shared_prefix",
    "looker",
    "reader",
    "sequential",
    "predictor",
    "data",
    "training",
    "evaluation",
    "pocket",
    "integrations",
    "doctor",
    "argument_types",
    "commands",
    "data_commands",
    "cli",
]
# The pocket recipe builds generator and encoder from scratch, so it may know their libraries too.
HOMES = {
    "open_clip": {"vision", "pocket"},
    "diffusers": {"imagination", "pocket"},
    "accelerate": {"training"},
    "lm_eval": {"integrations"},
    "bitsandbytes": {"quantisation"},
    "peft": {"low_rank"},
}
FILES = sorted((ROOT / "vlmig").rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def room(path: Path) -> str:
    return path.relative_to(ROOT / "vlmig").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [f for f in FILES if room(f) != "__init__"], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_flow_downward(path: Path) -> None:
    own = ORDER.index(room(path))
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "vlmig" and len(parts) > 1:
            assert ORDER.index(parts[1]) <= own, f"{path.name} imports {name}, which lies above it"
        assert parts[0] not in ("eval", "tests", "notebooks", "benchmarks"), f"{path.name} imports {name}"
        if parts[0] in HOMES:
            assert room(path) in HOMES[parts[0]], f"{path.name} imports {parts[0]}, whose home is {HOMES[parts[0]]}"


def test_every_room_has_a_docstring_and_moderate_size() -> None:
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what it is"
        assert path.read_text().count("\n") <= 350, f"{path} is longer than 350 lines"
