"""Scoring: log-probabilities of continuations, from text alone, beside each picture and beside an empty one.

Everything a mixture needs is gathered in one pass; any k up to K and any rule is computed from it afterwards. Causal LMs
predict a continuation's tokens from what stands before them; masked LMs predict each of them from all the others
(pseudo-log-likelihood, Salazar et al. 2020), and a candidate may fill a gap in the middle of its context.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache

from vlmig.models.cache import cache_argument
from vlmig.models.modeling import Model, VLMIGForCausalLM, VLMIGForMaskedLM
from vlmig.models.text_states import Reading, VisualStates
from vlmig.predict.scores import Scores
from vlmig.processing.image_tokens import places_of
from vlmig.processing.tokens import cut_left, encode_gaps, encode_pair, first_token, pad_left


@dataclass
class Job:
    """One reading of the LM: a context with all tokens of a candidate but the last."""

    context: int
    ids: list[int]
    targets: list[tuple[int, list[int]]] = field(default_factory=list)
    """(candidate, its token ids): candidates of one token share the reading of their context."""
    gap: int | None = None
    """Masked LMs: the one masked position, whose prediction is needed."""

    @property
    def asked(self) -> int:
        """Count the final positions whose predictions are needed."""
        return max(len(ids) for _, ids in self.targets)


def collect_jobs(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[str],
    choices: Sequence[Sequence[str]],
    first: bool = False,
    limits: Sequence[int | None] | None = None,
) -> list[Job]:
    """Collect the distinct readings of all (context, candidate) pairs; candidates are taken letter by letter.

    Args:
        first: score each candidate's ``first_token`` only.
        limits: most tokens of each context with a candidate; ``text_limit`` when None.
    """
    jobs: dict[tuple, Job] = {}
    masked, places = isinstance(model, VLMIGForMaskedLM), places_of(model.config)
    limits = [model.config.text_limit] * len(contexts) if limits is None else limits
    for c, (context, options, limit) in enumerate(zip(contexts, choices, limits, strict=True)):
        for o, option in enumerate(options):
            if not option:
                continue  # nothing to predict: log-probability 0
            if masked:
                for ids, gap, target in encode_gaps(tokenizer, context, option, limit):
                    jobs.setdefault((c, tuple(ids), gap), Job(c, ids, gap=gap)).targets.append((o, [target]))
                continue
            if first:
                ids = cut_left(tokenizer(context).input_ids, limit, tokenizer, places)
                jobs.setdefault((c, tuple(ids)), Job(c, ids)).targets.append((o, [first_token(tokenizer, option)]))
                continue
            ids, split = encode_pair(tokenizer, context, option, limit, places)
            jobs.setdefault((c, tuple(ids[:-1])), Job(c, ids[:-1])).targets.append((o, ids[split:]))
    return list(jobs.values())


def alike(sizes: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Yield the places of equal sizes together, in batches and in their order."""
    for size in dict.fromkeys(sizes):
        members = [place for place, own in enumerate(sizes) if own == size]
        yield from (members[start : start + batch] for start in range(0, len(members), batch))


def read_jobs(model: Model, jobs: Sequence[Job], pad: int, shown: Tensor | None = None) -> Reading:
    """Run the LM once over a batch of jobs and keep the positions whose predictions are needed.

    Args:
        shown: features of the pictures that stand in the texts, (B, M, P, C), see ``vlmig.processing.image_tokens.stacked``.
    """
    if isinstance(model, VLMIGForCausalLM):
        return read_padded(model, [job.ids for job in jobs], max(job.asked for job in jobs), pad, shown)
    length = max(len(job.ids) for job in jobs)
    rows = torch.tensor([job.ids + [pad] * (length - len(job.ids)) for job in jobs], device=model.device)
    mask = torch.tensor([[1] * len(job.ids) + [0] * (length - len(job.ids)) for job in jobs], device=model.device)
    gaps = torch.tensor([[job.gap] for job in jobs], device=model.device)
    return model.read({"input_ids": rows, "attention_mask": mask}, gaps)


def read_padded(
    model: VLMIGForCausalLM, ids: Sequence[list[int]], asked: int, pad: int, shown: Tensor | None = None
) -> Reading:
    """Run the LM once over left-padded token lists and keep the last ``asked`` positions of each."""
    base = pad_left(ids, pad, model.device)
    positions = (base["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    shown = shown if shown is None else shown.to(model.device)
    return model.read({**base, "position_ids": positions, "use_cache": False}, asked, shown_features=shown)


def score_reading(
    model: Model, reading: Reading, jobs: Sequence[Job], visual: VisualStates | None, results: list[Scores]
) -> None:
    """Add the log-probabilities of jobs' candidates to the results, from what the LM read of them.

    Args:
        visual: the pictures of each job, see ``VLMIGPreTrainedModel.encode_with_blank``; None without any.
        results: one entry per context, filled in place.
    """
    if visual is None:
        _gather([model.text_log_probs(reading)], jobs, [[results[job.context].text] for job in jobs])
        return
    places = [[own.text, own.blank, *own.per_image] for own in (results[job.context] for job in jobs)]
    _gather(model.predictions(reading, visual), jobs, places)


def mix_reading(
    model: Model, reading: Reading, jobs: Sequence[Job], visual: VisualStates | None, trust: Tensor, values: np.ndarray
) -> None:
    """Add the per-token mixture's log-probabilities of jobs to ``values``, one per context; see ``score_reading``.

    Args:
        trust: in each picture, (B, K).
    """
    mixed = model.text_log_probs(reading) if visual is None else model.mixed(reading, visual, trust)
    _gather([mixed], jobs, [[values[job.context : job.context + 1]] for job in jobs])


def _gather(predictions: Iterable[Tensor], jobs: Sequence[Job], places: Sequence[Sequence[np.ndarray]]) -> None:
    """Add each candidate's token log-probabilities, of each prediction (B, T, V), to the candidate's place.

    Args:
        places: of each job, an array for each prediction.
    """
    asked = [(row, c, ids) for row, job in enumerate(jobs) for c, ids in job.targets]
    rows = torch.tensor([row for row, _, ids in asked for _ in ids])
    behind = torch.tensor([i for _, _, ids in asked for i in range(-len(ids), 0)])
    tokens = torch.tensor([token for _, _, ids in asked for token in ids])
    found = torch.stack([p[rows, behind + p.shape[1], tokens] for p in predictions]).cpu().double().numpy()
    starts = np.cumsum([0, *(len(ids) for _, _, ids in asked[:-1])])
    for (row, candidate, _), values in zip(asked, np.add.reduceat(found, starts, 1).T, strict=True):
        for place, value in zip(places[row], values, strict=True):
            place[candidate] += value


LEAST = 16
"""Tokens that have to be saved, over all candidates of a context: two shorter calls of the LM cost more than a longer one."""


def part(model: Model, jobs: Sequence[Job]) -> tuple[list[Job], list[list[Job]]]:
    """Part jobs that are read by themselves from those, by context, that share enough of what is read.

    Early fusion, masked LMs, layouts that number padding and windows, which would slide over it, read every job whole.
    """
    late = isinstance(model, VLMIGForCausalLM) and not model.config.images_in_text and not model.published
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
