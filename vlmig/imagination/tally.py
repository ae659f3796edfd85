"""Counts of what an imagination did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tally:
    """Counts since the model was loaded."""

    cut: int = 0
    """Texts whose prompts were cut or split for the text encoders."""
    stored: int = 0
    """Images that were in the store already."""
    drawn: int = 0
    redrawn: int = 0
    """Images drawn again because they were black or of one color."""
    faulty: int = 0
    """Images that stayed so after all redraws; their features count as a blank image's."""

    def __str__(self) -> str:
        counts = [f"{self.stored} images were there", f"{self.drawn} drawn"]
        for name in ("cut", "redrawn", "faulty"):
            if getattr(self, name):
                counts.append(f"{getattr(self, name)} {name}")
        return ", ".join(counts)

    def count(self, redraws: int) -> None:
        """Count a drawn image; see ``Imagined.redraws``."""
        self.drawn += 1
        self.redrawn += redraws > 0
        self.faulty += redraws < 0
