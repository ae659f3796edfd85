"""Reader: a model with its tokenizer that scores and continues texts beside pictures, batched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmig.config import VLMIGConfig
from vlmig.early_fusion import mark_places
from vlmig.errors import VLMIGError
from vlmig.mixture import image_trust
from vlmig.modeling import VLMIGForCausalLM
from vlmig.reading import Reading
from vlmig.scores import Scores
from vlmig.scoring import Job, Model, collect_jobs, cut_left, mix_jobs, pad_left, read_padded, score_jobs, spaced
from vlmig.store import FeatureStore, default_store
from vlmig.timing import Stopwatch
from vlmig.visuals import Imagination, Visuals

DEFAULT_K = 6


class Reader:
    """Texts beside pictures: their log-probabilities, and how they go on.

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
