"""Packages import one way, files make no cycle, and each big library has one home."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Downward order: a package may import those before it.
ORDER = [
    "errors",
    "runtime",
    "io",
    "vision",
    "models",
    "processing",
    "imagination",
    "predict",
    "data",
    "training",
    "evaluation",
    "report",
    "integrations",
    "pocket",
    "app",
    "cli",
]
# The pocket world's scenes are encoded by its generator's autoencoder.
HOMES = {
    "open_clip": {"vision"},
    "diffusers": {"imagination", "pocket"},
    "accelerate": {"training"},
    "lm_eval": {"integrations"},
    "bitsandbytes": {"models"},
    "peft": {"models"},
    "ray": {"imagination"},
}
FILES = sorted((ROOT / "vlmig").rglob("*.py"))
MODULES = {
    ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, also within functions and for type checking only."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            within = {f"{module}.{alias.name}" for alias in node.names} & MODULES.keys()
            names |= within or {module}
    return names


def package(path: Path) -> str:
    return path.relative_to(ROOT / "vlmig").parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", [f for f in FILES if package(f) != "__init__"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_flow_downward(path: Path) -> None:
    own = ORDER.index(package(path))
    for name in imported(path):
        top, *rest = name.split(".")
        if top == "vlmig" and rest:
            assert ORDER.index(rest[0]) <= own, f"{path.name} imports {name}, which lies above it"
        outside = ("eval", "tests", "tools", "notebooks", "benchmarks")
        assert top not in outside, f"{path.name} imports {name}"
        if top in HOMES:
            assert package(path) in HOMES[top], (
                f"{path.name} imports {top}, whose home is {HOMES[top]}"
            )


def test_files_make_no_cycle() -> None:
    graph = {name: imported(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError with the cycle


def test_the_order_is_the_folder() -> None:
    found = {package(f) for f in FILES} - {"__init__"}
    assert found == set(ORDER)


def test_every_file_has_a_docstring_and_moderate_size() -> None:
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what it is"
        assert path.read_text().count("\n") <= 350, f"{path} is longer than 350 lines"
