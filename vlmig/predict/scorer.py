"""Scorer: from texts and their images to scores and log-likelihoods, batched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.imagination.visuals import Visuals
from vlmig.models.config import VLMIGConfig
from vlmig.models.mixture import Mixture
from vlmig.models.modeling import Model, VLMIGForCausalLM, VLMIGForMaskedLM
from vlmig.models.text_states import Reading
from vlmig.predict.batching import (
    Batch,
    add_mixed,
    add_scores,
    read_batches,
    read_padded,
    read_requests,
    stack_shown,
)
from vlmig.predict.images import VisualCache
from vlmig.predict.scores import Scores, trusts_of
from vlmig.processing.conversation import (
    refuse_placeholders,
    spaced,
    with_placeholders,
    without_placeholders,
)
from vlmig.processing.pairs import ScoreRequest, TextTokenizer, score_requests
from vlmig.processing.tokens import ImageTokens, likely_words
from vlmig.runtime import deterministic_map

ROWS = 32
"""Candidates of one context that are read together on a CPU."""


class Scorer:
    """Scores and continues texts, each with its images.

    Args:
        model: base LM with adapter.
        tokenizer: the base LM's.
        visual_cache: encodes images for the fusion layer.
    """

    def __init__(self, model: Model, tokenizer: Any, visual_cache: VisualCache) -> None:
        self.model, self.tokenizer, self.visual_cache = model, tokenizer, visual_cache
        self.config: VLMIGConfig = model.config
        self.image_tokens = ImageTokens.of(self.config)
        self.masked = isinstance(model, VLMIGForMaskedLM)
        self.texts = TextTokenizer(tokenizer, self.image_tokens, masked=self.masked)

    @property
    def pad(self) -> int:
        """The token that fills rows."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id

    def causal(self, wanted: str) -> VLMIGForCausalLM:
        """Return the model.

        Args:
            wanted: what needs a causal LM.

        Raises:
            VLMIGError: a masked LM.
        """
        if not isinstance(self.model, VLMIGForCausalLM):
            raise VLMIGError(
                f"{wanted} needs a causal LM, this is a masked one; use ask, fill or loglikelihood"
            )
        return self.model

    def score(
        self,
        contexts: Sequence[str],
        choices: Sequence[Sequence[str]],
        visuals: Sequence[Visuals],
        batch: int = 32,
        verbatim: bool = False,
        first: bool = False,
        together: bool = False,
        generic: bool = False,
    ) -> list[Scores]:
        """Score each context's candidates with text alone and with each of its images; images in
        the text are always read.

        Args:
            visuals: from ``VLMIG.imagine`` or ``VLMIG.look``.
            batch: texts that are read together; it changes no score, see ``batches``.
            verbatim: score candidates verbatim, adding no space where neither context nor candidate
                has one.
            first: score each candidate's first sub-token only, as published.
            together: whether these contexts always come together, see ``batches``.
            generic: score with the checkpoint's generic images too, as ``contrast`` needs.

        Raises:
            VLMIGError: an empty candidate; no generic images.
        """
        if not verbatim:
            pairs = zip(contexts, choices, strict=True)
            choices = [spaced("" if first else context, options) for context, options in pairs]

        def score(chunk: slice) -> list[Scores]:
            results = []
            for options, images in zip(choices[chunk], visuals[chunk], strict=True):
                results.append(self.zero(len(options), images, generic))
            inputs = contexts[chunk], choices[chunk], visuals[chunk]
            for group in self.batches(*inputs, batch, first, together):
                states = self.visual_cache(group.visuals, generic)
                add_scores(self.model, group, states, results)
            return results

        chunks = self._chunks(len(contexts), together)
        return list(chain(*deterministic_map(score, chunks, self.model.device)))

    def _chunks(self, count: int, together: bool = False) -> list[slice]:
        """Split texts into those to score at once: one by one on a CPU, else all."""
        step = 1 if self._alone(together) else max(1, count)
        return [slice(start, start + step) for start in range(0, count, step)]

    def _alone(self, together: bool) -> bool:
        return self.model.device.type == "cpu" and not together

    def zero(self, candidates: int, visuals: Visuals, generic: bool = False) -> Scores:
        """Return zeros for ``add_scores``, see ``score``."""
        count = len(self.model.generic_features) if generic else 0
        return Scores.zero(candidates, visuals.fit.numpy(), count)

    def text_only(
        self, context: str, candidates: Sequence[str], visuals: Visuals, scores: Scores
    ) -> np.ndarray:
        """Return the candidates' log-probabilities without any image, those in the text removed
        too, (C,).

        Args:
            scores: of these candidates, with the images.
        """
        if not len(visuals.shown):
            return scores.text
        none = replace(visuals.first(0), shown=visuals.shown[:0])
        bare = without_placeholders(context)
        return self.score([bare], [candidates], [none], verbatim=True)[0].text

    def batches(
        self,
        contexts: Sequence[str],
        choices: Sequence[Sequence[str]],
        visuals: Sequence[Visuals],
        batch: int = 32,
        first: bool = False,
        together: bool = False,
    ) -> Iterator[Batch]:
        """Read candidates in batches of similar length and equally many images.

        On a CPU each context is read by itself with its candidates, in an order of their own: what
        stands beside a text in a batch changes how its sums are rounded. So no score depends on the
        batch, or on other texts.

        Args:
            together: read all contexts together on a CPU too, which is faster: for those that
                always come together, as an item's wordings do.
        """
        requests = self._requests(contexts, choices, visuals, first)
        requests.sort(key=lambda request: (len(request.ids), request.ids))
        groups = [requests]
        if self._alone(together):
            by_context: dict[int, list[ScoreRequest]] = {}
            for request in requests:
                by_context.setdefault(request.context, []).append(request)
            groups, batch = list(by_context.values()), ROWS
        batch = 1 if self.model.padding_counts else batch
        for group in groups:
            yield from read_batches(self.model, group, visuals, batch, self.pad, self.image_tokens)

    def _requests(
        self,
        contexts: Sequence[str],
        choices: Sequence[Sequence[str]],
        visuals: Sequence[Visuals],
        first: bool,
    ) -> list[ScoreRequest]:
        if self.image_tokens is not None:
            refuse_placeholders(list(chain(*choices)), "which is only allowed in the context")
        texts, limits = [], []
        for text, images in zip(contexts, visuals, strict=True):
            texts.append(self._expanded(text, images))
            limits.append(self.limit(images))
        return score_requests(self.texts, texts, choices, limits, first=first)

    def _expanded(self, text: str, visuals: Visuals) -> str:
        """Write a text with all placeholder tokens of its images."""
        if self.image_tokens is None:
            return text
        return self.image_tokens.expand(with_placeholders(text, len(visuals.shown)))

    def limit(self, visuals: Visuals) -> int | None:
        """Return how many tokens of a text fit; images in the text leave no room free before it for
        imagined ones."""
        limit = self.config.text_limit
        if limit and len(visuals.shown) and not len(visuals.features):
            return limit + self.config.visual_tokens
        return limit

    def ids(self, text: str, visuals: Visuals, reserved: int = 0) -> list[int]:
        """Tokenize a text with its images, cut so that ``reserved`` further tokens fit."""
        limit = self.limit(visuals)
        return self.texts.text(self._expanded(text, visuals), limit and limit - reserved)

    @torch.inference_mode()
    def token_log_probs(
        self, text: str, visuals: Visuals, ks: Sequence[int], start: str = ""
    ) -> list[Tensor]:
        """Return the mixture's log-probability of each token of ``text`` but the first, (T - 1,),
        for each k of ``ks``.

        Placeholder tokens are no words and are left out.

        Args:
            start: the beginning of the text, whose tokens are left out; a token that goes beyond
                it is not.
        """
        model, ids = self.causal("token_log_probs"), self.ids(text, visuals)
        first = 1
        if start:
            same = [a == b for a, b in zip(ids, self.ids(start, visuals), strict=False)]
            first = max(1, [*same, False].index(False))
        placeholder = None if self.image_tokens is None else self.image_tokens.placeholder
        positions = [i for i in range(first, len(ids)) if ids[i] != placeholder]
        shown = stack_shown(self.image_tokens, [ids], [visuals])
        reading = read_padded(model, [ids], len(ids), self.pad, shown)
        targets = torch.tensor([ids[i] for i in positions], device=model.device)[:, None]
        before = torch.tensor(positions, device=model.device) - 1
        values = []
        for k in ks:
            log_probs = self.predict(reading, [visuals.first(k)])[0]
            values.append(log_probs[before].gather(1, targets)[:, 0])
        return values

    def predict(self, reading: Reading, visuals: Sequence[Visuals]) -> Tensor:
        """Predict the next token of every position, (B, T, V), by the checkpoint's mixture; by the
        LM alone without images."""
        visual = self.visual_cache.to_mix(visuals)
        if visual is None:
            return self.model.text_log_probs(reading)
        return self.model.mixed(reading, visual, self.trust(visuals))

    def trust(self, visuals: Sequence[Visuals]) -> Tensor:
        """Return the trust in each image, (B, K)."""
        fit = torch.stack([images.fit for images in visuals])
        return Mixture.of_texts(self.config).trust(fit).to(self.model.device)

    @torch.inference_mode()
    def likely(self, context: str, visuals: Visuals, count: int) -> dict[str, float]:
        """Return the likeliest next words, or words for a masked LM's gap, with their
        probabilities."""
        gap = None
        if self.masked:
            ids, gap = self.texts.gap(context, self.limit(visuals))
        else:
            ids = self.ids(context, visuals)
        request = ScoreRequest(0, ids, [(0, [0])], gap)
        shown = stack_shown(self.image_tokens, [ids], [visuals])
        reading = read_requests(self.model, [request], self.pad, shown)
        return likely_words(self.tokenizer, self.predict(reading, [visuals])[0, -1].exp(), count)

    def loglikelihood(
        self,
        pairs: Sequence[tuple[str, str]],
        visuals: Sequence[Visuals],
        per: str = "token",
        batch: int = 32,
    ) -> list[float]:
        """Return log p(continuation | context) of each pair, see ``VLMIG.loglikelihood``."""
        contexts = [context for context, _ in pairs]
        choices = [[continuation] for _, continuation in pairs]
        if per == "sequence":
            mixture = Mixture.of(self.config)
            generic = mixture.mix == "contrast"
            scores = self.score(contexts, choices, visuals, batch, verbatim=True, generic=generic)
            trusts = trusts_of(contexts, scores, mixture)
            sums = zip(scores, trusts, strict=True)
            return [float(s.sequences(len(s.per_image), mixture, t)[0]) for s, t in sums]

        def read(chunk: slice) -> list[float]:
            values = np.zeros(len(contexts[chunk]))
            for group in self.batches(contexts[chunk], choices[chunk], visuals[chunk], batch):
                states = self.visual_cache.to_mix(group.visuals)
                add_mixed(self.model, group, states, self.trust(group.visuals), values)
            return values.tolist()

        return list(chain(*deterministic_map(read, self._chunks(len(pairs)), self.model.device)))
