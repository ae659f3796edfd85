"""The objects that all stages of a run share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator, DistributedType

from vlmig.predict.predictor import VLMIG
from vlmig.runtime import Stopwatch
from vlmig.training.images import ImageFeatures
from vlmig.training.recipe import Recipe

Probing = Callable[[VLMIG], dict[str, float]]
"""Measures tasks with a model that is being trained: accuracies by name."""


@dataclass
class Session:
    """A run of a recipe."""

    recipe: Recipe
    folder: Path
    """For logs, lists of bad records and resumable states."""
    model: VLMIG
    accelerator: Accelerator
    images: ImageFeatures
    data: Path | None = None
    """Folder that the sources' paths start from, if they exist there."""
    own: Mapping[str, Callable] = field(default_factory=dict)
    """Further sources by name."""
    probe: Probing | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def sharded(self) -> bool:
        """Whether FSDP shards the parameters, so that only the whole prepared module can run."""
        return self.accelerator.distributed_type == DistributedType.FSDP

    @property
    def process(self) -> tuple[int, int]:
        """This process's number, and the number of processes."""
        return self.accelerator.process_index, self.accelerator.num_processes
