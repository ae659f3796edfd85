"""Draw docs/architecture.md's diagram: vlmig's packages as boxes, their imports as arrows.

python -m tools.rooms docs/rooms.png

A package stands one row above everything it imports. An arrow that two others already imply is left
out (transitive reduction); errors, runtime and io, which nearly everything imports, are one bar.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parents[1]
BASE = ("errors", "runtime", "io")
CAPTIONS = {
    "vision": "image encoders",
    "models": "projector, fusion, mixture",
    "processing": "tokens, chat templates",
    "imagination": "text to images, image store",
    "predict": "VLMIG: ask, score, generate",
    "data": "training data",
    "training": "recipes and the loop",
    "evaluation": "tasks, conditions, statistics",
    "report": "HTML pages",
    "integrations": "lm-evaluation-harness",
    "pocket": "the embedded model",
    "app": "a page to ask and look",
    "cli": "the vlmig command",
}
COLUMNS = {"integrations": 0, "evaluation": 0, "predict": 0, "imagination": 0, "models": 0.5}
COLUMNS |= {"vision": 0.5, "pocket": 2, "training": 2}
"""Where a package stands in its row, so that no arrow crosses a box; the middle is 1."""
WIDTH, HEIGHT, ROW, COLUMN = 2.5, 0.8, 1.3, 3.2
SLANT = 0.36  # how far an arrow to the next column starts and ends beside the middle of a box


def imports(package: Path) -> set[str]:
    """List the packages of vlmig that a package imports, also inside functions."""
    files = [package] if package.is_file() else sorted(package.rglob("*.py"))
    names: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                if node.module == "vlmig":
                    names |= {alias.name for alias in node.names}
                elif node.module.startswith("vlmig."):
                    names.add(node.module.split(".")[1])
            elif isinstance(node, ast.Import):
                parts = [alias.name.split(".") for alias in node.names]
                names |= {part[1] for part in parts if part[0] == "vlmig" and len(part) > 1}
    return names


def read_graph() -> dict[str, set[str]]:
    """Read which package imports which, without the base that nearly all import."""
    graph: dict[str, set[str]] = {}
    for path in sorted((ROOT / "vlmig").iterdir()):
        name = path.stem
        is_package = path.is_dir() and (path / "__init__.py").is_file()
        if is_package and name not in BASE:
            graph[name] = imports(path) - {name}
    return {name: targets & graph.keys() for name, targets in graph.items()}


def reachable(graph: dict[str, set[str]], name: str) -> set[str]:
    """List all that a package imports, directly or through others."""
    found: set[str] = set()
    for target in graph[name]:
        found |= {target} | reachable(graph, target)
    return found


def reduce(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out the imports that a path through other packages implies."""
    reduced = {}
    for name, targets in graph.items():
        implied: set[str] = set()
        for target in targets:
            implied |= reachable(graph, target)
        reduced[name] = targets - implied
    return reduced


def rows(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sort packages into rows: each one above the highest that it imports."""
    floor: dict[str, int] = {}
    while len(floor) < len(graph):
        for name, targets in graph.items():
            if targets <= floor.keys():
                floor[name] = 1 + max((floor[target] for target in targets), default=-1)
    return [[n for n in graph if floor[n] == row] for row in range(1 + max(floor.values()))]


def draw(path: Path) -> None:
    """Draw the packages, the bar of the base below them."""
    graph = read_graph()
    reduced = reduce(graph)
    levels = rows(graph)
    height = {name: row * ROW for row, names in enumerate(levels) for name in names}
    figure, axis = plt.subplots(figsize=(9, 0.95 * len(levels) + 1))
    right = 2 * COLUMN + WIDTH / 2
    for name, y in height.items():
        x = COLUMNS.get(name, 1) * COLUMN
        _box(axis, x - WIDTH / 2, y, WIDTH, name, CAPTIONS.get(name, ""), "#e3edf6")
    base = right + WIDTH / 2
    _box(axis, -WIDTH / 2, -ROW, base, ", ".join(BASE), "every package may import these", "#eeeeea")
    for name, targets in reduced.items():
        for target in targets:
            _arrow(axis, name, target, height)
    top = (len(levels) - 1) * ROW + HEIGHT
    axis.set(xlim=(-WIDTH / 2 - 0.1, right + 0.1), ylim=(-ROW - 0.1, top + 0.1))
    axis.axis("off")
    figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None})


def _arrow(axis: plt.Axes, name: str, target: str, height: dict[str, float]) -> None:
    start, end = COLUMNS.get(name, 1), COLUMNS.get(target, 1)
    slant = max(-SLANT, min(SLANT, SLANT * (end - start)))
    tail = (start + slant) * COLUMN, height[name] - 0.02
    head = (end - slant) * COLUMN, height[target] + HEIGHT + 0.02
    style = {"arrowstyle": "-|>", "color": "#6b7785", "lw": 1.1}
    axis.annotate("", head, tail, arrowprops=style)


def _box(
    axis: plt.Axes, x: float, y: float, width: float, name: str, text: str, color: str
) -> None:
    style = "round,pad=0,rounding_size=0.08"
    patch = FancyBboxPatch((x, y), width, HEIGHT, style, facecolor=color, edgecolor="#8a98a8")
    axis.add_patch(patch)
    middle = x + width / 2
    axis.text(middle, y + HEIGHT - 0.21, name, ha="center", va="center", weight="bold", fontsize=11)
    axis.text(middle, y + 0.28, text, ha="center", va="center", fontsize=8.5, linespacing=1.05)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
