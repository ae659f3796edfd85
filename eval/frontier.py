"""The frontier of mixing rules: what each gains from pictures against what it keeps of the text model's knowledge.

    vlmig eval --tasks memory_color,pocket_known --k 0,1,3,6,10 --mix evidence,prob,logit \
        --weights uniform,clip,entropy --out runs/frontier
    python -m eval.frontier runs/frontier

"kept" is the share of text-only's right answers that stay right.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def rows(results: dict[str, Any], k: int) -> list[tuple[str, str, float, float, float]]:
    """Return (mix, weights, held-out accuracy, known accuracy, kept) for every rule at one k."""
    found = {
        (c["task"], c["subset"], c["mix"], c["weights"]): c
        for c in results["vlmig"]["conditions"]
        if c["k"] == k and c["control"] == "none"
    }
    rules = sorted({(mix, weights) for _, _, mix, weights in found})
    table = []
    for rule in rules:
        held_out, known = found["memory_color", "covered", *rule], found["pocket_known", "all", *rule]
        table.append((*rule, held_out["acc"], known["acc"], known["kept"]))
    return table


def main(out: Path) -> None:
    """Print the table in Markdown, one row per rule, text alone first."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    alone = rows(results, 0)[0]
    print("| mix | weights | memory_color, held out | pocket_known | kept |\n|---|---|---|---|---|")
    print(f"| text only | | {100 * alone[2]:.1f} % | {100 * alone[3]:.1f} % | 100 % |")
    default = (results["vlmig"]["default"]["mix"], results["vlmig"]["default"]["weights"])
    for mix, weights, held_out, known, kept in rows(results, 6):
        mark = "**" if (mix, weights) == default else ""
        print(
            f"| {mark}{mix}{mark} | {mark}{weights}{mark} | {100 * held_out:.1f} % | {100 * known:.1f} % | {100 * kept:.1f} % |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
