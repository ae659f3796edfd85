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

from vlmig.errors import VLMIGError
from vlmig.fusion import VisualStates
from vlmig.modeling import VLMIGForCausalLM, VLMIGForMaskedLM
from vlmig.reading import Reading
from vlmig.scores import Scores
from vlmig.shown import Places, places_of

Model = VLMIGForCausalLM | VLMIGForMaskedLM


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


def spaced(choices: Sequence[Sequence[str]]) -> list[list[str]]:
    """Put a space in front of every candidate that does not begin with one.

    Raises:
        VLMIGError: an empty candidate.
    """
    if not all(option.strip() for options in choices for option in options):
        raise VLMIGError("an empty candidate among the choices; expected words")
    return [[o if o[:1].isspace() else " " + o for o in options] for options in choices]


def encode_pair(
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    continuation: str,
    limit: int | None,
    places: Places | None = None,
) -> tuple[list[int], int]:
    """Tokenise the whole text; the continuation begins where it stops agreeing with the context alone.

    So a token that spans the join belongs to the continuation, and the model sees the text as it would be written. A
    text beyond ``limit`` loses its left end, but never its BOS, see ``cut_left``.

    Returns:
        Token ids and the index of the continuation's first token (at least 1).

    Raises:
        VLMIGError: a continuation that does not fit.
    """
    alone = tokenizer(context).input_ids
    whole = tokenizer(context + continuation).input_ids
    split = 0
    while split < min(len(alone), len(whole) - 1) and alone[split] == whole[split]:
        split += 1
    if split == 0:  # nothing to predict the first token from: begin as the LM's training texts do
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        whole, split = [start, *whole], 1
    shorter = cut_left(whole, limit, tokenizer, places)
    cut = len(whole) - len(shorter)
    if split - cut < 1:
        raise VLMIGError(
            f"a continuation of {len(whole) - split} tokens; at most {limit} with its context fit this model"
        )
    return shorter, split - cut


def cut_left(
    ids: list[int], limit: int | None, tokenizer: PreTrainedTokenizerBase, places: Places | None = None
) -> list[int]:
    """Cut a text's left end off where it is longer than ``limit``, behind its BOS if it has one.

    A picture that stands at the cut goes as a whole.

    Raises:
        VLMIGError: the text's pictures alone do not fit.
    """
    if limit is None or len(ids) <= limit:
        return ids
    begin = ids[:1] if ids[0] == tokenizer.bos_token_id else []
    start = len(ids) - limit + len(begin)
    if places is not None:
        pictures = places.count(ids)
        if pictures * places.each + len(begin) >= limit:
            raise VLMIGError(
                f"{pictures} pictures of {places.each} tokens in a text; at most {limit} tokens fit this model: show fewer"
            )
        start += -ids[:start].count(places.token) % places.each
    return begin + ids[start:]


def first_token(tokenizer: PreTrainedTokenizerBase, option: str) -> int:
    """Return the first sub-token of a candidate split by itself, which is all of it that the published code scores."""
    return tokenizer(option, add_special_tokens=False).input_ids[0]


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


def encode_gaps(
    tokenizer: PreTrainedTokenizerBase, context: str, option: str, limit: int | None
) -> Iterator[tuple[list[int], int, int]]:
    """Mask each token of a candidate in turn: (token ids with one mask, its place, the token that was there).

    The candidate stands where the context has the tokenizer's mask token, or at the context's end. A text beyond ``limit``
    loses tokens far from the candidate, the special tokens at both ends excepted: first on the left, then on the right.

    Raises:
        VLMIGError: more than one mask token in the context; a candidate that does not fit.
    """
    before, *after = context.split(tokenizer.mask_token)
    if len(after) > 1:
        raise VLMIGError(f"{len(after)} gaps in {context!r}; expected one {tokenizer.mask_token}, or none at all")
    start = len(before) if after else len(context)
    inside = option.lstrip() if after else option
    encoded = tokenizer(before + inside + "".join(after), return_offsets_mapping=True)
    ids = list(encoded.input_ids)
    gaps = [i for i, (a, b) in enumerate(encoded.offset_mapping) if a < start + len(inside) and b > start and b > a]
    excess = max(0, len(ids) - limit) if limit else 0
    left = min(excess, gaps[0] - 1)
    right = min(excess - left, len(ids) - 2 - gaps[-1])
    if left + right < excess:
        raise VLMIGError(f"a candidate of {len(gaps)} tokens; at most {limit} with its context fit this model")
    ids = ids[:1] + ids[1 + left : len(ids) - 1 - right] + ids[-1:]
    for gap in (place - left for place in gaps):
        yield ids[:gap] + [tokenizer.mask_token_id] + ids[gap + 1 :], gap, ids[gap]


def alike(sizes: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Yield the places of equal sizes together, in batches and in their order."""
    for size in dict.fromkeys(sizes):
        members = [place for place, own in enumerate(sizes) if own == size]
        yield from (members[start : start + batch] for start in range(0, len(members), batch))


def read_jobs(model: Model, jobs: Sequence[Job], pad: int, shown: Tensor | None = None) -> Reading:
    """Run the LM once over a batch of jobs and keep the positions whose predictions are needed.

    Args:
        shown: features of the pictures that stand in the texts, (B, M, P, C), see ``vlmig.shown.stacked``.
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


def pad_left(ids: Sequence[list[int]], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Pad token lists on the left to one length: ``input_ids`` and ``attention_mask``, (B, T)."""
    length = max(map(len, ids))
    rows = torch.tensor([[pad] * (length - len(row)) + row for row in ids], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids], device=device)
    return {"input_ids": rows, "attention_mask": mask}


def score_reading(
    model: Model, reading: Reading, jobs: Sequence[Job], visual: VisualStates | None, results: list[Scores]
) -> None:
    """Add the log-probabilities of jobs' candidates to the results, from what the LM read of them.

    Args:
        visual: the pictures of each job, see ``LateFusionModel.beside``; None without any.
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


def likely_words(tokenizer: PreTrainedTokenizerBase, probabilities: Tensor, count: int) -> dict[str, float]:
    """Return the likeliest words among the tokens, (V,): one with and one without a leading space are one word."""
    likely = probabilities.topk(min(8 * count, len(probabilities)))
    words: dict[str, float] = {}
    for i, p in zip(likely.indices.tolist(), likely.values.tolist(), strict=True):
        word = tokenizer.decode([i]).strip()
        if word and (word in words or len(words) < count):
            words[word] = words.get(word, 0.0) + p
    return words
