"""Build the image source that ``config.imaginer`` names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from vlmig.errors import VLMIGError
from vlmig.imagination import ImageSource
from vlmig.imagination.sources.families import Sampling, family_of, sampling_for
from vlmig.models.config import VLMIGConfig
from vlmig.vision import VisionEncoder

KINDS = ("http", "retrieval", "folder", "prior", "text", "blank")
"""What may come before a colon; a name without one of them is a text-to-image pipeline."""


def build_source(
    config: VLMIGConfig,
    folder: Path,
    encoder: Callable[[], VisionEncoder],
    cache: Path,
    device: torch.device,
) -> ImageSource:
    """Build the image source that ``config.imaginer`` names.

    Args:
        folder: the checkpoint's folder.
        encoder: returns the vision encoder; called only where one is needed.
        cache: where an index may be cached.

    Raises:
        VLMIGError: a kind without the place it needs, or a source of embeddings for an adapter that
            reads patches.
    """
    kind, location = kind_and_place(config.imaginer, folder)
    if kind in ("prior", "text") and config.vision_features != "pooled":
        raise VLMIGError(
            f"imaginer={config.imaginer!r} gives embeddings without pixels, this adapter reads "
            "patches; expected an adapter trained with vision_features=pooled, or another imaginer"
        )
    if not location and kind in ("http", "retrieval", "folder", "prior"):
        raise VLMIGError(f"imaginer={config.imaginer!r} names no place; expected {kind}:PLACE")
    if kind == "http":
        return _served(config, location)
    if kind in ("diffusion", "prior"):
        from vlmig.imagination.sources import diffusion

        sampling, revision = sampling_of(config, folder, device), config.imaginer_revision
        if kind == "prior":
            return diffusion.PriorSource(location, sampling, revision=revision, device=device)
        dtype = config.imaginer_dtype
        return diffusion.DiffusionSource(
            location, sampling, revision=revision, dtype=dtype, device=device
        )
    from vlmig.imagination.sources import given

    if kind == "retrieval":
        return given.RetrievalSource(location, encoder(), cache)
    if kind == "folder":
        return given.FolderSource(location)
    return given.TextSource(encoder()) if kind == "text" else given.BlankSource()


def _served(config: VLMIGConfig, location: str) -> ImageSource:
    """Build the source that requests images of a server."""
    from vlmig.imagination.sources.served import ServedSource

    model = location.partition("#")[2]
    known = family_of(model)
    sampling = sampling_for(model, steps=config.imaginer_steps, guidance=config.imaginer_guidance)
    settings: dict[str, int | float] = {}  # those of an unknown family are the server's to choose
    if known or config.imaginer_steps is not None:
        settings["num_inference_steps"] = sampling.steps
    if known or config.imaginer_guidance is not None:
        settings["guidance_scale"] = sampling.guidance
    return ServedSource(
        location,
        config.imaginer_size or sampling.size,
        parallel=config.imaginer_batch or sampling.batch,
        settings=settings,
        revision=config.imaginer_revision,
    )


def kind_and_place(name: str, folder: Path) -> tuple[str, str]:
    """Split ``retrieval:photos`` into kind and place; without a kind it is ``diffusion``."""
    location = VLMIGConfig.locate(name, folder)
    kind, _, inner = location.partition(":")
    return ("diffusion", location) if kind not in KINDS else (kind, inner)


def sampling_of(config: VLMIGConfig, folder: Path, device: torch.device) -> Sampling:
    """Return the sampling settings of a pipeline: the configuration's, else its family's.

    On a CPU a pipeline draws one image per call unless configured otherwise, and as many calls run
    as there are threads.
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
