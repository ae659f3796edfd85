"""Pictures from any text-to-image pipeline of diffusers. The only file of the library that knows diffusers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from diffusers.utils import logging
from PIL import Image

from vlmig.errors import VLMIGError


class DiffusionImaginer:
    """Draw with a diffusers pipeline, one seeded generator per picture.

    Every call of the pipeline has the same batch size (the last batch is filled up), so that a picture's bytes do not
    depend on how many others are asked for beside it.

    Args:
        name: hub id or folder of the pipeline.
        steps: sampling steps.
        guidance: classifier-free guidance scale; 0 for distilled models.
        size: side of a picture in pixels.
        batch: pictures drawn at a time; part of the identity, since rounding may depend on it.

    ``imagine`` raises a VLMIGError where there is no such pipeline.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        revision: str | None = None,
        steps: int = 1,
        guidance: float = 0.0,
        size: int = 512,
        batch: int = 6,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        self.name, self.revision, self.dtype = str(name), revision, dtype
        self.steps, self.guidance, self.size, self.batch = steps, guidance, size, batch
        self.device = device

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline, loaded when the first picture is drawn: a store that has them all needs none."""
        pipeline = _load_pipeline(self.name, self.revision, self.dtype).to(self.device)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @torch.inference_mode()
    def imagine(self, requests: Sequence[tuple[str, int]]) -> list[Image.Image]:
        """Draw one picture for each (prompt, seed)."""
        pictures: list[Image.Image] = []
        for start in range(0, len(requests), self.batch):
            batch = list(requests[start : start + self.batch])
            filled = batch + batch[:1] * (self.batch - len(batch))
            drawn = self.pipeline(
                [prompt for prompt, _ in filled],
                generator=[torch.Generator("cpu").manual_seed(seed) for _, seed in filled],
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                height=self.size,
                width=self.size,
            ).images
            pictures += drawn[: len(batch)]
        return pictures

    def identity(self) -> dict[str, str | int | float]:
        """Name the pipeline's weights (by content where they lie in a folder) and the sampling settings."""
        local = Path(self.name).is_dir()
        source = digest_folder(Path(self.name)) if local else f"{self.name}@{self.revision or 'main'}"
        settings: dict[str, str | int | float] = {
            "steps": self.steps,
            "guidance": self.guidance,
            "size": self.size,
            "batch": self.batch,
        }
        settings["dtype"] = str(self.dtype)
        return {"generator": source, **settings}


def _load_pipeline(name: str, revision: str | None, dtype: torch.dtype) -> Any:
    logging.disable_progress_bar()  # a bar per component says nothing to a user
    try:
        try:
            return AutoPipelineForText2Image.from_pretrained(name, revision=revision, dtype=dtype)
        except ValueError:  # a pipeline that the auto class does not list
            return DiffusionPipeline.from_pretrained(name, revision=revision, dtype=dtype)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise VLMIGError(
            f"cannot load the generator {name}: {reason}; expected the hub id or folder of a diffusers text-to-image pipeline"
        ) from error


def digest_folder(folder: Path) -> str:
    """Hash names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
