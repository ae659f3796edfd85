"""The visual token projector: patch features become tokens of the LM's width (paper, section 3.1).

Axes: P patches per image, C vision width, N visual tokens per image, D LM width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmig.models.config import VLMIGConfig


class VisualTokenProjector(nn.Module):
    """Project each patch feature separately: u = W1 gelu(W2 z), or one linear map; N = P.

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
            self.layers = nn.Sequential(
                nn.Linear(vision_width, hidden), nn.GELU(), nn.Linear(hidden, lm_width)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map patch features (..., P, C) to visual tokens (..., N, D)."""
        return self.layers(features)


class PooledProjector(nn.Module):
    """Merge each 2 x 2 block of patches into one token (VILA-1.5's ``mlp_downsample``).

    Args:
        vision_width: C.
        lm_width: D.
        hidden: width between the two layers.
    """

    def __init__(self, vision_width: int, lm_width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(4 * vision_width),
            nn.Linear(4 * vision_width, hidden),
            nn.GELU(),
            nn.Linear(hidden, lm_width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map patch features (..., P, C) of a square image to visual tokens (..., N, D).

        An odd side is padded with zeros.
        """
        side = round(features.shape[-2] ** 0.5)
        grid = features.unflatten(-2, (side, side))
        grid = F.pad(grid, (0, 0, 0, side % 2, 0, side % 2))
        blocks = torch.cat([grid[..., i::2, j::2, :] for i in (0, 1) for j in (0, 1)], -1)
        return self.layers(blocks.flatten(-3, -2))


class Resampler(nn.Module):
    """Let N learned queries attend to the patches (after BLIP-2's Q-Former).

    Args:
        vision_width: C.
        lm_width: D.
        queries: N.
        hidden: width of the queries.
    """

    LAYERS, HEADS = 2, 8

    def __init__(self, vision_width: int, lm_width: int, queries: int, hidden: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(queries, hidden))
        self.begin()
        self.patches = nn.Linear(vision_width, hidden)
        block = nn.TransformerDecoderLayer(
            hidden,
            self.HEADS,
            4 * hidden,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerDecoder(block, self.LAYERS, nn.LayerNorm(hidden))
        self.out = nn.Linear(hidden, lm_width)

    def begin(self) -> None:
        """Draw new queries."""
        with torch.no_grad():
            self.queries.copy_(torch.randn_like(self.queries) * 0.02)

    def forward(self, features: Tensor) -> Tensor:
        """Map patch features (..., P, C) to visual tokens (..., N, D)."""
        patches = self.patches(features.flatten(0, -3))
        states = self.blocks(self.queries.expand(len(patches), -1, -1), patches)
        return self.out(states).unflatten(0, features.shape[:-2])


def build_projector(config: VLMIGConfig, width: int) -> nn.Module:
    """Build the projector that the configuration names, with new weights.

    Args:
        width: D.
    """
    hidden = config.projector_width or width
    if config.projector == "pooled":
        return PooledProjector(config.vision_width, width, hidden)
    if config.projector == "resampler":
        return Resampler(config.vision_width, width, config.projector_queries, hidden)
    return VisualTokenProjector(
        config.vision_width, width, hidden if config.projector == "mlp" else None
    )
