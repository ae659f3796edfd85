"""How pipelines read prompts: their tokenizers, and prompts embedded once for many images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from torch import Tensor
from transformers import AutoTokenizer

from vlmig.io.hub import settle_hub
from vlmig.io.weights import read_described

MASKED = (
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
)
EMBEDDED: dict[str, tuple[str, ...]] = {
    "StableDiffusionPipeline": ("prompt_embeds", "negative_prompt_embeds"),
    "StableDiffusionXLPipeline": (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ),
    "StableDiffusion3Pipeline": (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ),
    "LatentConsistencyModelPipeline": ("prompt_embeds", ""),
    "FluxPipeline": ("prompt_embeds", "pooled_prompt_embeds", ""),
    "Flux2Pipeline": ("prompt_embeds", ""),
    "Flux2KleinPipeline": ("prompt_embeds", ""),
    "ZImagePipeline": ("prompt_embeds", "negative_prompt_embeds"),
    "ChromaPipeline": (
        "prompt_embeds",
        "",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "",
        "negative_prompt_attention_mask",
    ),
    "OvisImagePipeline": ("prompt_embeds", "negative_prompt_embeds", "", ""),
    "SanaSprintPipeline": ("prompt_embeds", "prompt_attention_mask"),
    "SanaPipeline": MASKED,
    "PixArtAlphaPipeline": MASKED,
    "PixArtSigmaPipeline": MASKED,
    "LuminaPipeline": MASKED,
    "Lumina2Pipeline": MASKED,
}
"""Pipelines that take embedded prompts, and the names of their ``encode_prompt``'s results; empty
for one that they make anew."""
SETTINGS = ("max_sequence_length", "complex_human_instruction")
"""Parameters of ``encode_prompt`` to which ``__call__`` gives a default of its own."""
Embedded = dict[str, Tensor | list[Tensor]]
"""A prompt as arguments of a pipeline; a list where its length is its number of tokens."""


def embed(pipeline: Any, prompt: str, *, guided: bool) -> Embedded:
    """Return a prompt as arguments of one of the ``EMBEDDED`` pipelines, with one row each, as the
    pipeline itself embeds it.

    Args:
        guided: whether the pipeline runs with guidance, which also reads an empty prompt.
    """
    unet = getattr(pipeline, "unet", None)
    if unet is not None and unet.config.time_cond_proj_dim is not None:
        guided = False  # it is told the guidance scale instead
    read = _encoder_of(pipeline)
    names = EMBEDDED[type(pipeline).__name__]
    given = {"do_classifier_free_guidance": guided, "num_images_per_prompt": 1}
    named = dict(zip(names, read(prompt, **given), strict=True))
    if guided and type(pipeline).__name__ == "Flux2KleinPipeline":  # whose call reads one for all
        named["negative_prompt_embeds"] = read("", **given)[0]
    return {name: value for name, value in named.items() if name and value is not None}


def _encoder_of(pipeline: Any) -> Callable[..., Any]:
    """Return a pipeline's ``encode_prompt`` with the settings of its ``__call__``, which takes
    those of the given arguments that it knows."""
    known = inspect.signature(type(pipeline).encode_prompt).parameters
    called = inspect.signature(type(pipeline).__call__).parameters
    settings = {name: called[name].default for name in SETTINGS if name in known and name in called}
    settings |= {name: None for name in ("prompt_2", "prompt_3") if name in known}

    def encode(prompt: str, **given: Any) -> Any:
        chosen = {name: value for name, value in given.items() if name in known}
        return pipeline.encode_prompt(prompt, device=pipeline.device, **settings, **chosen)

    return encode


def stacked(rows: Sequence[Embedded]) -> Embedded:
    """Join embedded prompts; tokens that shorter ones lack are zeros, which their masks hide."""
    joined: Embedded = {}
    for name, first in rows[0].items():
        values: list[Any] = [row[name] for row in rows]
        if isinstance(first, list):
            joined[name] = list(chain(*values))
            continue
        if "pooled" not in name:
            longest = max(value.shape[1] for value in values)
            values = [_padded(value, longest) for value in values]
        joined[name] = torch.cat(values)
    return joined


def _padded(value: Tensor, length: int) -> Tensor:
    """Pad tokens, the second axis of (1, L) or (1, L, C), with zeros."""
    missing = length - value.shape[1]
    return F.pad(value, (0, 0) * (value.ndim - 2) + (0, missing))


UNCUT = (
    *("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    *("LatentConsistencyModelPipeline", "LuminaPipeline"),
)
"""Pipelines that read all that their tokenizers hold; others' classes say how much they read, at
the cost of importing diffusers."""


def load_tokenizers(name: str, revision: str | None) -> Iterator[tuple[Any, int]]:
    """Yield a pipeline's tokenizers and how many tokens of each it reads; loads no models."""
    settle_hub(name)
    try:
        index = Path(name) / "model_index.json"
        path = (
            index if Path(name).is_dir() else hf_hub_download(name, index.name, revision=revision)
        )
        pipeline = read_described(Path(path))
        limit = _most_tokens(pipeline.get("_class_name", ""))
        for subfolder in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            tokenizer = AutoTokenizer.from_pretrained(name, subfolder=subfolder, revision=revision)
            yield tokenizer, min(tokenizer.model_max_length, limit or tokenizer.model_max_length)
    # No further tokenizer; without any pipeline, drawing raises the error.
    except Exception:  # transformers raises whatever its tokenizers raise
        return


def _most_tokens(kind: str) -> int | None:
    """Return how many tokens a class of pipelines reads, if its ``__call__`` says so."""
    if kind in UNCUT:
        return None
    import diffusers

    pipeline = getattr(diffusers, kind, diffusers.DiffusionPipeline)
    parameter = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
    return None if parameter is None else parameter.default
