"""The model ``vlmig`` of lm-eval (EleutherAI's harness): any of its tasks with images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook
from lm_eval.api.registry import model_registry
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
from tqdm import tqdm

from vlmig.errors import VLMIGError
from vlmig.imagination.visuals import Visuals
from vlmig.integrations.arguments import BATCH, batch_of, check, claim, loaded
from vlmig.integrations.requests import (
    Candidates,
    ContextGroup,
    ImagePrompt,
    alike,
    before_stop,
    by_policy,
    gathered,
    image_prompt,
)
from vlmig.models.mixture import Mixture
from vlmig.models.modeling import VLMIGForMaskedLM
from vlmig.predict.batching import add_scores, read_padded
from vlmig.predict.images import DEFAULT_K
from vlmig.predict.predictor import VLMIG
from vlmig.predict.scores import Scores
from vlmig.predict.writing import Until
from vlmig.runtime import deterministic_map

ANSWER = 256
"""Tokens of a generated answer where a task sets no limit, as in lm-eval's own models."""
Answer = tuple[float, bool]


class VlmigLM(LM):
    """A model with images, for lm-eval.

    Images show a document's field ``picture`` where it has one; otherwise what a policy makes of
    the context's last paragraph. All images of a run are imagined first, each once; then every
    context is read once.

    Args:
        pretrained: ``pocket``, a checkpoint folder, a hub id, or a model already loaded.
        k: images of each text; 0 is the base LM alone.
        seed: of the imagination.
        policy: what to imagine of a context, see ``vlmig.imagination.prompts``; the checkpoint's
            own when None.
        batch_size: texts read at a time.
        max_length: the longest text read at once by ``loglikelihood_rolling``; as much as the LM
            takes when None.
        fields: ``mix``, ``weights``, ``protocol``, ``imaginer``, ``store`` and whatever else
            ``VLMIG.from_pretrained`` takes.

    Raises:
        VLMIGError: a setting of another kind, an untrained adapter, several processes.
    """

    def __init__(
        self,
        pretrained: str | VLMIG = "pocket",
        k: int = DEFAULT_K,
        seed: int = 0,
        policy: str | None = None,
        batch_size: int | str = BATCH,
        max_length: int | None = None,
        **fields: Any,
    ) -> None:
        super().__init__()
        check(k, policy)
        self.k, self.seed, self.batch = k, seed, batch_of(batch_size)
        self.vlmig = loaded(pretrained, fields)
        config = self.vlmig.config
        if k and not config.trained:
            raise VLMIGError(
                "the model's adapter is untrained and would be measured as noise; train it, or "
                "measure the LM alone with k=0"
            )
        self.policy, self.mixture = policy or config.prompt_policy, Mixture.of(config)
        self.tokenizer, self._device = self.vlmig.tokenizer, self.vlmig.model.device
        self.max_length = max_length or config.text_limit or 2048
        self.eot_token_id = self.tokenizer.eos_token_id

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> VlmigLM:
        """Make a model of ``--model_args``, which take precedence over lm-eval's options of the
        same names."""
        fields = {}
        for name, value in (additional_config or {}).items():
            if value is not None:
                fields[name] = value
        return cls(**{**fields, **arg_dict})

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> VlmigLM:
        """As ``create_from_arg_obj``, from ``k=6,seed=1``."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Use lm-eval's cache; see ``claim`` for the errors."""
        answers = getattr(cache_hook, "dbdict", None)
        claim({} if answers is None else answers, self.vlmig, self.k)
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """Return what decides the answers, for ``results["config"]``."""
        config, imagination = self.vlmig.config, self.vlmig.imagination
        names = (
            "mix",
            "weights",
            "strength",
            "doubt",
            "alignment_floor",
            "protocol",
            "language_model",
        )
        return {
            "k": self.k,
            "seed": self.seed,
            "policy": self.policy,
            **{name: getattr(config, name) for name in names},
            "identity": imagination.identity if self.k else None,
            "model_dtype": str(self.vlmig.model.dtype),
            "model_num_parameters": sum(p.numel() for p in self.vlmig.model.parameters()),
        }

    def loglikelihood(self, requests: list[Instance]) -> list[Answer]:
        """Give every continuation its log-probability behind its context.

        The requests about one document are its candidates: the images share the text's whole
        probability of them out anew, as in ``vlmig eval``. A lone request gets the mixture of its
        whole probabilities, as ``VLMIG.loglikelihood(per="sequence")``. Nothing is imagined for an
        empty context.

        Returns:
            (log-probability, whether greedy decoding would write it). A lone continuation is greedy
            if the model with its images, as ``generate`` mixes them at every token, likes each of
            its tokens best. Candidates are greedy if text alone does: their images only weigh
            them against each other, not against everything else that could be said.
        """
        questions, positions = gathered(requests, self.policy if self.k else None)
        self._imagine(_prompts(questions))
        answers: dict[int, list[Answer]] = {}
        with tqdm(total=len(questions), desc="scoring", unit=" documents") as bar:
            for members in alike(questions, self._at_once):
                chosen = [questions[i] for i in members]
                answers.update(zip(members, self._answers(chosen), strict=True))
                bar.update(len(members))
        return [answers[question][candidate] for question, candidate in positions]

    @property
    def _at_once(self) -> int:
        """Documents whose images are in memory together: a batch for each thread."""
        return self.batch * max(2, torch.get_num_threads())

    def _answers(self, questions: list[Candidates]) -> Iterator[list[Answer]]:
        """Answer questions of one kind: all with images or none, all with several candidates or
        none."""
        k, single = self.k if questions[0].with_images else 0, questions[0].single
        visuals = iter(self._visuals(_prompts(questions), k))
        batches = []
        for start in range(0, len(questions), self.batch):
            groups = chain(*(question.groups for question in questions[start : start + self.batch]))
            batches.append([(group, next(visuals)) for group in groups])
        scored = deterministic_map(
            lambda batch: self._scored(batch, single), batches, self.vlmig.model.device
        )
        flat = chain(*scored)
        for question in questions:
            scores, greedy = zip(*islice(flat, len(question.groups)), strict=True)
            joined = Scores.joined(scores)
            if question.shared and len(question.groups) > 1:  # scored one by one
                joined = replace(joined, alignment=joined.alignment[:, 0])
            mix = joined.sequences if single and k else joined.loglikelihoods
            values = mix(k, self.mixture).tolist()
            yield list(zip(values, np.concatenate(greedy).tolist(), strict=True))

    def _scored(
        self, pairs: list[tuple[ContextGroup, Visuals]], single: bool
    ) -> list[tuple[Scores, np.ndarray]]:
        """Score candidates with their images, and tell which are greedy, see ``loglikelihood``."""
        contexts, choices, visuals, scores, greedy = [], [], [], [], []
        scorer, contrast = self.vlmig.scorer, self.mixture.mix == "contrast"
        for group, images in pairs:
            contexts.append(group.context)
            choices.append(group.continuations)
            visuals.append(images)
            scores.append(scorer.zero(len(group.continuations), images, contrast))
            greedy.append(np.ones(len(group.continuations), dtype=bool))
        for batch in scorer.batches(contexts, choices, visuals, self.batch):
            states = scorer.visual_cache(batch.visuals, contrast)
            add_scores(self.vlmig.model, batch, states, scores)
            log_probs = scorer.predict(batch.reading, batch.visuals if single else [])
            for row, request in zip(log_probs.argmax(-1).tolist(), batch.requests, strict=True):
                for candidate, ids in request.targets:
                    greedy[request.context][candidate] &= row[-len(ids) :] == ids
        return list(zip(scores, greedy, strict=True))

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Give every text its log-probability, in windows as lm-eval's own models read it, mixed at
        every token.

        Where a document has no field ``picture``, the images are imagined from the very text that
        is predicted. Then what comes out is no perplexity of a language model: the images know
        the text.

        Raises:
            VLMIGError: a masked LM.
        """
        if isinstance(self.vlmig.model, VLMIGForMaskedLM):
            raise VLMIGError(
                "loglikelihood_rolling needs a causal LM, this is a masked one; expected another "
                "task"
            )
        texts = [request.args[0] for request in requests]
        prompts: list[ImagePrompt | None] = []
        for request, text in zip(requests, texts, strict=True):
            whole = (text, self.policy) if text.strip() else None
            prompt = (image_prompt(request.doc, "", self.policy) or whole) if self.k else None
            prompts.append(prompt)
        self._imagine(prompts)
        sums: list[float] = []
        with tqdm(total=len(texts), desc="reading", unit=" texts") as bar:
            for start in range(0, len(texts), self._at_once):
                pairs = []
                for i in range(start, min(start + self._at_once, len(texts))):
                    visuals = self._visuals([prompts[i]], self.k if prompts[i] else 0)[0]
                    pairs.append((texts[i], visuals))
                sums += deterministic_map(
                    lambda pair: self._rolled(*pair), pairs, self.vlmig.model.device
                )
                bar.update(len(pairs))
        return sums

    def _rolled(self, text: str, visuals: Visuals) -> float:
        """Sum a text's log-probabilities, the first token's after the LM's BOS, or its EOS where it
        has none; a BOS that the text holds is no word of it."""
        scorer = self.vlmig.scorer
        start, ids = scorer.texts.start[-1], scorer.texts.words(text)
        ids = ids[1:] if ids[:1] == [start] else ids
        model, total = scorer.causal("loglikelihood_rolling"), 0.0
        for window in get_rolling_token_windows(ids, start, self.max_length, 1):
            before, targets = make_disjoint_window(window)
            row = [*before, *targets][:-1]
            reading = read_padded(model, [row], len(targets), scorer.pad)
            log_probs = scorer.predict(reading, [visuals])[0]
            index = torch.tensor(targets, device=log_probs.device)[:, None]
            total += log_probs.gather(1, index).sum().item()
        return total

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Continue every context up to one of its stop texts, the images mixed in at every token.

        Raises:
            VLMIGError: a masked LM; no room for the answer.
        """
        prompts: list[ImagePrompt | None] = []
        groups: dict[tuple[str, bool], list[int]] = {}
        for i, request in enumerate(requests):
            context, rules = request.args
            prompt = image_prompt(request.doc, context, self.policy) if self.k else None
            prompts.append(prompt)
            groups.setdefault((repr(rules), prompt is not None), []).append(i)
        self._imagine(prompts)
        texts: dict[int, str] = {}
        with tqdm(total=len(requests), desc="generating", unit=" texts") as bar:
            for (_, with_images), members in groups.items():
                members.sort(key=lambda i: len(requests[i].args[0]))
                for start in range(0, len(members), self._at_once):
                    chosen = members[start : start + self._at_once]
                    visuals = self._visuals(
                        [prompts[i] for i in chosen], self.k if with_images else 0
                    )
                    answers = self._continued([requests[i] for i in chosen], visuals)
                    texts.update(zip(chosen, answers, strict=True))
                    bar.update(len(chosen))
        return [texts[i] for i in range(len(requests))]

    def _continued(self, requests: list[Instance], visuals: list[Visuals]) -> list[str]:
        """Continue contexts that are continued by the same rules."""
        settings: dict[str, Any] = dict(normalize_gen_kwargs(requests[0].args[1], ANSWER))
        until = [stop for stop in settings.pop("until") if stop]
        settings["max_new_tokens"] = settings.pop("max_gen_toks")
        if not settings["do_sample"]:
            settings.pop("temperature", None)

        def batch(start: int) -> list[str]:
            images = visuals[start : start + self.batch]
            return self.vlmig.generate(
                [request.args[0] for request in requests[start : start + self.batch]],
                len(images[0].features),
                batch=self.batch,
                visuals=images,
                stopping_criteria=[Until(self.tokenizer, until)],
                **settings,
            )

        starts, device = range(0, len(requests), self.batch), self.vlmig.model.device
        sampled = settings["do_sample"]  # random numbers come in one order
        texts = deterministic_map(batch, starts, device, together=not sampled)
        return [before_stop(text, until) for text in chain(*texts)]

    def _imagine(self, prompts: Sequence[ImagePrompt | None]) -> None:
        """Fill the store with the images of all prompts, each drawn once, in big batches."""
        for policy, members in by_policy(prompts).items():
            texts = dict.fromkeys(self._cleaned(text) for text, _ in members)
            self.vlmig.imagination.fill(list(texts), self.k, self.seed, policy)

    def _visuals(self, prompts: Sequence[ImagePrompt | None], k: int) -> list[Visuals]:
        """Take the images of each prompt from the store; none with k = 0."""
        if not k:
            return self.vlmig.imagine([""] * len(prompts), 0)
        visuals: dict[ImagePrompt | None, Visuals] = {}
        for policy, members in by_policy(prompts).items():
            texts = [self._cleaned(text) for text, _ in members]
            made = self.vlmig.imagine(texts, k, self.seed, policy=policy)
            visuals.update(zip(members, made, strict=True))
        return [visuals[prompt] for prompt in prompts]

    def _cleaned(self, text: str) -> str:
        """Remove a masked LM's gap, as ``VLMIG.imagine`` does."""
        return text.replace(self.tokenizer.mask_token or "\0", " ").strip()


def _prompts(questions: Sequence[Candidates]) -> list[ImagePrompt | None]:
    """List what to imagine for each group of candidates."""
    return [group.prompt for question in questions for group in question.groups]


if "vlmig" not in model_registry:  # a later lm-eval knows it by the entry point already
    model_registry.register("vlmig", target=VlmigLM)
