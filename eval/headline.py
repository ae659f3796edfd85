"""The README's table: accuracy with pictures beside text alone, one picture, controls and baselines.

    vlmig eval --tasks memory_color,imagenetvc_color,pocket_color,object_shape,imagenetvc_shape,pocket_text \
        --k 0,1,6 --control none,shuffled --out runs/headline
    python -m eval.headline runs/headline
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def accuracy(condition: dict[str, Any] | None) -> str:
    """Format an accuracy with its interval."""
    if condition is None:
        return "-"
    low, high = condition["ci95"]
    return f"{100 * condition['acc']:.1f} [{100 * low:.0f}, {100 * high:.0f}]"


def main(out: Path) -> None:
    """Print accuracies, then differences, in Markdown."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    block = results["vlmig"]
    rule = (block["default"]["mix"], block["default"]["weights"])
    chosen = [c for c in block["conditions"] if (c["mix"], c["weights"]) == rule]
    print(
        "| task | n | majority | text only | k=1 | **k=6** | shuffled | balanced: text / k=6 |\n|---|---|---|---|---|---|---|---|"
    )
    for task in block["baselines"]:
        for subset in ("covered", "all"):
            rows = {(c["k"], c["control"]): c for c in chosen if (c["task"], c["subset"]) == (task, subset)}
            if not rows or rows[0, "none"]["acc"] is None:
                continue
            cells = [accuracy(rows.get(key)) for key in ((0, "none"), (1, "none"), (6, "none"), (6, "shuffled"))]
            balanced = " / ".join(f"{100 * rows[k, 'none']['balanced_acc']:.1f}" for k in (0, 6))
            majority = f"{100 * rows[0, 'none']['majority']:.1f}"
            cells[2] = f"**{cells[2]}**"
            print(f"| {task}, {subset} | {rows[0, 'none']['n']} | {majority} | {' | '.join(cells)} | {balanced} |")
    print("\n| difference, covered items | points | 95 % interval | |\n|---|---|---|---|")
    for c in block["comparisons"]:
        if c["subset"] == "covered" or c["task"].startswith("pocket_known"):
            low, high = c["ci95"]
            print(
                f"| {c['task']}: {c['a']} − {c['b']} | {100 * c['delta']:+.1f} | [{100 * low:+.1f}, {100 * high:+.1f}] | {c['verdict']} |"
            )
    for c in chosen:
        if "perplexity" in c:
            print(f"\n{c['task']}, k={c['k']}: perplexity {c['perplexity']:.4f} (n = {c['n']})", end="")
    print()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
