"""Candidates of several tokens that share their context: it is read once, and each candidate behind a copy of what was kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import DynamicCache

from vlmig.cache import cache_argument
from vlmig.modeling import VLMIGForCausalLM
from vlmig.reading import Reading
from vlmig.scoring import Job, Model, pad_left

LEAST = 16
"""Tokens that have to be saved, over all candidates of a context: two shorter calls of the LM cost more than a longer one."""


def part(model: Model, jobs: Sequence[Job]) -> tuple[list[Job], list[list[Job]]]:
    """Part jobs that are read by themselves from those, by context, that share enough of what is read.

    Early fusion, masked LMs, layouts that number padding and windows, which would slide over it, read every job whole.
    """
    late = isinstance(model, VLMIGForCausalLM) and model.config.fusion != "prefix" and not model.published
    late = late and not any(DynamicCache(config=model.config.text_config).is_sliding)
    families: dict[int, list[Job]] = {}
    for job in jobs:
        families.setdefault(job.context, []).append(job)
    shared = [own for own in families.values() if late and (len(own) - 1) * shared_length(own) >= LEAST]
    kept = {own[0].context for own in shared}
    return [job for job in jobs if job.context not in kept], shared


def shared_length(jobs: Sequence[Job]) -> int:
    """Count the tokens that all jobs begin with, and at none of which a prediction is asked."""
    first, last = min(job.ids for job in jobs), max(job.ids for job in jobs)  # in between, all have what both have
    alike = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return min(alike, *(len(job.ids) - job.asked for job in jobs))


def read_shared(model: VLMIGForCausalLM, families: Sequence[Sequence[Job]], pad: int) -> Reading | None:
    """Read each family's shared tokens once, then what is left of its jobs, in the order of families and jobs.

    Returns:
        The last positions of each job, as many as are asked at most; None where the LM keeps another cache than keys and values.
    """
    lengths = [shared_length(jobs) for jobs in families]
    prefixes = pad_left([jobs[0].ids[:n] for jobs, n in zip(families, lengths, strict=True)], pad, model.device)
    before = model.read({**prefixes, "position_ids": _numbers(prefixes["attention_mask"]), "use_cache": True}, 1)
    cache = before.cache
    if not isinstance(cache, DynamicCache):
        return None
    owner = torch.tensor([i for i, jobs in enumerate(families) for _ in jobs], device=model.device)
    cache.batch_select_indices(owner)
    rest = pad_left([job.ids[n:] for jobs, n in zip(families, lengths, strict=True) for job in jobs], pad, model.device)
    mask = torch.cat([prefixes["attention_mask"][owner], rest["attention_mask"]], 1)
    base = {"input_ids": rest["input_ids"], "attention_mask": mask, "use_cache": True, **cache_argument(cache)}
    positions = _numbers(mask)[:, -rest["input_ids"].shape[1] :]
    reading = model.read({**base, "position_ids": positions}, max(job.asked for jobs in families for job in jobs))
    reading.cache = None  # nothing is to follow
    return reading


def _numbers(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp_min(0)
