"""From texts to token ids: requests of a context and its candidates, gaps, image tokens, padding.

Axes: B texts, M images in a text, P patches, C vision width, N visual tokens per image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmig.errors import VLMIGError
from vlmig.models.config import IMAGE, VLMIGConfig

logger = logging.getLogger(__name__)


class ImageTokens(NamedTuple):
    """How token ids hold the images of a text: each image is N placeholder ids."""

    placeholder: int
    each: int
    """N."""

    @classmethod
    def of(cls, config: VLMIGConfig) -> ImageTokens | None:
        """Return those of a model; None where it looks at images beside the text."""
        return cls(config.placeholder_id, config.visual_tokens) if config.images_in_text else None

    def count(self, ids: Sequence[int]) -> int:
        """Count the images in token ids."""
        return ids.count(self.placeholder) // self.each

    def expand(self, text: str) -> str:
        """Write N placeholders for each image of a text."""
        return text.replace(IMAGE, IMAGE * self.each)

    def stack(self, rows: Sequence[list[int]], images: Sequence[Tensor]) -> Tensor | None:
        """Stack the features of the images whose placeholders are in token ids, (B, M, P, C); None
        without any.

        Args:
            images: features of each whole text's images, (M, P, C) each. Where a text was cut, its
                last ones are used.

        Returns:
            Rows with fewer images are padded at their end.
        """
        filled = [features for features in images if len(features)]
        if not filled:
            return None
        counts = [self.count(row) for row in rows]
        cut = sum(count < len(features) for count, features in zip(counts, images, strict=True))
        if cut:
            logger.warning(
                "texts longer than the model's context lost their first images: %d of %d",
                cut,
                len(rows),
            )
        if not any(counts):
            return None
        stacked = filled[0].new_zeros(len(rows), max(counts), *filled[0].shape[1:])
        for row, features, count in zip(stacked, images, counts, strict=True):
            if count:
                row[:count] = features[-count:]
        return stacked


@dataclass
class ScoreRequest:
    """One row of the LM's input: a context with all tokens of a candidate but the last."""

    context: int
    """Its number among the contexts."""
    ids: list[int]
    targets: list[tuple[int, list[int]]] = field(default_factory=list)
    """(candidate, its token ids): candidates of one token share the row of their context."""
    gap: int | None = None
    """Masked LMs: the one masked position, whose prediction is needed."""

    @property
    def positions(self) -> int:
        """Count the final positions whose predictions are needed."""
        return max(len(ids) for _, ids in self.targets)


def score_requests(
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[str],
    choices: Sequence[Sequence[str]],
    limits: Sequence[int | None],
    image_tokens: ImageTokens | None = None,
    *,
    masked: bool = False,
    first: bool = False,
) -> list[ScoreRequest]:
    """Collect the distinct rows of all (context, candidate) pairs; candidates are scored verbatim.

    Args:
        limits: the most tokens of each context with a candidate.
        masked: for a masked LM.
        first: score each candidate's ``first_token`` only.
    """
    requests: dict[tuple, ScoreRequest] = {}

    def add(
        context: int, candidate: int, ids: list[int], target: list[int], gap: int | None = None
    ) -> None:
        request = requests.setdefault(
            (context, tuple(ids), gap), ScoreRequest(context, ids, gap=gap)
        )
        request.targets.append((candidate, target))

    for c, (context, options, limit) in enumerate(zip(contexts, choices, limits, strict=True)):
        for o, option in enumerate(options):
            if not option:
                continue  # nothing to predict: log-probability 0
            if masked:
                for ids, gap, target in encode_gaps(tokenizer, context, option, limit):
                    add(c, o, ids, [target], gap)
            elif first:
                ids = cut_left(tokenizer(context).input_ids, limit, tokenizer, image_tokens)
                add(c, o, ids, [first_token(tokenizer, option)])
            else:
                ids, split = encode_pair(tokenizer, context, option, limit, image_tokens)
                add(c, o, ids[:-1], ids[split:])
    return list(requests.values())


def spaced(choices: Sequence[Sequence[str]]) -> list[list[str]]:
    """Put a space in front of every candidate that does not begin with one.

    Raises:
        VLMIGError: an empty candidate.
    """
    result = []
    for options in choices:
        if not all(option.strip() for option in options):
            raise VLMIGError("an empty candidate among the choices; expected words")
        result.append([option if option[:1].isspace() else " " + option for option in options])
    return result


