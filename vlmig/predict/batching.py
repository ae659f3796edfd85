"""One pass of the LM over a batch of score requests, and the candidates' log-probabilities from
what it read.

Causal LMs predict a continuation's tokens from those before them. Masked LMs predict each of them
from all the others (pseudo-log-likelihood, Salazar et al. 2020), and a candidate may fill a gap in
the middle of its context.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from vlmig.imagination.visuals import Visuals
from vlmig.models.cache import cache_argument
from vlmig.models.modeling import Model, VLMIGForCausalLM
from vlmig.models.text_states import Reading, VisualStates
from vlmig.predict.scores import Scores
from vlmig.processing.pairs import ScoreRequest
from vlmig.processing.tokens import ImageTokens

LEAST = 16
"""Tokens to save, over all candidates of a context: below that, two shorter calls of the LM cost
more than a longer one."""


@dataclass(frozen=True)
class Batch:
    """Requests that the LM read together."""

    requests: list[ScoreRequest]
    visuals: list[Visuals]
    """The images of each request, equally many."""
    reading: Reading


def same_size(sizes: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Yield the indices of equal sizes together, in order, at most ``batch`` at a time."""
    for size in dict.fromkeys(sizes):
        members = [i for i, other in enumerate(sizes) if other == size]
        for start in range(0, len(members), batch):
            yield members[start : start + batch]


