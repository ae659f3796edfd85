"""VLMIG, the object a user talks to: imagine -> encode -> read -> fuse -> mix -> answer, batched and cached."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlmig.errors import VLMIGError
from vlmig.imagination.store import FeatureStore
from vlmig.imagination.visuals import Visuals
from vlmig.models.checkpoint import (
    absolute,
    describe_language_model,
    load_language_model,
    load_tokenizer,
    place_adapter,
    resolve_checkpoint,
)
from vlmig.models.config import IMAGE, VLMIGConfig, changed
from vlmig.models.mixture import Mixture
from vlmig.models.modeling import VLMIGForMaskedLM, class_for
from vlmig.predict.adaptive_k import Asked, Stopping, ask_all
from vlmig.predict.answer import Answer, Reply, named
from vlmig.predict.batching import Job, read_jobs
from vlmig.predict.images import DEFAULT_K
from vlmig.predict.scorer import Reader
from vlmig.predict.scores import Scores
from vlmig.processing.chat_templates import Turn
from vlmig.processing.conversation import THINKING, Asking, Conversation, Shot, refuse_senseless
from vlmig.processing.image_tokens import unmarked
from vlmig.processing.tokens import likely_words, spaced
from vlmig.runtime import Stopwatch
from vlmig.vision import Pictures, VisionEncoder

logger = logging.getLogger(__name__)
ANSWER = 128
"""Tokens of an answer in words."""


class VLMIG(Reader):
    """A language model that imagines before it answers; texts are its ``Reader``'s."""

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "pocket", *, store: str | Path | FeatureStore | None = None, **kwargs: Any
    ) -> VLMIG:
        """Load a checkpoint: ``pocket`` (embedded), a folder or a hub id.

        Args:
            kwargs: fields of the configuration to change (``protocol="reference"``, ``mix="logit"``, ...); everything else
                goes to the base LM (dtype, device_map, ...).
        """
        folder = resolve_checkpoint(name, kwargs.pop("revision", None))
        stopwatch = Stopwatch()
        with stopwatch("load language model"):
            model = class_for(VLMIGConfig.from_pretrained(folder)).from_pretrained(folder, **changed(kwargs))
            source = model.config.locate(model.config.language_model, folder)
            tokenizer = load_tokenizer(source, model.config.language_model_revision)
        loaded = cls(model, tokenizer, folder, store)
        loaded.stopwatch.seconds |= stopwatch.seconds
        return loaded

    @classmethod
    def from_base(
        cls,
        language_model: str,
        *,
        vision: str,
        generator: str,
        store: str | Path | FeatureStore | None = None,
        **settings: Any,
    ) -> VLMIG:
        """Build a model with an untrained adapter; it can be trained, but says so when asked and refuses evaluation.

        Args:
            language_model: hub id or folder of a causal or masked LM.
            vision: see ``VisionEncoder``.
            generator: see ``VLMIGConfig.imaginer``.
            settings: further fields of ``VLMIGConfig``; everything else goes to the base LM (dtype, device_map, ...).
        """
        fields = {name: settings.pop(name) for name in VLMIGConfig.__annotations__ if name in settings}
        language_model, vision, generator = map(absolute, (language_model, vision, generator))
        built = class_for(describe_language_model(language_model))
        base = load_language_model(built.auto_class, language_model, **settings)
        encoder = VisionEncoder(vision, fields.get("vision_layer", -2), fields.get("vision_features", "patches"))
        blank = encoder.encode_blank()
        shape = {"vision_patches": blank.shape[0], "vision_width": blank.shape[1]}
        names = {"language_model": language_model, "vision_encoder": vision, "imaginer": generator}
        model = built(VLMIGConfig(text_config=base.config.to_dict(), **names, **shape, **fields), base)
        model.blank_features.copy_(blank)
        place_adapter(model)
        logger.warning("the adapter of %s is untrained: its pictures say nothing yet", language_model)
        return cls(model.eval(), load_tokenizer(language_model), Path("."), store)

    def ask(
        self,
        question: str,
        choices: Sequence[str] | None = None,
        k: int | str | None = None,
        *,
        images: Pictures = (),
        shots: Sequence[Shot] = (),
        steps: bool = False,
        **settings: Any,
    ) -> Answer:
        """Answer a question by choosing among ``choices``, or among the likeliest next words without them.

        Args:
            k: imagined pictures; 6 when None, or none where pictures are given. ``auto`` imagines where it can matter and stops when
                the answer is safe (``vlmig.predict.adaptive_k``), ``auto:0.01`` at another error level.
            images: given pictures, or one. With early fusion they stand at the question's marks (``<image>``) or, without any,
                before it; with late fusion they take the imagined ones' place.
            shots: demonstrations that come first: (pictures, question, answer) each.
            steps: whether to think step by step first; ``Answer.rationale`` keeps it.
            settings: ``prompt``, what to imagine, when None what the checkpoint's ``prompt_policy`` makes of the question; ``seed``;
                ``mix`` (``prob``, ``logit``, ``geometric``, ``evidence``) and ``weights`` (``uniform``, ``clip``, ``doubled``,
                ``entropy``), the checkpoint's own when None; ``max_new_tokens`` of the steps.

        Raises:
            VLMIGError: an empty question, fewer than two choices, a negative k, an unknown rule, pictures that do not fit; ``auto``
                without choices, or with pictures or steps.
        """
        own = Asking(**settings)
        refuse_senseless(question, choices)
        mixture = Mixture.of(self.config, own.mix, own.weights)
        gap = self.tokenizer.mask_token if isinstance(self.model, VLMIGForMaskedLM) else ""
        asked = Conversation.of(question.strip(), images, shots, self.config, self.tokenizer)
        context, rationale = asked.context(gap), ""
        rule = self._rule(k, choices is not None and not asked.pictures and not steps)
        visuals = self._around(asked, own.prompt, 0 if isinstance(k, str) else k, own.seed)
        if steps:
            rationale = self._continued(asked, asked.begun(THINKING), visuals, own.max_new_tokens)
            context = asked.concluded(rationale)
        with self.stopwatch("read, fuse, mix"):
            options = list(choices) if choices is not None else list(self._likely(context, visuals, 8))
            verbatim = asked.template != "question" and not steps and not gap
            follow = asked.following(options) if verbatim else options
            if rule is None:
                scores, alone = self._weighed(context, follow, visuals, verbatim)
            else:
                rival = (context, follow if verbatim else spaced([follow])[0])
                scores, visuals = self._until_safe(asked, own, rival, rule)
                alone = scores.text
        count = len(visuals.features)
        mixed = np.exp(scores.mixed(count, mixture))
        return Answer(
            question=question,
            answer=options[int(mixed.argmax())],
            probabilities=dict(zip(options, map(float, mixed), strict=True)),
            per_image=[named(options, scores.per_image[i]) for i in range(count)],
            text_only=named(options, alone),
            weights=[float(a) for a in visuals.alignment],
            images=visuals.images,
            prompt=" / ".join(dict.fromkeys(visuals.prompts)),
            seconds=dict(self.stopwatch.seconds),
            given=bool(asked.pictures) and not len(visuals.shown),
            shown=asked.pictures if len(visuals.shown) else [],
            rationale=rationale,
        )

    def _until_safe(
        self, asked: Conversation, own: Asking, rivals: tuple[str, list[str]], rule: Stopping
    ) -> tuple[Scores, Visuals]:
        """Score candidates behind a text beside as many pictures as the answer needs."""
        rule = replace(rule, group=self.config.imaginer_batch or rule.group)  # as many cost no more than one
        one = Asked(self, [[rivals]], rule, Mixture.of(self.config, own.mix, own.weights))
        ask_all([one], lambda _, n: [self._around(asked, own.prompt, n, own.seed)])
        return one.scores[0], one.visuals

    def _rule(self, k: int | str | None, decides: bool) -> Stopping | None:
        """Return when to stop imagining, or None for a number of pictures."""
        if not isinstance(k, str):
            return None
        if not decides:
            raise VLMIGError(
                f"k={k!r} decides between answers by imagined pictures; expected choices, and neither images nor steps, or a number"
            )
        return Stopping.asked(k, self.config.auto)

    def loglikelihood(
        self, pairs: Sequence[tuple[str, str]], k: int | str | None = None, **settings: Any
    ) -> list[float]:
        """Return log p(continuation | context) of each pair, see ``Reader.loglikelihood``.

        Args:
            k: a number of pictures, or ``auto``: as many as are needed to choose between the continuations of one context.
            settings: of ``Reader.loglikelihood``.

        Raises:
            VLMIGError: ``auto`` and a context with only one continuation, or with images.
        """
        if not isinstance(k, str):
            return super().loglikelihood(pairs, k, **settings)
        rivals: dict[str, list[str]] = {}
        for context, continuation in pairs:
            rivals.setdefault(context, []).append(continuation)
        rule = self._rule(k, settings.get("images") is None and min(map(len, rivals.values()), default=2) > 1)
        assert rule is not None
        texts, mixture = list(rivals), Mixture.of(self.config)
        asked = [Asked(self, [[rival]], rule, mixture) for rival in rivals.items()]

        def draw(members: Sequence[int], count: int) -> list[Visuals]:
            return self.imagine([texts[i] for i in members], count, settings.get("seed", 0), policy=None)

        ask_all(asked, draw)
        seen = {context: own.visuals for context, own in zip(texts, asked, strict=True)}
        return super().loglikelihood(pairs, visuals=[seen[context] for context, _ in pairs], **settings)

    def _weighed(
        self, context: str, choices: Sequence[str], visuals: Visuals, verbatim: bool
    ) -> tuple[Scores, np.ndarray]:
        """Score choices beside and with the pictures, and without any, (C,)."""
        scores = self.score([context], [choices], [visuals], verbatim=verbatim)[0]
        if not len(visuals.shown):
            return scores, scores.text
        bare = replace(visuals.first(0), shown=visuals.shown[:0])
        return scores, self.score([unmarked(context)], [choices], [bare], verbatim=verbatim)[0].text

    def chat(
        self,
        asked: str | Sequence[Turn],
        images: Pictures = (),
        *,
        shots: Sequence[Shot] = (),
        steps: bool = False,
        k: int | None = None,
        seed: int = 0,
        max_new_tokens: int | None = None,
        **settings: Any,
    ) -> Reply:
        """Answer in words, by the checkpoint's ``chat_template``.

        Args:
            asked: a question, or turns (``vlmig.processing.chat_templates.Turn``) of user and assistant that end with one.
            images: given pictures, or one: at the turns' marks (``<image>``) in order or, without any, before the first turn. With
                late fusion they take the imagined ones' place.
            shots: demonstrations that come first: (pictures, question, answer) each.
            steps: whether to think step by step first; ``Reply.rationale`` keeps it.
            k: imagined pictures of the last question; 6 when None, or none where pictures are given.
            max_new_tokens: of the answer, and of the steps; 128 when None, or a quarter of what the model reads.
            settings: go to ``generate``; the likeliest tokens without any.

        Raises:
            VLMIGError: a masked LM, turns in another order or without text, pictures that do not fit.
        """
        self._causal("chat")
        conversation = Conversation.of(asked, images, shots, self.config, self.tokenizer)
        text, rationale = conversation.prompt(), ""
        visuals = self._around(conversation, None, k, seed)
        if steps:
            rationale = self._continued(conversation, conversation.begun(THINKING), visuals, max_new_tokens, **settings)
            text = conversation.concluded(rationale)
        said = self._continued(conversation, text, visuals, max_new_tokens, **settings)
        return Reply(said, rationale, text, conversation.pictures)

    def _around(self, asked: Conversation, prompt: str | None, k: int | None, seed: int) -> Visuals:
        """Give a conversation its pictures: those given, and imagined ones of the last question or a prompt."""
        about, policy = [prompt or asked.about], "question" if prompt else None
        if asked.pictures:
            return self.look([asked.pictures], about, k, seed, policy=policy)[0]
        return self.imagine(about, DEFAULT_K if k is None else k, seed, policy=policy)[0]

    def _continued(
        self, asked: Conversation, text: str, visuals: Visuals, max_new_tokens: int | None, **settings: Any
    ) -> str:
        """Continue an answer up to its end."""
        count = max_new_tokens or min(ANSWER, (self._limit(visuals) or 4 * ANSWER) // 4)
        settings = {"do_sample": False, "stop_strings": [asked.stop], "tokenizer": self.tokenizer, **settings}
        said = self.generate([text], visuals=[visuals], max_new_tokens=count, **settings)[0]
        return said.partition(asked.stop)[0].replace(IMAGE, "").strip()

    def fill(self, text: str, k: int = DEFAULT_K, *, prompt: str | None = None, top: int = 5) -> dict[str, float]:
        """Fill the gap of a text, marked by the masked LM's mask token: the likeliest words and their probabilities.

        Raises:
            VLMIGError: a causal LM; not exactly one gap.
        """
        gap = self.tokenizer.mask_token
        if not isinstance(self.model, VLMIGForMaskedLM) or text.count(gap) != 1:
            raise VLMIGError(f"cannot fill {text!r}; expected a masked LM and a text with one {gap or '[MASK]'}")
        visuals = self.imagine([prompt or text], k, policy="question" if prompt else None)[0]
        return self._likely(text, visuals, top)

    @torch.inference_mode()
    def _likely(self, context: str, visuals: Visuals, count: int) -> dict[str, float]:
        """Return the likeliest next words, or words for a masked LM's gap, with their probabilities."""
        ids = self._ids(context, visuals)
        masked = isinstance(self.model, VLMIGForMaskedLM)
        job = Job(0, ids, [(0, [0])], ids.index(self.tokenizer.mask_token_id) if masked else None)
        reading = read_jobs(self.model, [job], self.pad, self._shown([ids], [visuals]))
        return likely_words(self.tokenizer, self._predict(reading, visuals)[0, -1].exp(), count)
