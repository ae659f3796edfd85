"""Pictures from any text-to-image pipeline of diffusers, and embeddings from its prior pipelines. The home of diffusers.

diffusers takes seconds to import and is imported where a pipeline is loaded: stored pictures need its name and content only.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from torch import Tensor
from transformers import AutoTokenizer

from vlmig.errors import VLMIGError, one_line
from vlmig.imagination import Request
from vlmig.imagination.sources.families import Sampling, sampling_for
from vlmig.io.hashing import source_of
from vlmig.runtime import deterministic_map

logger = logging.getLogger(__name__)
EMBEDDED = {
    "StableDiffusionPipeline": ("prompt_embeds", "negative_prompt_embeds"),
    "StableDiffusionXLPipeline": (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ),
}
"""Pipelines that take prompts as embeddings, and what their ``encode_prompt`` returns; they read all that their tokenizers do."""


class _FromPipeline:
    """What imaginers that run a pipeline share: which one, and how much of a prompt it reads."""

    seeded = True

    def __init__(self, name: str | Path, sampling: Sampling | None, revision: str | None, device: str | torch.device):
        self.name, self.revision, self.device = str(name), revision, torch.device(device)
        self.sampling = sampling or sampling_for(self.name)

    @cached_property
    def _tokenizers(self) -> list[tuple[Any, int]]:
        return list(load_tokenizers(self.name, self.revision))

    def fits(self, prompt: str) -> bool:
        """Tell whether one of the pipeline's text encoders, if there are any, reads the whole prompt."""
        lengths = ((len(read(prompt, verbose=False).input_ids), limit) for read, limit in self._tokenizers)
        return not self._tokenizers or any(length <= limit for length, limit in lengths)


