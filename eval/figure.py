"""Draw the README's picture: one question, its imagined pictures, and what each of them and the text alone say.

python -m eval.figure docs/answer.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from vlmig import VLMIG

QUESTION = "What is the color of a strawberry?"
CHOICES = ["red", "green", "yellow", "white", "brown", "blue"]
SHADES = ["#d32f2f", "#388e3c", "#fbc02d", "#e0e0e0", "#795548", "#1976d2"]


def main(path: Path) -> None:
    """Ask, draw, save."""
    answer = VLMIG.from_pretrained("pocket").ask(QUESTION, choices=CHOICES, k=6)
    figure = plt.figure(figsize=(10, 4.2))
    grid = figure.add_gridspec(2, 8, height_ratios=[1.3, 1])
    for i, (picture, distribution) in enumerate(zip(answer.images, answer.per_image, strict=True)):
        axis = figure.add_subplot(grid[0, i])
        axis.imshow(picture.resize((256, 256)))
        axis.axis("off")
        axis.set_title(f"picture {i + 1}\nalignment {answer.weights[i]:.2f}", fontsize=8)
        bars(figure.add_subplot(grid[1, i]), distribution)
    for i, (title, distribution) in enumerate((("text only", answer.text_only), ("mixed", answer.probabilities))):
        axis = figure.add_subplot(grid[:, 6 + i])
        bars(axis, distribution)
        axis.set_title(title, fontsize=9)
    figure.suptitle(f"{QUESTION}  →  {answer.answer} (p = {answer.probabilities[answer.answer]:.2f})", fontsize=12)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def bars(axis: plt.Axes, distribution: dict[str, float]) -> None:
    """Draw one distribution over the choices."""
    axis.barh(range(len(CHOICES)), [distribution[c] for c in CHOICES], color=SHADES, edgecolor="#666", linewidth=0.4)
    axis.set_yticks(range(len(CHOICES)), CHOICES, fontsize=7)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 1])
    axis.tick_params(labelsize=7)
    axis.invert_yaxis()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
