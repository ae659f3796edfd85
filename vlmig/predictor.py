"""VLMIG, the object a user talks to: imagine -> encode -> read -> fuse -> mix -> answer, batched and cached."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
from vlmig.early_fusion import mark_places
from vlmig.errors import VLMIGError
from vlmig.mixture import image_trust
from vlmig.modeling import VLMIGForCausalLM, VLMIGForMaskedLM, class_for
from vlmig.reading import Reading
from vlmig.scoring import (
    Job,
    Model,
    Scores,
    collect_jobs,
    cut_left,
    likely_words,
    mix_jobs,
    pad_left,
    read_jobs,
    read_padded,
    score_jobs,
    spaced,
)
from vlmig.store import FeatureStore, default_store
from vlmig.timing import Stopwatch
from vlmig.vision import VisionEncoder
from vlmig.visuals import Imagination, Visuals

logger = logging.getLogger(__name__)

DEFAULT_K = 6


class VLMIG:
    """A language model that imagines before it answers.

    Args:
        model: base LM with adapter.
        tokenizer: the base LM's.
        folder: the checkpoint's folder, against which ``./`` components are resolved.
        store: where imagined features are kept, or its folder; the user's cache when None.
    """

    def __init__(
        self, model: Model, tokenizer: Any, folder: Path, store: str | Path | FeatureStore | None = None
    ) -> None:
        self.model, self.tokenizer, self.folder = model, tokenizer, folder
        self.config: VLMIGConfig = model.config
        if self.config.fusion == "prefix":
            mark_places(tokenizer, self.config)
        self.stopwatch = Stopwatch()
        kept = store if isinstance(store, FeatureStore) else FeatureStore(store or default_store())
        self.imagination = Imagination(self.config, folder, kept, self.stopwatch)

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

    def imagine(
        self,
        texts: Sequence[str],
        k: int,
        seed: int = 0,
        progress: bool = False,
        *,
        policy: str | None = "question",
        options: Sequence[str] | None = None,
    ) -> list[Visuals]:
        """Imagine k pictures for each text, or take them from the store; see ``Imagination.visuals``.

        Args:
            policy: how a text becomes a prompt, see ``prompts_for``; the checkpoint's own way when None.
            options: an answer for each text, which only the policy ``option`` shows.
        """
        gap = self.tokenizer.mask_token or "\0"
        pairs = zip(texts, options or [""] * len(texts), strict=True)
        prompts = [self.imagination.prompts(t.replace(gap, " ").strip(), k, policy, option) for t, option in pairs]
        return self.imagination.visuals(prompts, k, seed, progress)

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

    def score(
        self,
        contexts: Sequence[str],
        choices: Sequence[Sequence[str]],
        visuals: Sequence[Visuals],
        batch: int = 32,
        verbatim: bool = False,
        first: bool = False,
    ) -> list[Scores]:
        """Score each context's candidates beside each of its pictures; all contexts need the same number of pictures.

        Args:
            verbatim: take candidates letter by letter; otherwise one that does not begin with a space gets one in front.
            first: score each candidate's first sub-token only, as published.

        Raises:
            VLMIGError: an empty candidate.
        """
        choices = choices if verbatim else spaced(choices)
        results = [Scores.zero(len(own), seen.alignment.numpy()) for own, seen in zip(choices, visuals, strict=True)]
        for rows, features in self._batches(contexts, choices, visuals, batch, first):
            score_jobs(self.model, rows, features, results, self.pad)
        return results

    def _batches(
        self,
        contexts: Sequence[str],
        choices: Sequence[Sequence[str]],
        visuals: Sequence[Visuals],
        batch: int,
        first: bool = False,
    ) -> Iterator[tuple[list[Job], Tensor]]:
        """Yield jobs of similar length together, with their pictures' features (B, K, P, C)."""
        jobs = sorted(collect_jobs(self.model, self.tokenizer, contexts, choices, first), key=lambda job: len(job.ids))
        batch = 1 if self.model.padding_counts else batch
        for start in range(0, len(jobs), batch):
            rows = jobs[start : start + batch]
            yield rows, torch.stack([visuals[job.context].features for job in rows])

    @property
    def pad(self) -> int:
        """Return the token that fills rows up."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id

    @torch.inference_mode()
    def token_log_probs(self, text: str, visuals: Visuals, ks: Sequence[int]) -> list[Tensor]:
        """Return the mixture's log-probability of each token of ``text`` but the first, (T - 1,), for each number of pictures."""
        ids = cut_left(self.tokenizer(text).input_ids, self.config.text_limit, self.tokenizer)
        reading = read_padded(self._causal("token_log_probs"), [ids[:-1]], len(ids) - 1, self.pad)
        targets = torch.tensor(ids[1:], device=self.model.device)[:, None]
        return [self._predict(reading, visuals.first(k))[0].gather(1, targets)[:, 0] for k in ks]

    def _causal(self, wanted: str) -> VLMIGForCausalLM:
        if not isinstance(self.model, VLMIGForCausalLM):
            raise VLMIGError(f"{wanted} needs a causal LM, this is a masked one; use ask, fill or loglikelihood")
        return self.model

    def _predict(self, reading: Reading, visuals: Visuals) -> Tensor:
        """Mix with the pictures by the checkpoint's rule; without pictures, the LM's own prediction."""
        if not len(visuals.features):
            return self.model.text_log_probs(reading)
        return self.model.mixed(reading, visuals.features[None].to(self.model.device), self._trust(visuals))

    def _trust(self, visuals: Visuals) -> Tensor:
        """Return the trust in one prompt's pictures, (1, K)."""
        trust = image_trust(self.config.weights, visuals.alignment, self.config.alignment_floor)
        return trust[None].to(self.model.device)

    def loglikelihood(
        self,
        pairs: Sequence[tuple[str, str]],
        k: int = DEFAULT_K,
        *,
        seed: int = 0,
        per: str = "token",
        batch: int = 32,
    ) -> list[float]:
        """Return log p(continuation | context) of each pair; pictures show what the ``prompt_policy`` says.

        Continuations are taken letter by letter, leading space included. A masked LM gives the pseudo-log-likelihood.

        Args:
            per: ``token`` mixes at every token (what ``generate`` follows); ``sequence`` mixes the continuation's whole
                probabilities, one per picture. They differ from two tokens on.

        Raises:
            VLMIGError: another ``per``.
        """
        if per not in ("token", "sequence"):
            raise VLMIGError(f"per={per!r}; expected token or sequence")
        contexts, choices = [context for context, _ in pairs], [[continuation] for _, continuation in pairs]
        visuals = self.imagine(contexts, k, seed, policy=None, options=[own for _, own in pairs])
        if per == "sequence":
            scored = self.score(contexts, choices, visuals, batch, verbatim=True)
            return [float(scores.sequences(k, *self.config.setting())[0]) for scores in scored]
        values = np.zeros(len(pairs))
        for rows, features in self._batches(contexts, choices, visuals, batch):
            trust = torch.cat([self._trust(visuals[job.context]) for job in rows])
            mix_jobs(self.model, rows, features, trust, values, self.pad)
        return [float(value) for value in values]

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
    def generate(
        self,
        prompts: Sequence[str],
        k: int = DEFAULT_K,
        *,
        seed: int = 0,
        batch: int = 8,
        visuals: Sequence[Visuals] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Continue each prompt, its pictures mixed in at every token; ``settings`` go to ``generate``.

        Args:
            visuals: pictures already imagined, k of each prompt.

        Raises:
            VLMIGError: a masked LM.
        """
        model = self._causal("generate")
        visuals = self.imagine(prompts, k, seed, policy=None) if visuals is None else visuals
        room = self.config.text_limit and self.config.text_limit - settings.setdefault("max_new_tokens", 20)
        if room is not None and room < 1:
            raise VLMIGError(
                f"max_new_tokens={settings['max_new_tokens']}; this model has {self.config.text_limit} places"
            )
        batch, texts = 1 if self.model.padding_counts else batch, []
        for start in range(0, len(prompts), batch):
            rows = [self.tokenizer(prompt).input_ids for prompt in prompts[start : start + batch]]
            rows = [cut_left(row, room, self.tokenizer) for row in rows]
            seen = visuals[start : start + batch]
            inputs = pad_left(rows, self.pad, model.device)
            if k:
                inputs["visual_features"] = torch.stack([v.features for v in seen]).to(model.device)
                inputs["image_weights"] = torch.cat([self._trust(v) for v in seen])
            output = model.generate(**inputs, pad_token_id=self.pad, **settings)[:, inputs["input_ids"].shape[1] :]
            texts += self.tokenizer.batch_decode(output, skip_special_tokens=True)
        return texts

    @torch.inference_mode()
    def _likely(self, context: str, visuals: Visuals, count: int) -> dict[str, float]:
        """Return the likeliest next words, or words for a masked LM's gap, with their probabilities."""
        ids = cut_left(self.tokenizer(context).input_ids, self.config.text_limit, self.tokenizer)
        masked = isinstance(self.model, VLMIGForMaskedLM)
        job = Job(0, ids, [(0, [0])], ids.index(self.tokenizer.mask_token_id) if masked else None)
        mixed = self._predict(read_jobs(self.model, [job], self.pad), visuals)[0, -1]
        return likely_words(self.tokenizer, mixed.exp(), count)
