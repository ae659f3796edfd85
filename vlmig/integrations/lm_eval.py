"""Any task of lm-eval (EleutherAI's harness) with pictures: the model ``vlmig``, and ``vlmig lm-eval``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
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
from vlmig.integrations.requests import Asked, Part, Shown, alike, gathered, shown
from vlmig.integrations.stopping import Until, before_stop
from vlmig.models.checkpoint import absolute
from vlmig.models.config import POLICIES, REFERENCE
from vlmig.models.mixture import Mixture
from vlmig.models.modeling import VLMIGForMaskedLM
from vlmig.predict.batching import add_scores, read_padded
from vlmig.predict.images import DEFAULT_K
from vlmig.predict.predictor import VLMIG
from vlmig.predict.scores import Scores
from vlmig.runtime import spread

BATCH = 32
ANSWER = 256
"""Tokens of a generated answer where a task sets no limit, as in lm-eval's own models."""
Answer = tuple[float, bool]


class VlmigLM(LM):
    """A model with pictures, for lm-eval.

    Pictures show a document's field ``picture`` where it has one; otherwise what a policy makes of the context's last
    paragraph. All pictures of a run are imagined first, each once; then every context is read once.

    Args:
        pretrained: ``pocket``, a checkpoint folder, a hub id, or a model already loaded.
        k: pictures of each text; 0 is the base LM alone.
        seed: of the imagination.
        policy: what to imagine of a context, see ``vlmig.imagination.prompts``; the checkpoint's own when None.
        batch_size: texts read at a time.
        max_length: the longest text read at once by ``loglikelihood_rolling``; as much as the LM takes when None.
        fields: ``mix``, ``weights``, ``protocol``, ``imaginer``, ``store`` and whatever else ``VLMIG.from_pretrained`` takes.

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
        _check(k, policy)
        self.k, self.seed, self.batch = k, seed, _batch(batch_size)
        self.vlmig = _loaded(pretrained, fields)
        config = self.vlmig.config
        if k and not config.trained:
            raise VLMIGError(
                "the model's adapter is untrained and would be measured as noise; train it, or measure the LM alone with k=0"
            )
        self.policy, self.mixture = policy or config.prompt_policy, Mixture.of(config)
        self.tokenizer, self._device = self.vlmig.tokenizer, self.vlmig.model.device
        self.max_length = max_length or config.text_limit or 2048
        self.eot_token_id = self.tokenizer.eos_token_id

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> VlmigLM:
        """Make a model of ``--model_args``, which go before lm-eval's own options of these names."""
        given = {
            name: value for name, value in (additional_config or {}).items() if value is not None
        }
        return cls(**{**given, **arg_dict})

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> VlmigLM:
        """As ``create_from_arg_obj``, from ``k=6,seed=1``."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Take part in lm-eval's cache, which knows an answer by its text alone.

        Raises:
            VLMIGError: there are pictures: the same text has another answer beside others, or among other candidates.
        """
        if self.k:
            raise VLMIGError(
                f"--use_cache keeps answers by their text, but with k={self.k} pictures decide too; leave it out (the store keeps the pictures), or choose k=0"
            )
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

        The requests about one document are its candidates: the pictures share the text's whole probability of them out anew,
        as in ``vlmig eval``. A lone request gets the mixture of its whole probabilities, as
        ``VLMIG.loglikelihood(per="sequence")``. Nothing is imagined for an empty context.

        Returns:
            (log-probability, whether greedy decoding would write it). A lone continuation is greedy if the model with its
            pictures, as ``generate`` mixes them at every token, likes each of its tokens best. Candidates are greedy if text
            alone does: their pictures only weigh them against each other, not against everything else that could be said.
        """
        questions, places = gathered(requests, self.policy if self.k else None)
        self._imagine([part.shown for question in questions for part in question.parts])
        found: dict[int, list[Answer]] = {}
        with tqdm(total=len(questions), desc="scoring", unit=" documents") as bar:
            for chosen in alike(questions, self._together):
                found |= zip(chosen, self._answers([questions[i] for i in chosen]), strict=True)
                bar.update(len(chosen))
        return [found[question][candidate] for question, candidate in places]

    @property
    def _together(self) -> int:
        """Documents whose pictures are in memory together: a batch for each thread."""
        return self.batch * max(2, torch.get_num_threads())

    def _answers(self, questions: list[Asked]) -> Iterator[list[Answer]]:
        """Answer questions that are alike: all with pictures or none, all with candidates or none."""
        k, lone = self.k if questions[0].pictured else 0, questions[0].lone
        seen = iter(
            self._seen([part.shown for question in questions for part in question.parts], k)
        )
        pairs = [[(part, next(seen)) for part in question.parts] for question in questions]
        batches = [
            list(chain(*pairs[start : start + self.batch]))
            for start in range(0, len(pairs), self.batch)
        ]
        flat = chain(
            *spread(lambda batch: self._scored(batch, lone), batches, self.vlmig.model.device)
        )
        for question in questions:
            scores, greedy = zip(*(next(flat) for _ in question.parts), strict=True)
            joined = Scores.joined(scores)
            if (
                question.shared and len(question.parts) > 1
            ):  # read apart, but their pictures are the same
                joined = replace(joined, alignment=joined.alignment[:, 0])
            values = (joined.sequences if lone and k else joined.loglikelihoods)(k, self.mixture)
            yield list(zip(values.tolist(), np.concatenate(greedy).tolist(), strict=True))

    def _scored(
        self, pairs: list[tuple[Part, Visuals]], lone: bool
    ) -> list[tuple[Scores, np.ndarray]]:
        """Score parts beside their pictures, and say which of their candidates are greedy, see ``loglikelihood``."""
        model, visuals = self.vlmig.model, [seen for _, seen in pairs]
        contexts, choices = (
            [part.context for part, _ in pairs],
            [part.continuations for part, _ in pairs],
        )
        scores = [
            Scores.zero(len(own), seen.alignment.numpy())
            for own, seen in zip(choices, visuals, strict=True)
        ]
        greedy = [np.ones(len(own), dtype=bool) for own in choices]
        for batch in self.vlmig.scorer.batches(contexts, choices, visuals, self.batch):
            add_scores(model, batch, self.vlmig.visual_cache(batch.visuals), scores)
            log_probs = self.vlmig.scorer.predict(batch.reading, batch.visuals if lone else [])
            for row, request in zip(log_probs.argmax(-1).tolist(), batch.requests, strict=True):
                for candidate, ids in request.targets:
                    greedy[request.context][candidate] &= row[-len(ids) :] == ids
        return list(zip(scores, greedy, strict=True))

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Give every text its log-probability, in windows as lm-eval's own models read it, mixed at every token.

        Where a document has no field ``picture``, the pictures are imagined from the very text that is predicted. Then what
        comes out is no perplexity of a language model: the pictures know the text.

        Raises:
            VLMIGError: a masked LM.
        """
        if isinstance(self.vlmig.model, VLMIGForMaskedLM):
            raise VLMIGError(
                "loglikelihood_rolling needs a causal LM, this is a masked one; expected another task"
            )
        texts = [request.args[0] for request in requests]
        wanted: list[Shown | None] = [None] * len(texts)
        if self.k:
            whole = [(text, self.policy) if text.strip() else None for text in texts]
            wanted = [
                shown(r.doc, "", self.policy) or own for r, own in zip(requests, whole, strict=True)
            ]
        self._imagine(wanted)
        found = []
        with tqdm(total=len(texts), desc="reading", unit=" texts") as bar:
            for start in range(0, len(texts), self._together):
                own = wanted[start : start + self._together]
                seen = [self._seen([one], self.k if one else 0)[0] for one in own]
                pairs = list(zip(texts[start : start + len(own)], seen, strict=True))
                found += spread(lambda pair: self._rolled(*pair), pairs, self.vlmig.model.device)
                bar.update(len(own))
        return found

    def _rolled(self, text: str, seen: Visuals) -> float:
        """Sum a text's log-probabilities, the first token's behind the LM's BOS, or its EOS where it has none."""
        start = (
            self.tokenizer.bos_token_id
            if self.tokenizer.bos_token_id is not None
            else self.eot_token_id
        )
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        total = 0.0
        for window in get_rolling_token_windows(ids, start, self.max_length, 1):
            before, asked = make_disjoint_window(window)
            row = [*before, *asked][:-1]
            reading = read_padded(
                self.vlmig.scorer.causal("loglikelihood_rolling"),
                [row],
                len(asked),
                self.vlmig.scorer.pad,
            )
            said = self.vlmig.scorer.predict(reading, [seen])[0]
            total += said.gather(1, torch.tensor(asked, device=said.device)[:, None]).sum().item()
        return total

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Continue every context up to one of its stop texts, the pictures mixed in at every token.

        Raises:
            VLMIGError: a masked LM; no room for the answer.
        """
        wanted = [
            shown(request.doc, request.args[0], self.policy) if self.k else None
            for request in requests
        ]
        self._imagine(wanted)
        groups: dict[tuple[str, bool], list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault((repr(request.args[1]), wanted[i] is not None), []).append(i)
        found: dict[int, str] = {}
        with tqdm(total=len(requests), desc="generating", unit=" texts") as bar:
            for (_, pictured), members in groups.items():
                members.sort(key=lambda i: len(requests[i].args[0]))
                for start in range(0, len(members), self._together):
                    part = members[start : start + self._together]
                    seen = self._seen([wanted[i] for i in part], self.k if pictured else 0)
                    found |= zip(
                        part, self._continued([requests[i] for i in part], seen), strict=True
                    )
                    bar.update(len(part))
        return [found[i] for i in range(len(requests))]

    def _continued(self, requests: list[Instance], seen: list[Visuals]) -> list[str]:
        """Continue contexts that are continued by the same rules."""
        settings: dict[str, Any] = dict(normalize_gen_kwargs(requests[0].args[1], ANSWER))
        until = [stop for stop in settings.pop("until") if stop]
        settings["max_new_tokens"] = settings.pop("max_gen_toks")
        if not settings["do_sample"]:
            settings.pop("temperature", None)

        def batch(start: int) -> list[str]:
            own = seen[start : start + self.batch]
            return self.vlmig.generate(
                [request.args[0] for request in requests[start : start + self.batch]],
                len(own[0].features),
                batch=self.batch,
                visuals=own,
                stopping_criteria=[Until(self.tokenizer, until)],
                **settings,
            )

        starts, alone = (
            range(0, len(requests), self.batch),
            settings["do_sample"],
        )  # random numbers come in one order
        texts = spread(batch, starts, self.vlmig.model.device, together=not alone)
        return [before_stop(text, until) for batch in texts for text in batch]

    def _imagine(self, wanted: Sequence[Shown | None]) -> None:
        """See that the store has the pictures of everything wanted, each once, drawn in big batches."""
        by_policy: dict[str, dict[str, None]] = {}
        for text, policy in filter(None, wanted):
            by_policy.setdefault(policy, {})[self._cleaned(text)] = None
        for policy, texts in by_policy.items():
            self.vlmig.imagination.fill(list(texts), self.k, self.seed, policy)

    def _seen(self, wanted: Sequence[Shown | None], k: int) -> list[Visuals]:
        """Take the pictures of each text from the store; none with k = 0."""
        if not k:
            return self.vlmig.imagine([""] * len(wanted), 0)
        found: dict[Shown | None, Visuals] = {}
        for policy in dict.fromkeys(own[1] for own in wanted if own):
            pairs = [own for own in dict.fromkeys(wanted) if own and own[1] == policy]
            texts = [self._cleaned(text) for text, _ in pairs]
            found |= zip(pairs, self.vlmig.imagine(texts, k, self.seed, policy=policy), strict=True)
        return [found[own] for own in wanted]

    def _cleaned(self, text: str) -> str:
        """Leave out a masked LM's gap, as ``VLMIG.imagine`` does."""
        return text.replace(self.tokenizer.mask_token or "\0", " ").strip()


