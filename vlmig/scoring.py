"""Scoring: log-probabilities of continuations, from text alone, beside each picture and beside an empty one.

Everything a mixture needs is gathered in one pass; any k up to K and any rule is computed from it afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmig.mixture import image_trust, mix
from vlmig.modeling import Reading, VLMIGForCausalLM


@dataclass
class Scores:
    """Log-probabilities of C candidates."""

    text: np.ndarray
    """log p_0, (C,)."""
    per_image: np.ndarray
    """log p_i, (K, C)."""
    blank: np.ndarray
    """log p_blank, (C,)."""
    alignment: np.ndarray
    """Cosine of each picture with its prompt, (K,)."""

    def mixed(self, k: int, rule: str, weights: str, strength: float, doubt: float, floor: float) -> np.ndarray:
        """Mix the first k pictures' distributions over the candidates: probabilities, (C,); k = 0 is text-only.

        A candidate of several tokens counts with its whole probability (the mixture is per sequence); every
        distribution is normalised over the candidates first, since the answer is one of them.
        """
        text, blank = (torch.from_numpy(x).log_softmax(-1) for x in (self.text, self.blank))
        images = torch.from_numpy(self.per_image[:k]).log_softmax(-1)
        alignment = torch.from_numpy(self.alignment[:k])
        trust = image_trust(weights, alignment, floor)
        settings: dict[str, Any] = {"strength": strength, "doubt": doubt, "by_entropy": weights == "entropy"}
        return mix(text, images, trust, rule, blank=blank, **settings).exp().numpy()


@dataclass
class Job:
    """One reading of the LM: a context with all tokens of a candidate but the last."""

    context: int
    ids: list[int]
    targets: list[tuple[int, list[int]]] = field(default_factory=list)
    """(candidate, its token ids): candidates of one token share the reading of their context."""

    @property
    def asked(self) -> int:
        """Count the final positions whose predictions are needed."""
        return max(len(ids) for _, ids in self.targets)


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, context: str, continuation: str, limit: int | None
) -> tuple[list[int], int]:
    """Tokenise the whole text; the continuation begins where it stops agreeing with the context alone.

    So a token that spans the join belongs to the continuation, and the model sees the text as it would be written. A
    text beyond ``limit`` loses its left end.

    Returns:
        Token ids and the index of the continuation's first token (at least 1).
    """
    alone = tokenizer(context).input_ids
    whole = tokenizer(context + continuation).input_ids
    split = 0
    while split < min(len(alone), len(whole) - 1) and alone[split] == whole[split]:
        split += 1
    if split == 0:  # nothing to predict the first token from: begin as the LM's training texts do
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        whole, split = [start, *whole], 1
    cut = max(0, len(whole) - limit) if limit else 0
    return whole[cut:], max(1, split - cut)


def collect_jobs(
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[str],
    choices: Sequence[Sequence[str]],
    limit: int | None,
) -> list[Job]:
    """Collect the distinct readings of all (context, candidate) pairs; a candidate without a space gets one in front."""
    jobs: dict[tuple[int, tuple[int, ...]], Job] = {}
    for c, (context, options) in enumerate(zip(contexts, choices, strict=True)):
        for o, option in enumerate(options):
            continuation = option if option[:1].isspace() else " " + option
            ids, split = encode_pair(tokenizer, context, continuation, limit)
            job = jobs.setdefault((c, tuple(ids[:-1])), Job(c, ids[:-1]))
            job.targets.append((o, ids[split:]))
    return list(jobs.values())


def read_padded(model: VLMIGForCausalLM, ids: Sequence[list[int]], asked: int, pad: int) -> Reading:
    """Run the LM once over left-padded token lists and keep the last ``asked`` positions of each."""
    length = max(map(len, ids))
    rows = torch.tensor([[pad] * (length - len(row)) + row for row in ids], device=model.device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    base = {"input_ids": rows, "attention_mask": mask, "position_ids": positions, "use_cache": False}
    return model.read(base, asked)


@torch.inference_mode()
def score_jobs(model: VLMIGForCausalLM, jobs: Sequence[Job], features: Tensor, results: list[Scores], pad: int) -> None:
    """Read a batch of jobs once and write their candidates' log-probabilities into the results.

    Args:
        features: the pictures of each job, (B, K, P, C).
        results: one entry per context, filled in place.
    """
    reading = read_padded(model, [job.ids for job in jobs], max(job.asked for job in jobs), pad)
    _gather(model.text_log_probs(reading), jobs, [results[job.context].text for job in jobs])
    if features.shape[1] == 0:
        return
    _gather(model.blank_log_probs(reading), jobs, [results[job.context].blank for job in jobs])
    for i, log_probs in enumerate(model.image_log_probs(reading, features.to(model.device))):
        _gather(log_probs, jobs, [results[job.context].per_image[i] for job in jobs])


def _gather(log_probs: Tensor, jobs: Sequence[Job], places: Sequence[np.ndarray]) -> None:
    """Sum each candidate's token log-probabilities, from (B, T, V), into its place."""
    for row, (job, place) in enumerate(zip(jobs, places, strict=True)):
        for candidate, ids in job.targets:
            tokens = torch.tensor(ids, device=log_probs.device)
            place[candidate] = log_probs[row, -len(ids) :].gather(1, tokens[:, None]).sum().item()
