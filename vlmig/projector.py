"""The visual token projector: patch features become tokens of the LM's width (paper, section 3.1)."""

from __future__ import annotations

from torch import Tensor, nn


class VisualTokenProjector(nn.Module):
    """Project each patch feature on its own: u = W1 gelu(W2 z), or one linear map.

    Args:
        vision_width: C.
        lm_width: D.
        hidden: width between the two layers; None makes the projector linear.
    """

    def __init__(self, vision_width: int, lm_width: int, hidden: int | None) -> None:
        super().__init__()
        if hidden is None:
            self.layers = nn.Sequential(nn.Linear(vision_width, lm_width))
        else:
            self.layers = nn.Sequential(nn.Linear(vision_width, hidden), nn.GELU(), nn.Linear(hidden, lm_width))

    def forward(self, features: Tensor) -> Tensor:
        """Map patch features (..., P, C) to visual tokens (..., N, D); N = P."""
        return self.layers(features)
