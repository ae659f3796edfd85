"""Reader: a model with its tokenizer that scores and continues texts beside pictures, batched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.imagination.visuals import Visuals
from vlmig.models.mixture import Mixture
from vlmig.models.modeling import VLMIGForCausalLM
from vlmig.models.text_states import Reading
from vlmig.predict.batching import (
    Job,
    alike,
    collect_jobs,
    mix_reading,
    part,
    read_jobs,
    read_padded,
    read_shared,
    score_reading,
)
from vlmig.predict.images import Looker
from vlmig.predict.scores import Scores
from vlmig.processing.image_tokens import places_of, refuse_marks, stacked, written
from vlmig.processing.tokens import cut_left, pad_left, spaced
from vlmig.vision import Pictures


class Reader(Looker):
    """Texts beside pictures: their log-probabilities, and how they go on."""

    def score(
        self,
        contexts: Sequence[str],
        choices: Sequence[Sequence[str]],
        visuals: Sequence[Visuals],
        batch: int = 32,
        verbatim: bool = False,
        first: bool = False,
    ) -> list[Scores]:
        """Score each context's candidates beside each of its pictures, and with those that are shown in it.

        Args:
            visuals: from ``imagine`` or ``look``.
            verbatim: take candidates letter by letter; otherwise one that does not begin with a space gets one in front.
            first: score each candidate's first sub-token only, as published.

        Raises:
            VLMIGError: an empty candidate.
        """
        choices = choices if verbatim else spaced(choices)
        results = [Scores.zero(len(own), seen.alignment.numpy()) for own, seen in zip(choices, visuals, strict=True)]
        with torch.inference_mode():
            for rows, seen, reading in self.readings(contexts, choices, visuals, batch, first):
                score_reading(self.model, reading, rows, self.sights(seen), results)
        return results

    def readings(
        self,
        contexts: Sequence[str],
        choices: Sequence[Sequence[str]],
        visuals: Sequence[Visuals],
        batch: int = 32,
        first: bool = False,
    ) -> Iterator[tuple[list[Job], list[Visuals], Reading]]:
        """Read jobs of similar length, and with as many pictures beside them, together: (jobs, their pictures, what was read)."""
        early = self.config.fusion == "prefix"
        refuse_marks([option for own in choices for option in own] if early else [], "pictures stand in the context")
        texts = [self._written(context, seen) for context, seen in zip(contexts, visuals, strict=True)]
        limits = [self._limit(seen) for seen in visuals]
        jobs = collect_jobs(self.model, self.tokenizer, texts, choices, first, limits)
        alone, shared = part(self.model, sorted(jobs, key=lambda job: len(job.ids)))
        for families in self._together(shared, visuals, max(1, batch // max(map(len, shared), default=1))):
            rows = list(chain(*families))
            reading = read_shared(self._causal("a shared context"), families, self.pad)
            if reading is None:
                alone += rows
            else:
                yield rows, [visuals[job.context] for job in rows], reading
        for singles in self._together([[job] for job in alone], visuals, batch):
            rows = list(chain(*singles))
            seen = [visuals[job.context] for job in rows]
            shown = self._shown([job.ids for job in rows], seen)
            yield rows, seen, read_jobs(self.model, rows, self.pad, shown)

    def _together(
        self, families: Sequence[list[Job]], visuals: Sequence[Visuals], batch: int
    ) -> Iterator[list[list[Job]]]:
        """Yield some families of jobs at a time, with as many pictures beside them."""
        for places in self._batches([visuals[own[0].context] for own in families], batch):
            yield [families[place] for place in places]

    def _batches(self, visuals: Sequence[Visuals], batch: int) -> Iterator[list[int]]:
        """Yield numbers of texts with as many pictures beside them, in batches."""
        return alike([len(seen.features) for seen in visuals], 1 if self.model.padding_counts else batch)

    def _written(self, text: str, seen: Visuals) -> str:
        """Write the places of a text's shown pictures out."""
        return written(text, len(seen.shown), self.config)

    def _shown(self, rows: Sequence[list[int]], seen: Sequence[Visuals]) -> Tensor | None:
        """Stack the pictures that are shown in texts, (B, M, P, C); None without any."""
        return stacked(rows, [own.shown for own in seen], places_of(self.config))

    def _limit(self, seen: Visuals) -> int | None:
        """Return how many tokens of a text fit; where pictures are only shown, none has to fit before the text."""
        alone = len(seen.shown) and not len(seen.features)
        return self.config.text_limit and self.config.text_limit + (self.config.visual_tokens if alone else 0)

    def _ids(self, text: str, seen: Visuals, kept: int = 0) -> list[int]:
        """Tokenise a text with its shown pictures, cut so that ``kept`` further tokens fit."""
        limit = self._limit(seen)
        ids = self.tokenizer(self._written(text, seen)).input_ids
        return cut_left(ids, limit and limit - kept, self.tokenizer, places_of(self.config))

    @property
    def pad(self) -> int:
        """Return the token that fills rows up."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id

    @torch.inference_mode()
    def token_log_probs(self, text: str, visuals: Visuals, ks: Sequence[int]) -> list[Tensor]:
        """Return the mixture's log-probability of each token of ``text`` but the first, (T - 1,), for each number of pictures.

        The places of shown pictures are no words, and are left out.
        """
        model, ids, places = self._causal("token_log_probs"), self._ids(text, visuals), places_of(self.config)
        asked = [i for i in range(1, len(ids)) if places is None or ids[i] != places.token]
        reading = read_padded(model, [ids], len(ids), self.pad, self._shown([ids], [visuals]))
        targets = torch.tensor([ids[i] for i in asked], device=model.device)[:, None]
        before = torch.tensor(asked, device=model.device) - 1
        return [self._predict(reading, visuals.first(k))[0, before].gather(1, targets)[:, 0] for k in ks]

    def _causal(self, wanted: str) -> VLMIGForCausalLM:
        if not isinstance(self.model, VLMIGForCausalLM):
            raise VLMIGError(f"{wanted} needs a causal LM, this is a masked one; use ask, fill or loglikelihood")
        return self.model

    def _predict(self, reading: Reading, visuals: Visuals) -> Tensor:
        """Mix with the pictures by the checkpoint's rule; without pictures, the LM's own prediction."""
        visual = self.sights([visuals])
        if visual is None:
            return self.model.text_log_probs(reading)
        return self.model.mixed(reading, visual, self._trust(visuals))

    def _trust(self, visuals: Visuals) -> Tensor:
        """Return the trust in one prompt's pictures, (1, K)."""
        return Mixture.of(self.config).trust(visuals.alignment)[None].to(self.model.device)

    def loglikelihood(
        self,
        pairs: Sequence[tuple[str, str]],
        k: int | None = None,
        *,
        images: Sequence[Pictures] | None = None,
        seed: int = 0,
        per: str = "token",
        batch: int = 32,
        visuals: Sequence[Visuals] | None = None,
    ) -> list[float]:
        """Return log p(continuation | context) of each pair; pictures show what the ``prompt_policy`` says.

        Continuations are taken letter by letter, leading space included. A masked LM gives the pseudo-log-likelihood.

        Args:
            k: imagined pictures; 6 when None, or none beside ``images``.
            images: pictures that are given for each context, see ``look``.
            per: ``token`` mixes at every token (what ``generate`` follows); ``sequence`` mixes the continuation's whole
                probabilities, one per picture. They differ from two tokens on.
            visuals: from ``imagine`` or ``look``, instead of k and images.

        Raises:
            VLMIGError: another ``per``.
        """
        if per not in ("token", "sequence"):
            raise VLMIGError(f"per={per!r}; expected token or sequence")
        contexts, choices = [context for context, _ in pairs], [[continuation] for _, continuation in pairs]
        if visuals is None:
            visuals = self._seen(contexts, k, seed, images, [own for _, own in pairs])
        if per == "sequence":
            scored = self.score(contexts, choices, visuals, batch, verbatim=True)
            return [float(own.sequences(len(own.per_image), Mixture.of(self.config))[0]) for own in scored]
        values = np.zeros(len(pairs))
        with torch.inference_mode():
            for rows, seen, reading in self.readings(contexts, choices, visuals, batch):
                trust = torch.cat([self._trust(own) for own in seen])
                mix_reading(self.model, reading, rows, self.sights(seen), trust, values)
        return [float(value) for value in values]

    def generate(
        self,
        prompts: Sequence[str],
        k: int | None = None,
        *,
        images: Sequence[Pictures] | None = None,
        seed: int = 0,
        batch: int = 8,
        visuals: Sequence[Visuals] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Continue each prompt, its pictures mixed in at every token; ``settings`` go to ``generate``.

        With ``num_return_sequences`` each prompt gives as many texts, one after another.

        Args:
            k: imagined pictures; 6 when None, or none beside ``images``.
            images: pictures that are given for each prompt, see ``look``.
            visuals: from ``imagine`` or ``look``, instead of all that; the first k of each are used.

        Raises:
            VLMIGError: a masked LM; no room for the answer.
        """
        model, count = self._causal("generate"), settings.setdefault("max_new_tokens", 20)
        visuals = (
            self._seen(prompts, k, seed, images)
            if visuals is None
            else [v if k is None else v.first(k) for v in visuals]
        )
        for room in {self._limit(seen) for seen in visuals} - {None}:
            if room is not None and count >= room:
                raise VLMIGError(f"max_new_tokens={count}; this model has {room} places")
        texts: dict[int, list[str]] = {}
        for members in self._batches(visuals, batch):
            seen = [visuals[i] for i in members]
            inputs = self._inputs([self._ids(prompts[i], visuals[i], count) for i in members], seen)
            with torch.inference_mode():
                output = model.generate(**inputs, pad_token_id=self.pad, **settings)
            output = output[:, inputs["input_ids"].shape[1] :].unflatten(0, (len(members), -1))
            texts |= {
                i: self.tokenizer.batch_decode(own, skip_special_tokens=True)
                for i, own in zip(members, output, strict=True)
            }
        return [text for i in range(len(prompts)) for text in texts[i]]

    def _inputs(self, rows: list[list[int]], seen: list[Visuals]) -> dict[str, Tensor]:
        """Put token ids and pictures into the model's inputs."""
        inputs = pad_left(rows, self.pad, self.model.device)
        shown, features = self._shown(rows, seen), torch.stack([own.features for own in seen])
        if shown is not None:
            inputs["shown_features"] = shown.to(self.model.device)
        if features.shape[1]:
            inputs["visual_features"] = features.to(self.model.device)
            inputs["image_weights"] = torch.cat([self._trust(own) for own in seen])
        return inputs
