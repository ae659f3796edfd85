"""How pipelines read prompts: their tokenizers, and prompts embedded once for many images."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from torch import Tensor
from transformers import AutoTokenizer

from vlmig.io.hub import settle_hub
from vlmig.io.weights import read_described

EMBEDDED = {
    "StableDiffusionPipeline": ("prompt_embeds", "negative_prompt_embeds"),
    "StableDiffusionXLPipeline": (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ),
    "LuminaPipeline": (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    ),
}
"""Pipelines that take embedded prompts, and the names of their ``encode_prompt``'s results."""


def embed(pipeline: Any, prompt: str, *, guided: bool) -> dict[str, Tensor]:
    """Return a prompt as arguments of one of the ``EMBEDDED`` pipelines, with one row each.

    Args:
        guided: whether the pipeline runs with guidance, which also reads an empty prompt.
    """
    unet = getattr(pipeline, "unet", None)
    if unet is not None and unet.config.time_cond_proj_dim is not None:
        guided = False  # it is told the guidance scale instead
    values = pipeline.encode_prompt(
        prompt,
        device=pipeline.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guided,
    )
    names = EMBEDDED[type(pipeline).__name__]
    named = zip(names, values, strict=True)
    return {name: value for name, value in named if value is not None}


def stacked(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join embedded prompts; tokens that shorter ones lack are zeros, which their masks hide."""
    joined = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if "pooled" not in name:
            longest = max(value.shape[1] for value in values)
            values = [_padded(value, longest) for value in values]
        joined[name] = torch.cat(values)
    return joined


def _padded(value: Tensor, length: int) -> Tensor:
    """Pad tokens, the second axis of (1, L) or (1, L, C), with zeros."""
    missing = length - value.shape[1]
    return F.pad(value, (0, 0) * (value.ndim - 2) + (0, missing))


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
        for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            tokenizer = AutoTokenizer.from_pretrained(name, subfolder=part, revision=revision)
            yield tokenizer, min(tokenizer.model_max_length, limit or tokenizer.model_max_length)
    # No further tokenizer; without any pipeline, drawing raises the error.
    except Exception:  # transformers raises whatever its tokenizers raise
        return


def _most_tokens(kind: str) -> int | None:
    """Return how many tokens a class of pipelines reads, if its ``__call__`` says so."""
    if kind in EMBEDDED:
        return None
    import diffusers

    pipeline = getattr(diffusers, kind, diffusers.DiffusionPipeline)
    parameter = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
    return None if parameter is None else parameter.default