def read_batches(
    model: Model,
    requests: Sequence[ScoreRequest],
    visuals: Sequence[Visuals],
    batch: int,
    pad: int,
    image_tokens: ImageTokens | None,
) -> Iterator[Batch]:
    """Read requests, at most ``batch`` together, all with equally many images; a context that
    several share is read once.

    Args:
        visuals: of each context.
        pad: the token that fills rows.
        image_tokens: how images stand in a text; None where they do not.
    """
    single, shared = split_shared(model, requests)
    largest = max(map(len, shared), default=1)
    for groups in _same_images(shared, visuals, max(1, batch // largest)):
        reading = read_shared(model, groups, pad)  # type: ignore[arg-type]
        members = list(chain(*groups))
        if reading is None:
            single += members
        else:
            yield Batch(members, [visuals[request.context] for request in members], reading)
    for groups in _same_images([[request] for request in single], visuals, batch):
        members = list(chain(*groups))
        images = [visuals[request.context] for request in members]
        shown = stack_shown(image_tokens, [request.ids for request in members], images)
        yield Batch(members, images, read_requests(model, members, pad, shown))


def _same_images(
    groups: Sequence[list[ScoreRequest]], visuals: Sequence[Visuals], batch: int
) -> Iterator[list[list[ScoreRequest]]]:
    """Yield groups of requests with equally many images, at most ``batch`` groups at a time."""
    counts = [len(visuals[group[0].context].features) for group in groups]
    for members in same_size(counts, batch):
        yield [groups[i] for i in members]


def stack_shown(
    image_tokens: ImageTokens | None, rows: Sequence[list[int]], visuals: Sequence[Visuals]
) -> Tensor | None:
    """Stack the features of the images in texts, (B, M, P, C); None without any."""
    if image_tokens is None:
        return None
    return image_tokens.stack(rows, [images.shown for images in visuals])


def read_requests(
    model: Model, requests: Sequence[ScoreRequest], pad: int, shown: Tensor | None = None
) -> Reading:
    """Run the LM once over requests and keep the positions whose predictions are needed.

    Args:
        pad: the token that fills rows.
        shown: features of the images in the texts, (B, M, P, C), see ``ImageTokens.stack``.
    """
    rows = [request.ids for request in requests]
    if isinstance(model, VLMIGForCausalLM):
        return read_padded(model, rows, max(request.positions for request in requests), pad, shown)
    gaps = torch.tensor([[request.gap] for request in requests], device=model.device)
    return model.read(pad_rows(rows, pad, model.device, left=False), gaps)


def read_padded(
    model: VLMIGForCausalLM,
    ids: Sequence[list[int]],
    positions: int,
    pad: int,
    shown: Tensor | None = None,
) -> Reading:
    """Run the LM once over left-padded token lists and keep the last ``positions`` positions of
    each."""
    base = pad_rows(ids, pad, model.device)
    base["position_ids"] = _positions(base["attention_mask"])
    shown = shown if shown is None else shown.to(model.device)
    return model.read({**base, "use_cache": False}, positions, shown_features=shown)


def pad_rows(
    ids: Sequence[list[int]], token: int, device: torch.device, left: bool = True
) -> dict[str, Tensor]:
    """Pad token lists to one length: ``input_ids`` and ``attention_mask``, (B, T)."""
    length = max(len(row) for row in ids)
    rows, masks = [], []
    for row in ids:
        filling = length - len(row)
        rows.append([token] * filling + row if left else row + [token] * filling)
        masks.append([0] * filling + [1] * len(row) if left else [1] * len(row) + [0] * filling)
    return {
        "input_ids": torch.tensor(rows, device=device),
        "attention_mask": torch.tensor(masks, device=device),
    }


def split_shared(
    model: Model, requests: Sequence[ScoreRequest]
) -> tuple[list[ScoreRequest], list[list[ScoreRequest]]]:
    """Separate requests to read one by one from those, grouped by context, whose shared beginning
    is read once.

    Early fusion, masked LMs, layouts that count padding, and sliding windows (which would move over
    the beginning) read every request whole.
    """
    late = isinstance(model, VLMIGForCausalLM) and not model.config.images_in_text
    if not late or model.published or any(DynamicCache(config=model.config.text_config).is_sliding):
        return list(requests), []
    by_context: dict[int, list[ScoreRequest]] = {}
    for request in requests:
        by_context.setdefault(request.context, []).append(request)
    shared = []
    for group in by_context.values():
        if (len(group) - 1) * shared_length(group) >= LEAST:
            shared.append(group)
    contexts = {group[0].context for group in shared}
    return [request for request in requests if request.context not in contexts], shared


def shared_length(requests: Sequence[ScoreRequest]) -> int:
    """Count the tokens that all requests begin with and at none of which a prediction is needed."""
    rows = [request.ids for request in requests]
    first, last = min(rows), max(rows)  # all share what these two in sorted order share
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    return min(length, *(len(request.ids) - request.positions for request in requests))


def read_shared(
    model: VLMIGForCausalLM, groups: Sequence[Sequence[ScoreRequest]], pad: int
) -> Reading | None:
    """Read each group's shared tokens once, then the rest of its requests, in the order of groups
    and requests.

    Returns:
        As many last positions of each request as the longest needs; None where the LM has another
        cache than keys and values.
    """
    beginnings, rests, group_of, positions = [], [], [], 1
    for i, group in enumerate(groups):
        length = shared_length(group)
        beginnings.append(group[0].ids[:length])
        for request in group:
            rests.append(request.ids[length:])
            group_of.append(i)
            positions = max(positions, request.positions)
    beginning = pad_rows(beginnings, pad, model.device)
    numbers = _positions(beginning["attention_mask"])
    cache = model.read({**beginning, "position_ids": numbers, "use_cache": True}, 1).cache
    if not isinstance(cache, DynamicCache):
        return None
    owner = torch.tensor(group_of, device=model.device)
    cache.batch_select_indices(owner)
    rest = pad_rows(rests, pad, model.device)
    mask = torch.cat([beginning["attention_mask"][owner], rest["attention_mask"]], 1)
    base = {
        "input_ids": rest["input_ids"],
        "attention_mask": mask,
        "use_cache": True,
        **cache_argument(cache),
    }
    base["position_ids"] = _positions(mask)[:, -rest["input_ids"].shape[1] :]
    reading = model.read(base, positions)
    reading.cache = None  # nothing follows
    return reading


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp_min(0)


def add_scores(
    model: Model, batch: Batch, visual: VisualStates | None, results: list[Scores]
) -> None:
    """Add the log-probabilities of a batch's candidates to the scores of their contexts, in place.

    Args:
        visual: of each request's images, see ``VLMIGPreTrainedModel.encode_with_blank``; None
            without any. Where the scores have generic images, these follow.
    """
    if visual is None:
        targets = [[results[request.context].text] for request in batch.requests]
        _add([model.text_log_probs(batch.reading)], batch.requests, targets)
        return
    targets = []
    for request in batch.requests:
        scores = results[request.context]
        generic = () if scores.generic is None else scores.generic
        targets.append([scores.text, scores.blank, *scores.per_image, *generic])
    _add(model.predictions(batch.reading, visual), batch.requests, targets)


def add_mixed(
    model: Model, batch: Batch, visual: VisualStates | None, trust: Tensor, values: np.ndarray
) -> None:
    """Add the log-probabilities of the per-token mixture to ``values``, one per context; see
    ``add_scores``.

    Args:
        trust: in each image, (B, K).
    """
    reading = batch.reading
    mixed = model.text_log_probs(reading) if visual is None else model.mixed(reading, visual, trust)
    targets = [[values[request.context : request.context + 1]] for request in batch.requests]
    _add([mixed], batch.requests, targets)


def _add(
    predictions: Iterable[Tensor],
    requests: Sequence[ScoreRequest],
    results: Sequence[Sequence[np.ndarray]],
) -> None:
    """Add up the log-probabilities of each candidate's tokens, for each prediction (B, T, V).

    Args:
        results: of each request, one array per prediction, in which its candidates have their
            entries.
    """
    candidates, starts, indices = candidate_tokens(requests)
    # Only these entries are kept of each prediction, so that no two of them are in memory together.
    picked = [pick(prediction, indices) for prediction in predictions]
    sums = np.add.reduceat(torch.stack(picked).cpu().double().numpy(), starts, 1)
    for (number, candidate), values in zip(candidates, sums.T, strict=True):
        for result, value in zip(results[number], values, strict=True):
            result[candidate] += value


def candidate_tokens(
    requests: Sequence[ScoreRequest],
) -> tuple[list[tuple[int, int]], list[int], tuple[Tensor, Tensor, Tensor]]:
    """Return the candidates that requests score, (request, candidate) each; where each one's tokens
    start among all of them; and the row, the step (from the end) and the id of every token."""
    rows: list[int] = []
    steps: list[int] = []
    tokens: list[int] = []
    starts, candidates = [], []
    for number, request in enumerate(requests):
        for candidate, ids in request.targets:
            candidates.append((number, candidate))
            starts.append(len(tokens))
            rows += [number] * len(ids)
            steps += range(-len(ids), 0)
            tokens += ids
    return candidates, starts, (torch.tensor(rows), torch.tensor(steps), torch.tensor(tokens))


def pick(prediction: Tensor, indices: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Take the entries of tokens, see ``candidate_tokens``, out of a prediction (B, T, V)."""
    row, step, token = indices
    return prediction[row, step + prediction.shape[1], token]
