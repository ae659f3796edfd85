"""Print how large and how dense the package is: ``python -m tools.counts``; ``make proof`` ends
with it."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def main() -> None:
    """Print one figure a line."""
    files = {
        path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "vlmig").rglob("*.py"))
    }
    trees = {path: ast.parse(text) for path, text in files.items()}
    lines = [line for text in files.values() for line in text.splitlines()]
    print(f"files                                {len(files)}")
    print(f"lines                                {len(lines):,}")
    long = sum(len(line) > 100 for line in lines)
    print(f"lines over 100 columns               {long} ({long / len(lines):.1%})")
    length, where = longest_function(trees)
    print(f"longest function                     {length} lines ({where})")
    print(f"comprehensions per 100 lines of code {density(trees):.1f}")
    print(f"floors of imports between files      {floors(trees)}")


def longest_function(trees: dict[Path, ast.Module]) -> tuple[int, str]:
    """Return its lines, signature and docstring among them, and its name."""
    found = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS):
                name = f"{path.relative_to(ROOT)}:{node.name}"
                found.append(((node.end_lineno or node.lineno) - node.lineno + 1, name))
    return max(found)


def density(trees: dict[Path, ast.Module]) -> float:
    """Return comprehensions per 100 lines of functions; a docstring's lines do not count."""
    lines = comprehensions = 0
    for tree in trees.values():
        for node in top_functions(tree):
            lines += (node.end_lineno or node.lineno) - node.lineno + 1
            for inner in ast.walk(node):
                comprehensions += isinstance(inner, COMPREHENSIONS)
                if isinstance(inner, (*FUNCTIONS, ast.ClassDef)) and ast.get_docstring(inner):
                    text = inner.body[0]
                    lines -= (text.end_lineno or text.lineno) - text.lineno + 1
    return 100 * comprehensions / lines


def top_functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """List functions and methods, but none within another."""
    found = []
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        found += [member for member in members if isinstance(member, FUNCTIONS)]
    return found


def floors(trees: dict[Path, ast.Module]) -> str:
    """Return the length of the longest chain of imports between files, those within functions
    too."""
    modules = {}
    for path in trees:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        modules[name.removesuffix(".__init__")] = path
    graph = {name: imported(trees[path], modules) - {name} for name, path in modules.items()}
    height: dict[str, int] = {}
    try:
        for name in TopologicalSorter(graph).static_order():
            height[name] = 1 + max((height[below] for below in graph[name]), default=0)
    except CycleError as error:
        return f"a cycle: {' -> '.join(error.args[1])}"
    return f"{max(height.values())}, no cycle"


def imported(tree: ast.Module, modules: dict[str, Path]) -> set[str]:
    """Name the files of the package that a file imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in modules else node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & modules.keys()


if __name__ == "__main__":
    main()
