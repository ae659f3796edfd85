"""Keep other objects' images with a checkpoint: what the rule ``contrast`` compares with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from vlmig.evaluation.run_folder import read_run
from vlmig.imagination.store import FeatureStore
from vlmig.models.generic import COUNT, save_generic


def spread(names: Iterable[str]) -> list[str]:
    """Order names by a hash, so that neither their order nor their number decides which come
    first."""
    return sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def keep_generic(folder: Path, checkpoint: Path, store: FeatureStore, count: int = COUNT) -> int:
    """Copy the features of images of ``count`` objects of a run from the store to a checkpoint.

    Each object gives its first image.

    Returns:
        How many were kept; nothing is written where the store has none of the run's images.
    """
    run = read_run(folder)
    first: dict[str, str] = {}
    for task in run.tasks:
        for line in run.lines(task):
            if line.get("pictures") and line["pictures"][0]:
                first.setdefault(line["doc"]["cluster"], line["pictures"][0][0])
    features: list[Tensor] = []
    for name in spread(first):
        entry = store.get(first[name], image=False)
        if entry is not None and len(features) < count:
            features.append(entry.patches)
    if features:
        save_generic(checkpoint, torch.stack(features))
    return len(features)