class DiffusionImaginer(_FromPipeline):
    """Draw with a diffusers pipeline, one seeded generator per picture.

    Every call of the pipeline has the same batch size (the last batch is filled up) and on a CPU one thread, so that a
    picture's bytes do not depend on the others. Where a batch does not fit into memory it is halved for the rest
    of the process, which may change a picture's rounding, and is logged.

    Args:
        name: hub id or folder of the pipeline.
        sampling: settings; the family's own when None.
        dtype: precision; when None float32 on a CPU and the family's on an accelerator.

    ``imagine`` raises a VLMIGError where there is no such pipeline, or not even one picture fits into memory.
    """

    embeds = False

    def __init__(
        self,
        name: str | Path,
        sampling: Sampling | None = None,
        *,
        revision: str | None = None,
        dtype: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(name, sampling, revision, device)
        self.batch = self.sampling.batch
        self.dtype = dtype or ("float32" if self.device.type == "cpu" else self.sampling.dtype)
        self._embedded, self._reading = lru_cache(maxsize=64)(self._embed), threading.Lock()

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline, loaded when the first picture is drawn: a store that has them all needs none."""
        from diffusers import AutoencoderTiny

        from vlmig.imagination.sources.cpu_convolutions import Upsampled, Winograd, quicken

        dtype = getattr(torch, self.dtype)
        pipeline = load_pipeline(self.name, self.revision, dtype)
        if self.sampling.vae:
            try:
                pipeline.vae = AutoencoderTiny.from_pretrained(self.sampling.vae).to(dtype)
            except (OSError, ValueError) as error:
                raise VLMIGError(
                    f"cannot load imaginer_vae={self.sampling.vae!r}: {one_line(error)}; expected an AutoencoderTiny such as madebyollin/taesd"
                ) from error
        if getattr(pipeline, "safety_checker", None) is not None:
            pipeline.safety_checker = None  # it answers with black pictures, which would count as evidence
        pipeline.to(self.device)
        denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
        # No Winograd in a decoder: its tiles take 2.25 times the memory of pictures that are already large there.
        for part, kinds in ((denoiser, (Winograd, Upsampled)), (getattr(pipeline, "vae", None), (Upsampled,))):
            if part is not None:
                if self.device.type == "cpu" and dtype == torch.float32:
                    quicken(part, *kinds)
                part.to(memory_format=torch.channels_last)  # the layout that convolutions are fastest in
        if self.sampling.compile and denoiser is not None:
            denoiser.compile()
        return pipeline

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Draw one picture for each request."""
        parts = [list(requests[start : start + self.batch]) for start in range(0, len(requests), self.batch)]
        # Threads can share a pipeline whose parts are known; and compiling is not for several at once.
        together = type(self.pipeline).__name__ in EMBEDDED and not self.sampling.compile
        try:
            drawn = deterministic_map(self._draw, parts, self.device, together)
        except RuntimeError as error:  # torch's out-of-memory error is one
            self._halve(error)
            return self.imagine(requests)
        except ValueError as error:  # a size or number of steps that this pipeline does not take
            raise VLMIGError(
                f"the generator {self.name} cannot draw with {self.sampling}: {one_line(error)}; change imaginer_size, imaginer_steps, ..."
            ) from error
        return [picture for part in drawn for picture in part]

    def _draw(self, part: list[Request]) -> list[Tensor]:
        """Draw a batch, filled up to its full size."""
        batch = part + part[:1] * (self.batch - len(part))
        own = copy.copy(self.pipeline)  # the same models, but a scheduler counts its steps
        own.scheduler = copy.deepcopy(getattr(own, "scheduler", None))
        drawn = own(
            **self._prompts([request.prompt for request in batch]),
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in batch],
            num_inference_steps=self.sampling.steps,
            guidance_scale=self.sampling.guidance,
            height=self.sampling.size,
            width=self.sampling.size,
            output_type="pt",
        ).images[: len(part)]
        whole = drawn.float().isfinite().flatten(1).all(1).cpu()
        pixels = (drawn.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        pixels[~whole] = 0  # a picture with NaN is no picture: black, which the guard notices
        return list(pixels)

    def _prompts(self, prompts: list[str]) -> dict[str, Any]:
        """Return the prompts as arguments of the pipeline: embedded once each, where it takes embeddings."""
        if type(self.pipeline).__name__ not in EMBEDDED:
            return {"prompt": prompts}
        with self._reading:  # tokenizers cannot be shared
            rows = [self._embedded(prompt) for prompt in prompts]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def _embed(self, prompt: str) -> dict[str, Tensor]:
        pipeline = self.pipeline
        guided = self.sampling.guidance > 1 and pipeline.unet.config.time_cond_proj_dim is None
        settings = {"device": self.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": guided}
        parts = zip(EMBEDDED[type(pipeline).__name__], pipeline.encode_prompt(prompt, **settings), strict=True)
        return {name: part for name, part in parts if part is not None}

    def _halve(self, error: RuntimeError) -> None:
        """Go on with half the batch where the whole one does not fit."""
        if not (isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)):
            raise error
        if self.batch == 1:
            raise VLMIGError(
                f"the generator {self.name} has no memory for even one picture of {self.sampling.size} pixels; "
                "choose a smaller imaginer_size, imaginer_dtype=float16, or another generator"
            ) from error
        logger.warning("no memory for a batch of %d pictures; going on with %d", self.batch, self.batch // 2)
        self.batch //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def identity(self) -> dict[str, str | int | float]:
        """Name the pipeline's weights (by content where they lie in a folder) and the sampling settings."""
        sampling = self.sampling
        described: dict[str, str | int | float] = {
            "generator": source_of(self.name, self.revision),
            "dtype": self.dtype,
        }
        described |= {"steps": sampling.steps, "guidance": sampling.guidance, "size": sampling.size}
        described |= {"batch": sampling.batch, "compile": sampling.compile}
        if self.dtype == "float32":  # on an accelerator too, so that a store which it filled is found on a CPU
            described["convolutions"] = "winograd"  # pictures rounded as before these must not stand beside them
        return described | ({"vae": source_of(sampling.vae)} if sampling.vae else {})


class PriorImaginer(_FromPipeline):
    """Imagine embeddings without pixels: a prior pipeline (Kandinsky's) goes from text to where its picture would lie.

    Args:
        name: hub id or folder of the prior pipeline; its embeddings live in the space of one particular encoder.
    """

    embeds = True

    def __init__(
        self,
        name: str,
        sampling: Sampling | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(name, sampling, revision, device)

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline, loaded when first needed."""
        return load_pipeline(self.name, self.revision, torch.float32).to(self.device)

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Give a unit embedding for each request."""
        _ = self.pipeline
        return deterministic_map(self._embedding, requests, self.device, together=False)

    def _embedding(self, request: Request) -> Tensor:
        seed = torch.Generator("cpu").manual_seed(request.seed)
        settings = {"num_inference_steps": self.sampling.steps, "guidance_scale": self.sampling.guidance}
        embedding = self.pipeline(request.prompt, generator=[seed], **settings).image_embeds[0]
        return F.normalize(embedding.float(), dim=-1).cpu()

    def identity(self) -> dict[str, str | int | float]:
        """Name the prior's weights and settings."""
        return {
            "prior": source_of(self.name, self.revision),
            "steps": self.sampling.steps,
            "guidance": self.sampling.guidance,
        }


def load_pipeline(name: str, revision: str | None, dtype: torch.dtype) -> Any:
    """Load a pipeline by the auto class, or as what it says it is.

    Raises:
        VLMIGError: no such pipeline.
    """
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.disable_progress_bar()  # a bar per component says nothing to a user
    loaders: list[Callable[..., Any]] = [AutoPipelineForText2Image.from_pretrained, DiffusionPipeline.from_pretrained]
    for load in loaders:
        try:
            pipeline = load(name, revision=revision, dtype=dtype)
            pipeline.set_progress_bar_config(disable=True)
            return pipeline
        except (OSError, ValueError) as error:  # ValueError: a pipeline that the auto class does not list
            failed = error
    raise VLMIGError(
        f"cannot load the generator {name}: {one_line(failed)}; expected the hub id or folder of a diffusers text-to-image pipeline"
    ) from failed


def load_tokenizers(name: str, revision: str | None) -> Iterator[tuple[Any, int]]:
    """Yield a pipeline's tokenizers, without its models, and how many tokens are read of each."""
    try:
        index = Path(name) / "model_index.json"
        path = index if Path(name).is_dir() else hf_hub_download(name, index.name, revision=revision)
        limit = _most_tokens(json.loads(Path(path).read_text(encoding="utf-8")).get("_class_name", ""))
        for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            tokenizer = AutoTokenizer.from_pretrained(name, subfolder=part, revision=revision)
            yield tokenizer, min(tokenizer.model_max_length, limit or tokenizer.model_max_length)
    except (OSError, ValueError):  # no further ones; or none at all, which drawing will say
        return


def _most_tokens(kind: str) -> int | None:
    """Return how many tokens a pipeline of a class reads, where it says so beside its tokenizers."""
    if kind in EMBEDDED:
        return None
    import diffusers

    asked = inspect.signature(getattr(diffusers, kind, diffusers.DiffusionPipeline).__call__).parameters
    return asked["max_sequence_length"].default if "max_sequence_length" in asked else None
