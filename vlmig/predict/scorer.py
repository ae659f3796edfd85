"""Scorer: from texts and their images to scores, log-likelihoods and generated text, batched."""

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
from vlmig.models.config import IMAGE, VLMIGConfig
from vlmig.models.mixture import Mixture
from vlmig.models.modeling import Model, VLMIGForCausalLM, VLMIGForMaskedLM
from vlmig.models.text_states import Reading
from vlmig.predict.batching import (
    Batch,
    add_mixed,
    add_scores,
    read_padded,
    read_requests,
    read_shared,
    same_size,
    split_shared,
)
from vlmig.predict.images import VisualCache
from vlmig.predict.scores import Scores
from vlmig.processing.conversation import (
    THINKING,
    Conversation,
    refuse_placeholders,
    with_placeholders,
    without_placeholders,
)
from vlmig.processing.tokens import (
    ImageTokens,
    ScoreRequest,
    cut_left,
    likely_words,
    pad_rows,
    score_requests,
    spaced,
)

ANSWER_TOKENS = 128
"""The most tokens of an answer in words."""


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
    ) -> list[Scores]:
        """Score each context's candidates with text alone and with each of its images; images in
        the text are always read.

        Args:
            visuals: from ``VLMIG.imagine`` or ``VLMIG.look``.
            verbatim: score candidates verbatim, adding no leading space.
            first: score each candidate's first sub-token only, as published.

        Raises:
            VLMIGError: an empty candidate.
        """
        choices = choices if verbatim else spaced(choices)
        results = []
        for options, images in zip(choices, visuals, strict=True):
            results.append(Scores.zero(len(options), images.fit.numpy()))
        with torch.inference_mode():
            for group in self.batches(contexts, choices, visuals, batch, first):
                add_scores(self.model, group, self.visual_cache(group.visuals), results)
        return results

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
    ) -> Iterator[Batch]:
        """Read candidates in batches of similar length and equally many images."""
        requests = self._requests(contexts, choices, visuals, first)
        requests.sort(key=lambda request: len(request.ids))
        single, shared = split_shared(self.model, requests)
        batch = 1 if self.model.padding_counts else batch
        largest = max((len(group) for group in shared), default=1)
        for groups in self._same_images(shared, visuals, max(1, batch // largest)):
            reading = read_shared(self.causal("a shared context"), groups, self.pad)
            members = list(chain(*groups))
            if reading is None:
                single += members
            else:
                yield Batch(members, [visuals[request.context] for request in members], reading)
        for groups in self._same_images([[request] for request in single], visuals, batch):
            members = list(chain(*groups))
            images = [visuals[request.context] for request in members]
            shown = self._shown([request.ids for request in members], images)
            yield Batch(members, images, read_requests(self.model, members, self.pad, shown))

    def _requests(
        self,
        contexts: Sequence[str],
        choices: Sequence[Sequence[str]],
        visuals: Sequence[Visuals],
        first: bool,
    ) -> list[ScoreRequest]:
        if self.image_tokens is not None:
            refuse_placeholders(list(chain(*choices)), "which is only allowed in the context")
        texts = [
            self._expanded(text, images) for text, images in zip(contexts, visuals, strict=True)
        ]
        limits = [self.limit(images) for images in visuals]
        masked = isinstance(self.model, VLMIGForMaskedLM)
        return score_requests(
            self.tokenizer, texts, choices, limits, self.image_tokens, masked=masked, first=first
        )

    @staticmethod
    def _same_images(
        groups: Sequence[list[ScoreRequest]], visuals: Sequence[Visuals], batch: int
    ) -> Iterator[list[list[ScoreRequest]]]:
        """Yield groups of requests with equally many images, at most ``batch`` groups at a time."""
        counts = [len(visuals[group[0].context].features) for group in groups]
        for members in same_size(counts, batch):
            yield [groups[i] for i in members]

    def _expanded(self, text: str, visuals: Visuals) -> str:
        """Write a text with all placeholder tokens of its images."""
        if self.image_tokens is None:
            return text
        return self.image_tokens.expand(with_placeholders(text, len(visuals.shown)))

    def _shown(self, rows: Sequence[list[int]], visuals: Sequence[Visuals]) -> Tensor | None:
        """Stack the features of the images in the texts, (B, M, P, C); None without any."""
        if self.image_tokens is None:
            return None
        return self.image_tokens.stack(rows, [images.shown for images in visuals])

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
        ids = self.tokenizer(self._expanded(text, visuals)).input_ids
        return cut_left(ids, limit and limit - reserved, self.tokenizer, self.image_tokens)

    @torch.inference_mode()
    def token_log_probs(self, text: str, visuals: Visuals, ks: Sequence[int]) -> list[Tensor]:
        """Return the mixture's log-probability of each token of ``text`` but the first, (T - 1,),
        for each k of ``ks``.

        Placeholder tokens are no words and are left out.
        """
        model, ids = self.causal("token_log_probs"), self.ids(text, visuals)
        placeholder = None if self.image_tokens is None else self.image_tokens.placeholder
        positions = [i for i in range(1, len(ids)) if ids[i] != placeholder]
        reading = read_padded(model, [ids], len(ids), self.pad, self._shown([ids], [visuals]))
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
        visual = self.visual_cache(visuals)
        if visual is None:
            return self.model.text_log_probs(reading)
        return self.model.mixed(reading, visual, self._trust(visuals))

    def _trust(self, visuals: Sequence[Visuals]) -> Tensor:
        """Return the trust in each image, (B, K)."""
        fit = torch.stack([images.fit for images in visuals])
        return Mixture.of(self.config).trust(fit).to(self.model.device)

    @torch.inference_mode()
    def likely(self, context: str, visuals: Visuals, count: int) -> dict[str, float]:
        """Return the likeliest next words, or words for a masked LM's gap, with their
        probabilities."""
        ids = self.ids(context, visuals)
        gap = (
            ids.index(self.tokenizer.mask_token_id)
            if isinstance(self.model, VLMIGForMaskedLM)
            else None
        )
        request = ScoreRequest(0, ids, [(0, [0])], gap)
        reading = read_requests(self.model, [request], self.pad, self._shown([ids], [visuals]))
        return likely_words(self.tokenizer, self.predict(reading, [visuals])[0, -1].exp(), count)

    def loglikelihood(
        self,
        pairs: Sequence[tuple[str, str]],
        visuals: Sequence[Visuals],
        per: str = "token",
        batch: int = 32,
    ) -> list[float]:
        """Return log p(continuation | context) of each pair, see ``VLMIG.loglikelihood``."""
        contexts, choices = (
            [context for context, _ in pairs],
            [[continuation] for _, continuation in pairs],
        )
        if per == "sequence":
            mixture, sums = Mixture.of(self.config), []
            for scores in self.score(contexts, choices, visuals, batch, verbatim=True):
                sums.append(float(scores.sequences(len(scores.per_image), mixture)[0]))
            return sums
        values = np.zeros(len(pairs))
        with torch.inference_mode():
            for group in self.batches(contexts, choices, visuals, batch):
                visual = self.visual_cache(group.visuals)
                add_mixed(self.model, group, visual, self._trust(group.visuals), values)
        return values.tolist()

    def generate(
        self, prompts: Sequence[str], visuals: Sequence[Visuals], batch: int = 8, **settings: Any
    ) -> list[str]:
        """Continue each prompt, its images mixed in at every token, see ``VLMIG.generate``."""
        model, count = self.causal("generate"), settings.setdefault("max_new_tokens", 20)
        for images in visuals:
            room = self.limit(images)
            if room is not None and count >= room:
                raise VLMIGError(f"max_new_tokens={count}; this model has {room} places")
        texts: dict[int, list[str]] = {}
        batch = 1 if self.model.padding_counts else batch
        for members in same_size([len(images.features) for images in visuals], batch):
            rows = [self.ids(prompts[i], visuals[i], count) for i in members]
            inputs = self._inputs(rows, [visuals[i] for i in members])
            with torch.inference_mode():
                output = model.generate(**inputs, pad_token_id=self.pad, **settings)
            output = output[:, inputs["input_ids"].shape[1] :].unflatten(0, (len(members), -1))
            for i, sequences in zip(members, output, strict=True):
                texts[i] = self.tokenizer.batch_decode(sequences, skip_special_tokens=True)
        return list(chain(*(texts[i] for i in range(len(prompts)))))

    def think(
        self,
        conversation: Conversation,
        visuals: Visuals,
        max_new_tokens: int | None,
        **settings: Any,
    ) -> str:
        """Write the chain of thought before the last answer.

        Raises:
            VLMIGError: the model writes none.
        """
        start = conversation.begin_answer(THINKING)
        rationale = self.answer(conversation, start, visuals, max_new_tokens, **settings)
        if not rationale:
            raise VLMIGError(
                "steps have no effect: this model writes none; leave --steps (steps=True) out"
            )
        return rationale

    def answer(
        self,
        conversation: Conversation,
        text: str,
        visuals: Visuals,
        max_new_tokens: int | None,
        **settings: Any,
    ) -> str:
        """Continue ``text``, which begins an answer of the conversation, up to the answer's end."""
        room = self.limit(visuals) or 4 * ANSWER_TOKENS
        stop = conversation.stop
        defaults = {"do_sample": False, "stop_strings": [stop], "tokenizer": self.tokenizer}
        settings = {**defaults, **settings}
        settings["max_new_tokens"] = max_new_tokens or min(ANSWER_TOKENS, room // 4)
        answer = self.generate([text], [visuals], **settings)[0]
        return answer.partition(stop)[0].replace(IMAGE, "").strip()

    def _inputs(self, rows: list[list[int]], visuals: list[Visuals]) -> dict[str, Tensor]:
        """Combine token ids and images to the model's inputs."""
        inputs = pad_rows(rows, self.pad, self.model.device)
        shown = self._shown(rows, visuals)
        if shown is not None:
            inputs["shown_features"] = shown.to(self.model.device)
        features = torch.stack([images.features for images in visuals])
        if features.shape[1]:
            inputs["visual_features"] = features.to(self.model.device)
            inputs["image_weights"] = self._trust(visuals)
        return inputs
