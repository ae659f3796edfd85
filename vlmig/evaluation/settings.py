"""The settings of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmig.errors import VLMIGError
from vlmig.imagination.prompts import MOST_IMAGES
from vlmig.models.config import MIX_RULES, WEIGHT_KINDS, VLMIGConfig
from vlmig.models.config import POLICIES as PROMPT_POLICIES

CONTROLS = ("none", "blank", "shuffled", "caption", "few-shot")
POLICIES = ("item", *PROMPT_POLICIES)
"""What to imagine: what the item is about, once for all its wordings (``item``), or each
wording."""
SUBSETS = ("all", "covered")
CROSS_FITTED = "cross-fitted"
"""Learned weights that are fitted on other objects of the very task: no setting of a model."""


@dataclass
class Settings:
    """What to measure.

    Raises:
        VLMIGError: an unknown name, or a number out of range.
    """

    ks: Sequence[int | str] = (0, 6)
    """Numbers of images; ``auto`` among them is as many as each answer needs."""
    mixes: Sequence[str] = ()
    """Mixing rules beside the checkpoint's."""
    weights: Sequence[str] = ()
    controls: Sequence[str] = ("none",)
    seeds: Sequence[int] = (0,)
    limit: int | None = None
    policy: str | None = None
    """What to imagine; None for the task's policy."""
    subset: str = "all"
    """``covered``: only items that the model's world can draw."""
    calibrated: bool = False
    """Whether to divide each prediction by that of a content-free question (Zhao et al. 2021)."""
    why: bool = False
    """Whether samples say what in the images moved each answer."""

    def __post_init__(self) -> None:
        counts = self.every_k
        if not self.ks or counts[0] < 0 or counts[-1] > MOST_IMAGES or len(self._named) > 1:
            raise VLMIGError(
                f"k={','.join(map(str, self.ks))}; expected numbers of images, 0 (text only) to "
                f"{MOST_IMAGES}, or one auto among them"
            )
        for name, values, known in (
            ("control", self.controls, CONTROLS),
            ("mix", self.mixes, MIX_RULES),
            ("weights", self.weights, (*WEIGHT_KINDS, CROSS_FITTED)),
            ("policy", [self.policy] if self.policy else [], POLICIES),
            ("subset", [self.subset], SUBSETS),
        ):
            for value in values:
                if value not in known:
                    raise VLMIGError(f"{name} {value!r}; expected one of {', '.join(known)}")
        if self.limit is not None and self.limit < 1:
            raise VLMIGError(f"limit={self.limit}; expected at least one item")
        if not self.seeds:
            raise VLMIGError("no seed; expected at least one whole number")
        self.seeds = list(dict.fromkeys(self.seeds))

    @property
    def every_k(self) -> list[int]:
        """The numbers of images in order, 0 (text only) included."""
        return sorted({0, *(k for k in self.ks if isinstance(k, int))})

    @property
    def _named(self) -> list[str]:
        return [k for k in self.ks if isinstance(k, str)]

    @property
    def auto(self) -> str | None:
        """``auto`` or ``auto:LEVEL`` if requested."""
        return self._named[0] if self._named else None

    def contrasts(self, config: VLMIGConfig) -> bool:
        """Whether a rule compares with the checkpoint's generic images."""
        return "contrast" in (config.mix, *self.mixes)

    @property
    def main_k(self) -> int | str:
        """The k of the headline: six, as published, else the largest, else ``auto``."""
        return 6 if 6 in self.ks else self.every_k[-1] or self.auto or 0
