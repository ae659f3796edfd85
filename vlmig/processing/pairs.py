"""From texts to token ids: a text, a context with a continuation, gaps; and the rows that score
candidates."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vlmig.errors import VLMIGError
from vlmig.processing.tokens import ImageTokens, cut_left

logger = logging.getLogger(__name__)


class TextTokenizer:
    """The one place where texts become token ids to score or to continue.

    A text begins as the tokenizer begins it (BOS, [CLS]), but never twice: one that already holds
    BOS gets no other. Nothing stands behind a text of a causal LM, since an EOS there would say
    that it is over; a masked LM's text ends as the tokenizer ends it ([SEP]).

    Texts that are cut and candidates that the LM cannot write give one warning each.

    Args:
        tokenizer: of the base LM.
        image_tokens: how images stand in a text; None where they do not.
        masked: whether the LM is a masked one.
    """

    def __init__(
        self, tokenizer: Any, image_tokens: ImageTokens | None = None, *, masked: bool = False
    ) -> None:
        self.tokenizer, self.image_tokens, self.masked = tokenizer, image_tokens, masked
        self._warned: set[str] = set()

    def words(self, text: str) -> list[int]:
        """Tokenize a text alone, with nothing before or behind it."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer writes before and behind a text; read once, since it takes as long as
        reading a sentence."""
        alone, whole = self.words("a"), self.tokenizer("a").input_ids
        begin = 0
        while whole[begin : begin + len(alone)] != alone and begin < len(whole):
            begin += 1
        return whole[:begin], whole[begin + len(alone) :]

    @property
    def start(self) -> list[int]:
        """What the first token of a text is predicted from: how the tokenizer begins a text, else
        BOS, else EOS, as the LM's training texts were separated.

        Raises:
            VLMIGError: there is none of them.
        """
        begin, _ = self.around
        if begin:
            return begin
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if bos is None and eos is None:
            raise VLMIGError(
                "an empty context, and a tokenizer without BOS and EOS to begin with; expected a "
                "context"
            )
        return [eos if bos is None else bos]

    def text(self, text: str, limit: int | None = None) -> list[int]:
        """Tokenize a text; one longer than ``limit`` is cut on the left but keeps its beginning."""
        ids, _ = self._framed(self.words(text))
        return self._cut(ids, limit)

    def pair(self, context: str, continuation: str, limit: int | None) -> tuple[list[int], int]:
        """Tokenize a context with its continuation as one text, for a causal LM.

        The continuation begins at the first token that the context alone does not have. So a token
        across the join belongs to the continuation, and the model reads the text as it would be
        written. Spaces at the context's end belong to it too, see ``moved``. A text too long loses
        its left end but keeps its beginning.

        Args:
            limit: the most tokens that are read: all but the last, which is only predicted.

        Returns:
            Token ids and the index of the continuation's first token (at least 1).

        Raises:
            VLMIGError: a continuation without a token of its own, or one that does not fit.
        """
        context, continuation = moved(context, continuation)
        alone, _ = self._framed(self.words(context))
        whole, _ = self._framed(self.words(context + continuation))
        if whole == alone:
            raise _nothing(continuation)
        split = 0
        while split < min(len(alone), len(whole) - 1) and alone[split] == whole[split]:
            split += 1
        if split == 0:  # nothing to predict the first token from
            start = self.start
            split = len(start)
            if whole[:split] != start or len(whole) == split:
                whole = start + whole
        shorter = self._cut(whole[:-1], limit) + whole[-1:]
        cut = len(whole) - len(shorter)
        if split - cut < 1:
            raise VLMIGError(
                f"a continuation of {len(whole) - split} tokens; at most {limit} fit this model "
                "with the token before them"
            )
        self._check_known(continuation, whole[split:])
        return shorter, split - cut

    def gaps(
        self, context: str, option: str, limit: int | None
    ) -> Iterator[tuple[list[int], int, int]]:
        """Mask each token of a candidate in turn, for a masked LM: (token ids with one mask, its
        position, the token under it).

        The candidate goes to the context's mask token, or to the context's end. A text longer than
        ``limit`` loses tokens far from the candidate, first on the left, then on the right, but
        never the special tokens at both ends.

        Raises:
            VLMIGError: more than one mask token in the context; a candidate without a token of its
                own, or one that does not fit.
        """
        mask = self.tokenizer.mask_token
        before, *after = context.split(mask)
        if len(after) > 1:
            raise VLMIGError(
                f"{len(after)} gaps in {context!r}; expected one {mask}, or none at all"
            )
        if after:
            inside = option.lstrip()
        else:
            before, inside = moved(context, option)
        start, end = len(before), len(before) + len(inside)
        encoded = self.tokenizer(
            before + inside + "".join(after), add_special_tokens=False, return_offsets_mapping=True
        )
        ids, added = self._framed(encoded.input_ids)
        positions = []
        for i, (a, b) in enumerate(encoded.offset_mapping, added):
            if a < end and b > start and b > a:
                positions.append(i)
        if not positions:
            raise _nothing(option)
        self._check_known(option, [ids[position] for position in positions])
        ids, left = self._cut_around(ids, positions[0], positions[-1], limit)
        for position in positions:
            gap = position - left
            yield ids[:gap] + [self.tokenizer.mask_token_id] + ids[gap + 1 :], gap, ids[gap]

    def gap(self, context: str, limit: int | None) -> tuple[list[int], int]:
        """Tokenize a text with a gap, for a masked LM: its ids, cut as ``gaps`` cuts them, and the
        gap's position."""
        ids, _ = self._framed(self.words(context))
        position = ids.index(self.tokenizer.mask_token_id)
        ids, left = self._cut_around(ids, position, position, limit)
        return ids, position - left

    def first_token(self, option: str) -> int:
        """Return the first sub-token of a candidate tokenized by itself: all that the published
        code scores.

        Raises:
            VLMIGError: a candidate without a token.
        """
        ids = self.words(option)
        if not ids:
            raise _nothing(option)
        return ids[0]

    def unknown(self, text: str, ids: Sequence[int] | None = None) -> bool:
        """Tell whether the LM lacks some word of a text.

        Args:
            ids: of the text, if they are known.
        """
        unk = self.tokenizer.unk_token_id
        if unk is None or self.tokenizer.unk_token in text:
            return False
        return unk in (self.words(text) if ids is None else ids)

    def refuse_unknown(self, choices: Sequence[str]) -> None:
        """Refuse choices that the LM cannot tell apart.

        Raises:
            VLMIGError: one of them holds a word that the LM lacks.
        """
        for choice in choices:
            if self.unknown(choice):
                raise VLMIGError(
                    f"the choice {choice!r} holds a word that this LM does not know "
                    f"({self.tokenizer.unk_token}); expected words of its vocabulary"
                )

    def _framed(self, ids: list[int]) -> tuple[list[int], int]:
        """Add what a text begins and ends with, as far as it is not there; and count what was added
        before it."""
        begin, end = self.around
        if ids[: len(begin)] == begin:
            begin = []
        if not self.masked or ids[len(ids) - len(end) :] == end:
            end = []
        return begin + ids + end, len(begin)

    def _cut(self, ids: list[int], limit: int | None) -> list[int]:
        """Cut as ``cut_left`` does, behind the beginning."""
        if limit is None or len(ids) <= limit:
            return ids
        begin, _ = self.around
        protected = len(begin) or int(ids[0] == self.tokenizer.bos_token_id)
        shorter = cut_left(ids, limit, protected, self.image_tokens)
        self._warn_cut(ids, limit, shorter)
        return shorter

    def _cut_around(
        self, ids: list[int], first: int, last: int, limit: int | None
    ) -> tuple[list[int], int]:
        """Cut far from the gaps ``first`` to ``last``: the ids, and how many are lost before
        them."""
        if limit is None or len(ids) <= limit:
            return ids, 0
        begin, end = map(len, self.around)
        excess, behind = len(ids) - limit, len(ids) - end
        left = min(excess, first - begin)
        right = min(excess - left, behind - 1 - last)
        if left + right < excess:
            raise VLMIGError(
                f"a candidate of {last - first + 1} tokens; at most {limit} with its context fit "
                "this model"
            )
        shorter = ids[:begin] + ids[begin + left : behind - right] + ids[behind:]
        self._warn_cut(ids, limit, shorter)
        return shorter, left

    def _warn_cut(self, ids: list[int], limit: int, shorter: list[int]) -> None:
        kind = lost = "its left end"
        if self.image_tokens is not None:
            before, after = self.image_tokens.count(ids), self.image_tokens.count(shorter)
            if after < before:
                kind, lost = "images", f"{before - after} of its {before} images"
        self._warn(
            kind,
            f"a text of {len(ids)} tokens was cut to {limit}, all that fits this model, and lost "
            f"{lost}; others are cut too, and this is said once",
        )

    def _check_known(self, option: str, ids: Sequence[int]) -> None:
        if self.unknown(option, ids):
            self._warn(
                "unknown",
                f"the candidate {option.strip()!r} holds a word that this LM does not know and "
                f"reads as {self.tokenizer.unk_token}, so its score says nothing; there may be "
                "others, and this is said once",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning(message)


def moved(context: str, continuation: str) -> tuple[str, str]:
    """Move the spaces at a context's end to the continuation, as lm-eval's models do: tokens begin
    with a space."""
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def _nothing(continuation: str) -> VLMIGError:
    return VLMIGError(
        f"the continuation {continuation!r} has no token of its own with this LM's tokenizer; "
        "expected words"
    )


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
    tokenizer: TextTokenizer,
    contexts: Sequence[str],
    choices: Sequence[Sequence[str]],
    limits: Sequence[int | None],
    *,
    first: bool = False,
) -> list[ScoreRequest]:
    """Collect the distinct rows of all (context, candidate) pairs; candidates are scored verbatim.

    Args:
        limits: the most tokens that are read of each context with a candidate.
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
            if tokenizer.masked:
                for ids, gap, target in tokenizer.gaps(context, option, limit):
                    add(c, o, ids, [target], gap)
            elif first:
                add(c, o, tokenizer.text(context, limit), [tokenizer.first_token(option)])
            else:
                ids, split = tokenizer.pair(context, option, limit)
                add(c, o, ids[:-1], ids[split:])
    return list(requests.values())
