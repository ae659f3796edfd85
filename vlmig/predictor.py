"""VLMIG, the object a user talks to: imagine -> encode -> read -> fuse -> mix -> answer, batched and cached."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlmig.answer import Answer, framed, named
from vlmig.checkpoint import (
    absolute,
    describe_language_model,
    load_language_model,
    load_tokenizer,
    place_adapter,
    resolve_checkpoint,
)
from vlmig.config import VLMIGConfig, changed
from vlmig.errors import VLMIGError
from vlmig.modeling import VLMIGForMaskedLM, class_for
from vlmig.reader import DEFAULT_K, Reader
from vlmig.scoring import Job, cut_left, likely_words, read_jobs
from vlmig.store import FeatureStore
from vlmig.timing import Stopwatch
from vlmig.vision import VisionEncoder
from vlmig.visuals import Visuals

logger = logging.getLogger(__name__)


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
        k: int = DEFAULT_K,
        *,
        prompt: str | None = None,
        seed: int = 0,
        mix: str | None = None,
        weights: str | None = None,
    ) -> Answer:
        """Answer a question by choosing among ``choices``, or among the likeliest next words without them.

        Args:
            prompt: what to imagine; when None what the checkpoint's ``prompt_policy`` makes of the question.
            mix: ``prob``, ``logit``, ``geometric`` or ``evidence``; the checkpoint's own when None.
            weights: ``uniform``, ``clip``, ``doubled`` or ``entropy``; the checkpoint's own when None.

        Raises:
            VLMIGError: an empty question, fewer than two choices, a negative k, an unknown rule.
        """
        if not question.strip():
            raise VLMIGError('the question is empty; ask something, e.g. "What is the color of a banana?"')
        if choices is not None and len(set(choices)) < 2:
            raise VLMIGError(f"choices={list(choices)}; expected at least two different answers")
        setting = self.config.setting(mix, weights)
        visuals = self.imagine([prompt or question], k, seed, policy="question" if prompt else None)[0]
        gap = self.tokenizer.mask_token if isinstance(self.model, VLMIGForMaskedLM) else ""
        context = framed(question.strip(), gap)
        with self.stopwatch("read, fuse, mix"):
            options = list(choices) if choices is not None else list(self._likely(context, visuals, 8))
            scores = self.score([context], [options], [visuals])[0]
        mixed = np.exp(scores.mixed(k, *setting))
        per_image = [named(options, scores.per_image[i]) for i in range(k)]
        return Answer(
            question=question,
            answer=options[int(mixed.argmax())],
            probabilities=dict(zip(options, map(float, mixed), strict=True)),
            per_image=per_image,
            text_only=named(options, scores.text),
            weights=[float(a) for a in visuals.alignment],
            images=visuals.images,
            prompt=" / ".join(dict.fromkeys(visuals.prompts)),
            seconds=dict(self.stopwatch.seconds),
        )

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
        ids = cut_left(self.tokenizer(context).input_ids, self.config.text_limit, self.tokenizer)
        masked = isinstance(self.model, VLMIGForMaskedLM)
        job = Job(0, ids, [(0, [0])], ids.index(self.tokenizer.mask_token_id) if masked else None)
        mixed = self._predict(read_jobs(self.model, [job], self.pad), visuals)[0, -1]
        return likely_words(self.tokenizer, mixed.exp(), count)