def _check(k: int, policy: str | None) -> None:
    if not isinstance(k, int) or k < 0:
        raise VLMIGError(f"k={k!r}; expected 0 (text only) or more pictures")
    if policy not in (None, *POLICIES):
        raise VLMIGError(f"policy={policy!r}; expected one of {', '.join(POLICIES)}")
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise VLMIGError(
            f"WORLD_SIZE={processes}, but lm-eval runs in one process here; imagine with torchrun -m vlmig.cli imagine --prompts, then run vlmig lm-eval without it"
        )


def _batch(size: int | str) -> int:
    """Read lm-eval's ``--batch_size``; where it should find one out (``auto``), the usual one is taken."""
    if str(size).startswith("auto"):
        return BATCH
    if not str(size).isdigit() or not int(size):
        raise VLMIGError(f"batch_size={size!r}; expected a positive number, or auto")
    return int(size)


def _loaded(pretrained: str | VLMIG, fields: dict[str, Any]) -> VLMIG:
    """Load a model, the LM on lm-eval's ``--device`` where there is a GPU."""
    device, _ = fields.pop("device", None), fields.pop("max_batch_size", None)
    if isinstance(pretrained, VLMIG):
        if fields:
            raise VLMIGError(
                f"{', '.join(fields)} beside a loaded model; expected them where it is loaded"
            )
        return pretrained
    protocol = fields.pop("protocol", None)
    if protocol:
        fields = {**(REFERENCE if protocol == "reference" else {"protocol": protocol}), **fields}
    if "imaginer" in fields:
        fields["imaginer"] = absolute(fields["imaginer"])
    if device and torch.cuda.is_available():
        fields.setdefault("device_map", device)
    return VLMIG.from_pretrained(pretrained, **fields)


if "vlmig" not in model_registry:  # a later lm-eval knows it by the entry point already
    model_registry.register("vlmig", target=VlmigLM)