def encode_pair(
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    continuation: str,
    limit: int | None,
    image_tokens: ImageTokens | None = None,
) -> tuple[list[int], int]:
    """Tokenize the whole text; the continuation begins at the first token that the context alone
    does not have.

    So a token across the join belongs to the continuation, and the model reads the text as it would
    be written. A text longer than ``limit`` is cut on the left but keeps its BOS, see ``cut_left``.

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
        bos = tokenizer.bos_token_id
        start = bos if bos is not None else tokenizer.eos_token_id
        whole, split = [start, *whole], 1
    shorter = cut_left(whole, limit, tokenizer, image_tokens)
    cut = len(whole) - len(shorter)
    if split - cut < 1:
        raise VLMIGError(
            f"a continuation of {len(whole) - split} tokens; at most {limit} with its context fit "
            "this model"
        )
    return shorter, split - cut


def cut_left(
    ids: list[int],
    limit: int | None,
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: ImageTokens | None = None,
) -> list[int]:
    """Cut off the left end of a text longer than ``limit``, after its BOS if it has one.

    An image at the cut goes as a whole.

    Raises:
        VLMIGError: the text's images alone do not fit.
    """
    if limit is None or len(ids) <= limit:
        return ids
    begin = ids[:1] if ids[0] == tokenizer.bos_token_id else []
    start = len(ids) - limit + len(begin)
    if image_tokens is not None:
        images = image_tokens.count(ids)
        if images * image_tokens.each + len(begin) >= limit:
            raise VLMIGError(
                f"{images} images of {image_tokens.each} tokens in a text; at most {limit} "
                "tokens fit this model: show fewer"
            )
        start += -ids[:start].count(image_tokens.placeholder) % image_tokens.each
    return begin + ids[start:]


def first_token(tokenizer: PreTrainedTokenizerBase, option: str) -> int:
    """Return the first sub-token of a candidate tokenized by itself: all that the published code
    scores."""
    return tokenizer(option, add_special_tokens=False).input_ids[0]


def encode_gaps(
    tokenizer: PreTrainedTokenizerBase, context: str, option: str, limit: int | None
) -> Iterator[tuple[list[int], int, int]]:
    """Mask each token of a candidate in turn: (token ids with one mask, its position, the token
    under it).

    The candidate goes to the context's mask token, or to the context's end. A text longer than
    ``limit`` loses tokens far from the candidate, first on the left, then on the right, but never
    the special tokens at both ends.

    Raises:
        VLMIGError: more than one mask token in the context; a candidate that does not fit.
    """
    before, *after = context.split(tokenizer.mask_token)
    if len(after) > 1:
        raise VLMIGError(
            f"{len(after)} gaps in {context!r}; expected one {tokenizer.mask_token}, or none at all"
        )
    start = len(before) if after else len(context)
    inside = option.lstrip() if after else option
    end = start + len(inside)
    encoded = tokenizer(before + inside + "".join(after), return_offsets_mapping=True)
    ids, gaps = list(encoded.input_ids), []
    for i, (a, b) in enumerate(encoded.offset_mapping):
        if a < end and b > start and b > a:
            gaps.append(i)
    excess = max(0, len(ids) - limit) if limit else 0
    left = min(excess, gaps[0] - 1)
    right = min(excess - left, len(ids) - 2 - gaps[-1])
    if left + right < excess:
        raise VLMIGError(
            f"a candidate of {len(gaps)} tokens; at most {limit} with its context fit this model"
        )
    ids = ids[:1] + ids[1 + left : len(ids) - 1 - right] + ids[-1:]
    for position in gaps:
        gap = position - left
        yield ids[:gap] + [tokenizer.mask_token_id] + ids[gap + 1 :], gap, ids[gap]


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


def likely_words(
    tokenizer: PreTrainedTokenizerBase, probabilities: Tensor, count: int
) -> dict[str, float]:
    """Return the likeliest words among the tokens, (V,): one with and one without a leading space
    are one word."""
    likely = probabilities.topk(min(8 * count, len(probabilities)))
    words: dict[str, float] = {}
    for i, p in zip(likely.indices.tolist(), likely.values.tolist(), strict=True):
        word = tokenizer.decode([i]).strip()
        if word and (word in words or len(words) < count):
            words[word] = words.get(word, 0.0) + p
    return words
