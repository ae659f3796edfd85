"""From texts to token ids: pairs of context and target, gaps, padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmig.errors import VLMIGError
from vlmig.processing.image_tokens import Places


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


def pad_left(ids: Sequence[list[int]], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Pad token lists on the left to one length: ``input_ids`` and ``attention_mask``, (B, T)."""
    length = max(map(len, ids))
    rows = torch.tensor([[pad] * (length - len(row)) + row for row in ids], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids], device=device)
    return {"input_ids": rows, "attention_mask": mask}


def likely_words(tokenizer: PreTrainedTokenizerBase, probabilities: Tensor, count: int) -> dict[str, float]:
    """Return the likeliest words among the tokens, (V,): one with and one without a leading space are one word."""
    likely = probabilities.topk(min(8 * count, len(probabilities)))
    words: dict[str, float] = {}
    for i, p in zip(likely.indices.tolist(), likely.values.tolist(), strict=True):
        word = tokenizer.decode([i]).strip()
        if word and (word in words or len(words) < count):
            words[word] = words.get(word, 0.0) + p
    return words
