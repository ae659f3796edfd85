"""One line of configuration chooses the imaginer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from vlmig.errors import VLMIGError
from vlmig.imagination import Imaginer
from vlmig.imagination.sources.families import Sampling, sampling_for
from vlmig.models.config import VLMIGConfig
from vlmig.vision import VisionEncoder

KINDS = ("retrieval", "folder", "prior", "text", "blank")
"""What may stand before a colon; a name without one is a text-to-image pipeline."""


def choose_imaginer(
    config: VLMIGConfig, folder: Path, encoder: Callable[[], VisionEncoder], cache: Path, device: torch.device
) -> Imaginer:
    """Build the imaginer that ``config.imaginer`` names.

    Args:
        folder: the checkpoint's folder.
        encoder: gives the vision encoder, where one is needed.
        cache: where an index may be kept.

    Raises:
        VLMIGError: an imaginer of embeddings beside an adapter that reads patches.
    """
    kind, place = kind_and_place(config.imaginer, folder)
    if kind in ("prior", "text") and config.vision_features != "pooled":
        raise VLMIGError(
            f"imaginer={config.imaginer!r} gives embeddings without pixels, this adapter reads patches; expected an adapter "
            "trained with vision_features=pooled, or another imaginer"
        )
    if not place and kind in ("retrieval", "folder", "prior"):
        raise VLMIGError(f"imaginer={config.imaginer!r} names no place; expected {kind}:PLACE")
    if kind in ("diffusion", "prior"):
        return _drawing(kind, place, config, sampling_of(config, folder, device), device)
    from vlmig.imagination.sources import given

    if kind == "retrieval":
        return given.RetrievalImaginer(place, encoder(), cache)
    if kind == "folder":
        return given.FolderImaginer(place)
    return given.TextImaginer(encoder()) if kind == "text" else given.BlankImaginer()


def kind_and_place(name: str, folder: Path) -> tuple[str, str]:
    """Split an imaginer's name: ``retrieval:photos`` is a retrieval from photos; a plain name is a diffusion pipeline."""
    place = VLMIGConfig.locate(name, folder)
    kind, _, inner = place.partition(":")
    return ("diffusion", place) if kind not in KINDS else (kind, inner)


def sampling_of(config: VLMIGConfig, folder: Path, device: torch.device) -> Sampling:
    """Return the sampling settings of the configuration's pipeline: its own, else its family's.

    On a CPU a pipeline draws one picture per call unless told otherwise, and as many at a time as there are threads.
    """
    return sampling_for(
        kind_and_place(config.imaginer, folder)[1],
        steps=config.imaginer_steps,
        guidance=config.imaginer_guidance,
        size=config.imaginer_size,
        batch=config.imaginer_batch or (1 if device.type == "cpu" else None),
        vae=config.imaginer_vae and config.locate(config.imaginer_vae, folder),
        compile=config.imaginer_compile,
    )


def _drawing(kind: str, place: str, config: VLMIGConfig, sampling: Sampling, device: torch.device) -> Imaginer:
    from vlmig.imagination.sources import diffusion

    revision = config.imaginer_revision
    if kind == "prior":
        return diffusion.PriorImaginer(place, sampling, revision=revision, device=device)
    return diffusion.DiffusionImaginer(place, sampling, revision=revision, dtype=config.imaginer_dtype, device=device)
