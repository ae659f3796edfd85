"""Images from any text-to-image pipeline of diffusers, and embeddings from its prior pipelines.

diffusers takes seconds to import, so it is imported where a pipeline is loaded; images that are
stored already need none.
"""

from __future__ import annotations

import copy
import inspect
import logging
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmig.errors import VLMIGError, one_line
from vlmig.imagination import ImageSource, Request
from vlmig.imagination.sources.families import Sampling, sampling_for
from vlmig.imagination.sources.prompts import EMBEDDED, Embedded, embed, load_tokenizers, stacked
from vlmig.io.hashing import source_of
from vlmig.io.hub import settle_hub
from vlmig.io.weights import check_components, check_described, why_damaged
from vlmig.runtime import deterministic_map

logger = logging.getLogger(__name__)
# Where bitsandbytes is installed diffusers imports it, and it warns of a kernel no image needs.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# A pipeline may hold other parts than its class expects, if they have the same interface.
logging.getLogger("diffusers.pipelines.pipeline_utils").addFilter(
    lambda record: not str(record.msg).startswith("Expected types for")
)

OUT_OF_MEMORY = ("allocate memory", "could not create a primitive")
"""What torch, and oneDNN within it, say on a CPU whose memory is full."""


class _PipelineSource(ImageSource):
    """A source that runs a pipeline: which one, and how much of a prompt it reads."""

    seeded = True

    def __init__(
        self,
        name: str | Path,
        sampling: Sampling | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.name, self.revision, self.device = str(name), revision, torch.device(device)
        self.sampling = sampling or sampling_for(self.name)

    @cached_property
    def _tokenizers(self) -> list[tuple[Any, int]]:
        return list(load_tokenizers(self.name, self.revision))

    def fits(self, prompt: str) -> bool:
        """Tell whether one of the text encoders, if there are any, reads the whole prompt."""
        for tokenize, limit in self._tokenizers:
            if len(tokenize(prompt, verbose=False).input_ids) <= limit:
                return True
        return not self._tokenizers


class DiffusionSource(_PipelineSource):
    """Draw with a diffusers pipeline, one seeded random generator per image.

    Every call of the pipeline has the same batch size (the last batch is padded) and on a CPU one
    thread, so that an image's bytes do not depend on the others. A batch that does not fit into
    memory is halved for the rest of the process. This is logged, and may change the rounding of an
    image.

    Args:
        name: hub id or folder of the pipeline.
        sampling: settings; the family's when None.
        dtype: precision; when None float32 on a CPU and the family's on an accelerator.
    """

    def __init__(
        self,
        name: str | Path,
        sampling: Sampling | None = None,
        *,
        revision: str | None = None,
        dtype: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(name, sampling, revision=revision, device=device)
        self.batch = self.sampling.batch
        self.dtype = dtype or ("float32" if self.device.type == "cpu" else self.sampling.dtype)
        self._embed_once, self._lock = lru_cache(maxsize=64)(self._embed), threading.Lock()

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline, loaded when the first image is drawn.

        Raises:
            VLMIGError: no such pipeline or decoder.
        """
        from diffusers import AutoencoderTiny

        dtype = getattr(torch, self.dtype)
        pipeline = load_pipeline(self.name, self.revision, dtype)
        if self.sampling.vae:
            try:
                pipeline.vae = AutoencoderTiny.from_pretrained(self.sampling.vae).to(dtype)
            except (OSError, ValueError) as error:
                raise VLMIGError(
                    f"cannot load imaginer_vae={self.sampling.vae!r}: {one_line(error)}; expected "
                    "an AutoencoderTiny such as madebyollin/taesd"
                ) from error
        return self.prepared(pipeline)

    def prepared(self, pipeline: Any) -> Any:
        """Move a pipeline to its device, and make it as fast there as its images stay the same."""
        from vlmig.imagination.sources.cpu_convolutions import Upsampled, Winograd, quicken

        if getattr(pipeline, "safety_checker", None) is not None:
            pipeline.safety_checker = None  # it returns black images, which would count as evidence
        pipeline.to(self.device)
        if type(pipeline).__name__ == "LuminaPipeline":
            keep_lumina_angles()
        denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
        # No Winograd in a decoder: its tiles take 2.25 times the memory of states that are already
        # large there.
        for module, kinds in (
            (denoiser, (Winograd, Upsampled)),
            (getattr(pipeline, "vae", None), (Upsampled,)),
        ):
            if module is not None:
                if self.device.type == "cpu" and self.dtype == "float32":
                    quicken(module, *kinds)
                module.to(memory_format=torch.channels_last)  # the fastest layout for convolutions
        if self.sampling.compile and denoiser is not None:
            denoiser.compile()
        return pipeline

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Draw one image for each request.

        Raises:
            VLMIGError: no such pipeline, wrong settings for it, or no memory for one image.
        """
        batches = []
        for start in range(0, len(requests), self.batch):
            batches.append(list(requests[start : start + self.batch]))
        # Threads can share only pipelines whose parts are known, and no compiled one.
        together = type(self.pipeline).__name__ in EMBEDDED and not self.sampling.compile
        try:
            drawn = deterministic_map(self._draw, batches, self.device, together)
        except RuntimeError as error:  # torch's out-of-memory error is one
            self._halve(error)
            return self.imagine(requests)
        except (OverflowError, ValueError) as error:  # a size or a number that it does not take
            raise VLMIGError(
                f"the generator {self.name} cannot draw with {self.sampling}: {one_line(error)}; "
                "change imaginer_size, imaginer_steps, ..."
            ) from error
        return list(chain.from_iterable(drawn))

    def _draw(self, requests: list[Request]) -> list[Tensor]:
        """Draw a batch, padded to its full size."""
        batch = requests + requests[:1] * (self.batch - len(requests))
        # The same models, with a scheduler of this thread: it counts steps.
        pipeline = copy.copy(self.pipeline)
        pipeline.scheduler = copy.deepcopy(getattr(pipeline, "scheduler", None))
        images = pipeline(
            **self._prompts([request.prompt for request in batch]),
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in batch],
            num_inference_steps=self.sampling.steps,
            guidance_scale=self.sampling.guidance,
            height=self.sampling.size,
            width=self.sampling.size,
            output_type="pt",
            **self._fixed,
        ).images[: len(requests)]
        finite = images.float().isfinite().flatten(1).all(1).cpu()
        pixels = (images.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        pixels[~finite] = 0  # an image with NaN becomes black, which the guards notice
        return list(pixels)

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        """Arguments against defaults of the pipeline: to draw at another size and resize it, and
        to read an empty prompt for guidance although it is embedded already."""
        called = inspect.signature(type(self.pipeline).__call__).parameters
        fixed: dict[str, Any] = {}
        if "use_resolution_binning" in called:
            fixed["use_resolution_binning"] = False
        if type(self.pipeline).__name__ in EMBEDDED and "negative_prompt" in called:
            fixed["negative_prompt"] = None
        return fixed

    def _prompts(self, prompts: list[str]) -> dict[str, Any]:
        """Return the prompts as the pipeline's arguments, embedded once if it takes embeddings."""
        if type(self.pipeline).__name__ not in EMBEDDED:
            return {"prompt": prompts}
        with self._lock:  # tokenizers cannot be shared between threads
            return stacked([self._embed_once(prompt) for prompt in prompts])

    def _embed(self, prompt: str) -> Embedded:
        return embed(self.pipeline, prompt, guided=self.sampling.guidance > 1)

    def _halve(self, error: RuntimeError) -> None:
        """Halve the batch after an out-of-memory error; raise any other error."""
        full = isinstance(error, torch.OutOfMemoryError)
        if not (full or any(said in str(error) for said in OUT_OF_MEMORY)):
            raise error
        if self.batch == 1:
            raise VLMIGError(
                f"the generator {self.name} has no memory for even one image of "
                f"{self.sampling.size} pixels; choose a smaller imaginer_size, "
                "imaginer_dtype=float16, or another generator"
            ) from error
        logger.warning(
            "no memory for a batch of %d images; continuing with %d", self.batch, self.batch // 2
        )
        self.batch //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def identity(self) -> dict[str, str | int | float]:
        """Return the pipeline's weights (a folder's by content) and the sampling settings."""
        sampling = self.sampling
        described: dict[str, str | int | float] = {
            "generator": source_of(self.name, self.revision),
            "dtype": self.dtype,
            "steps": sampling.steps,
            "guidance": sampling.guidance,
            "size": sampling.size,
            "batch": sampling.batch,
            "compile": sampling.compile,
        }
        # On an accelerator too, so that a CPU finds the images that it stored.
        if self.dtype == "float32":
            described["convolutions"] = (
                "winograd"  # older images were rounded differently and must not be mixed with these
            )
        if sampling.vae:
            described["vae"] = source_of(sampling.vae)
        return described


class PriorSource(_PipelineSource):
    """Give embeddings without pixels: a prior pipeline (Kandinsky's) predicts an image's embedding
    from the text.

    Args:
        name: hub id or folder of the prior pipeline; its embeddings are in the space of one
            particular encoder.
    """

    embeds = True

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline, loaded when first needed."""
        return load_pipeline(self.name, self.revision, torch.float32).to(self.device)

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        """Return a unit embedding for each request."""
        _ = self.pipeline  # loaded before the map, outside inference mode
        return deterministic_map(self._embedding, requests, self.device, together=False)

    def _embedding(self, request: Request) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(request.seed)
        settings = {
            "num_inference_steps": self.sampling.steps,
            "guidance_scale": self.sampling.guidance,
        }
        embedding = self.pipeline(request.prompt, generator=[generator], **settings).image_embeds[0]
        return F.normalize(embedding.float(), dim=-1).cpu()

    def identity(self) -> dict[str, str | int | float]:
        """Return the prior's weights and settings."""
        return {
            "prior": source_of(self.name, self.revision),
            "steps": self.sampling.steps,
            "guidance": self.sampling.guidance,
        }


def load_pipeline(name: str, revision: str | None, dtype: torch.dtype) -> Any:
    """Load a pipeline by the auto class, or by the class that its index names.

    Raises:
        VLMIGError: no such pipeline, or its weights are damaged or not finite.
    """
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.disable_progress_bar()  # a bar per component would tell a user nothing
    settle_hub(name)
    check_described(Path(name))
    loaders: list[Callable[..., Any]] = [
        AutoPipelineForText2Image.from_pretrained,
        DiffusionPipeline.from_pretrained,
    ]
    for load in loaders:
        try:
            pipeline = load(name, revision=revision, dtype=dtype)
            pipeline.set_progress_bar_config(disable=True)
            check_components(pipeline.components.values(), name)
            return pipeline
        # A ValueError where the auto class does not list the pipeline.
        except VLMIGError:
            raise
        except Exception as error:  # damaged files break the libraries in any way
            failed = error
    raise VLMIGError(
        f"cannot load the generator {name}: {why_damaged(Path(name), failed)}; expected the hub id "
        "or folder of a diffusers text-to-image pipeline"
    ) from failed


def keep_lumina_angles() -> None:
    """Let Lumina's pipeline keep its table of angles, which it makes anew at every step.

    The table has 384 x 384 rows whatever the image's size: a third of the time of a small model.
    """
    from diffusers.pipelines.lumina import pipeline_lumina

    table = pipeline_lumina.get_2d_rotary_pos_embed_lumina
    if not hasattr(table, "cache_info"):
        pipeline_lumina.get_2d_rotary_pos_embed_lumina = lru_cache(maxsize=2)(table)
