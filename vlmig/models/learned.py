"""Learned weights: how far each image is trusted, by a small logistic regression on what is known
without the answer.

Axes: K images, C candidate answers, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlmig.errors import VLMIGError

FEATURES = (
    "alignment",
    "image_entropy",
    "text_entropy",
    "agreement",
    "contrast",
    "text_margin",
)
SUREST = 20.0
"""The widest margin in nats: beyond it nothing is left to tell apart."""


@dataclass(frozen=True)
class Learned:
    """The fitted regression; each entry belongs to one of ``FEATURES``.

    Args:
        mean: of the feature over the images it was fitted on.
        scale: its standard deviation there.
        slope: what a standard deviation adds to the log-odds of the trust.
        intercept: the log-odds of a typical image.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    slope: tuple[float, ...]
    intercept: float

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> Learned:
        """Return what a checkpoint keeps, see ``VLMIGConfig.learned``.

        Raises:
            VLMIGError: it keeps none, or one of other features.
        """
        if stored is None:
            raise VLMIGError(
                "weights='learned' need weights that were fitted, and this checkpoint has none; "
                "expected vlmig calibrate RUN --model FOLDER, or weights uniform, clip or entropy"
            )
        columns: Any = stored.get("features", {})
        if sorted(columns) != sorted(FEATURES):  # a configuration file sorts them
            raise VLMIGError(
                f"learned weights of {', '.join(columns) or 'nothing'} in the configuration; "
                f"expected {', '.join(FEATURES)}: fit them again with vlmig calibrate"
            )
        mean, scale, slope = zip(*(columns[name] for name in FEATURES), strict=True)
        return cls(mean, scale, slope, stored["intercept"])

    def described(self) -> dict[str, Any]:
        """Return the regression as a checkpoint keeps it."""
        columns = {}
        for name, *row in zip(FEATURES, self.mean, self.scale, self.slope, strict=True):
            columns[name] = list(map(_short, row))
        return {"features": columns, "intercept": _short(self.intercept)}

    def trust(self, features: Tensor) -> Tensor:
        """Return the trust in images, (...), in [0, 1], by their features, (..., F).

        An unknown feature (NaN) counts as a typical one.
        """
        standard = (features - features.new_tensor(self.mean)) / features.new_tensor(self.scale)
        odds = standard.nan_to_num(0.0) @ features.new_tensor(self.slope)
        return torch.sigmoid(odds + self.intercept)


def _short(value: float) -> float:
    """Round to six digits that count: a scale may be small."""
    return float(f"{value:.6g}")


def features_of(text: Tensor, images: Tensor, alignment: Tensor, blank: Tensor) -> Tensor:
    """Describe each image of a question without its answer, (..., K, F).

    Entropies are shares of the largest possible one; ``agreement`` is the share of the other images
    with the same favorite, shrunk towards a half, which a lone image has; ``contrast`` is how far
    the image moves the prediction from that beside a blank one, in nats; ``text_margin`` is the
    lead of text alone's favorite in nats.

    Args:
        text: log p_0 of two candidates or more, (..., C).
        images: log p_i, (K, ..., C).
        alignment: CLIP similarities, (..., K); or (..., C, K), where each candidate has its own
            images, which are averaged.
        blank: log p_blank, (..., C).
    """
    count, most = len(images), torch.tensor(float(text.shape[-1])).log()
    if alignment.dim() > text.dim():
        alignment = alignment.mean(-2)
    favorite = images.argmax(-1)
    agreeing = (favorite[:, None] == favorite[None]).sum(1) - 1
    first, second = text.topk(2).values.unbind(-1)
    probabilities = images.exp()
    moved = (probabilities * (images - blank)).nan_to_num(0.0).sum(-1)
    columns = [
        alignment.movedim(-1, 0),
        torch.special.entr(probabilities).sum(-1) / most,
        torch.special.entr(text.exp()).sum(-1) / most,
        (agreeing + 0.5) / count,
        moved.clamp(0.0, SUREST).log1p(),
        (first - second).clamp_max(SUREST),
    ]
    shape = favorite.shape
    return torch.stack([column.to(text).expand(shape) for column in columns], -1).movedim(0, -2)
