"""Measuring items: imagine once, read once, and keep what any k, mixture, weighting or control is computed from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlmig.evaluation.auto_k import rule_for
from vlmig.evaluation.controls import _captioned, _content_free, others
from vlmig.evaluation.journal import key_of
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Item, Question, Task, parts_of
from vlmig.imagination.visuals import Visuals
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import Asked, Stopping, ask_all
from vlmig.predict.predictor import VLMIG
from vlmig.predict.scores import Scores
from vlmig.processing.tokens import first_token, spaced
from vlmig.runtime import spread


def measured(
    plan: Plan, rule: Stopping, items: Sequence[Item], seed: int
) -> Iterator[tuple[list[Visuals], list[Scores]]]:
    """Give each item its pictures in groups, those of many items together, and yield its sets of pictures and its scores."""
    by_item = plan.policy == "item"
    sets = [[item.questions] if by_item else [(question,) for question in item.questions] for item in items]
    about = [
        item.picture if by_item else own[0].context(0) for item, many in zip(items, sets, strict=True) for own in many
    ]
    policy = "question" if by_item else plan.policy
    mixture = Mixture.of(plan.model.config, None, plan.task.weights)
    first = plan.task.scoring == "first_token"
    asked = [
        Asked(plan.model, [_spaced(question) for question in own], rule, mixture, least=plan.k, first=first)
        for many in sets
        for own in many
    ]

    def draw(members: Sequence[int], k: int) -> list[Visuals]:
        return plan.model.imagine([about[i] for i in members], k, seed, policy=policy)

    ask_all(asked, draw, plan.model.model.device)
    done = iter(asked)
    for many in sets:
        own = list(islice(done, len(many)))
        yield [one.visuals for one in own], [scores for one in own for scores in one.scores]


def _spaced(question: Question) -> list[tuple[str, list[str]]]:
    return [(context, spaced([own])[0]) for context, own in parts_of(question)]


logger = logging.getLogger(__name__)
DECIDES = ("name", "version", "scoring", "kind", "statement", "max_new_tokens")
"""What of a task decides an item's measurement, beside the item."""
Record = dict[str, Any]


class Plan:
    """How one task's items are measured.

    Args:
        items: all of the task's, since the shuffled control takes pictures from others.
        data: folder of benchmark files, for demonstrations.
        identity: what the model is, see ``vlmig.evaluation.journal.fingerprint``.
    """

    def __init__(
        self, model: VLMIG, settings: Settings, task: Task, items: Sequence[Item], data: Path, identity: str
    ) -> None:
        self.model, self.settings, self.task, self.identity = model, settings, task, identity
        self.ks, self.k = settings.every_k, settings.every_k[-1]
        self.policy = self.settings.policy or task.policy
        self.rule = rule_for(model, settings, task)
        shuffled = "shuffled" in self.settings.controls and task.kind == "choice"
        self.others = others(items) if shuffled else {}
        self.solved = task.demonstrations(data) if "few-shot" in self.settings.controls else []
        self._solved = key_of(items=[item.described() for item in self.solved])
        for control, there in (("shuffled", self.others), ("few-shot", self.solved)):
            if control in self.settings.controls and not there:
                logger.info("%s: no other objects or demonstrations, so no %s control", task.name, control)

    def key(self, seed: int, item: Item) -> str:
        """Name the measurement of an item: by content, so that it is found whatever the list it stands in."""
        settings = self.settings
        controls = sorted({"shuffled", "caption", "few-shot"} & set(settings.controls))
        return key_of(
            model=self.identity,
            task=[getattr(self.task, name) for name in DECIDES],
            item=item.described(),
            ks=self._decisive_ks(),
            seed=seed,
            policy=self.policy,
            controls=controls,
            other=self.others[item.cluster].picture if self.others else None,
            solved=self._solved,
            calibrated=settings.calibrated,
        )

    def _decisive_ks(self) -> Any:
        """Return what of the numbers of pictures decides a measurement: any k up to the largest is computed from it."""
        if self.rule is not None:
            return {"least": self.k, **self.rule.described()}
        return self.ks if self.task.scoring == "sequence" or self.task.kind != "choice" else self.k

    def records(self, items: list[Item], seed: int) -> Iterator[Record]:
        """Measure items: their pictures together, then item by item, so that no number depends on an item's neighbours."""
        if self.task.kind == "generate":
            yield from self._generated(items, seed)
            return
        if self.task.kind == "text" or self.task.scoring == "sequence":
            yield from self._losses(items, seed)
            return
        if self.rule is not None:
            pairs = list(zip(items, measured(self, self.rule, items, seed), strict=True))
            yield from self._alone(items, [self._record(item, seen, scores) for item, (seen, scores) in pairs])
            return
        seen = self._imagine(items, seed)
        unseen = self._imagine([self.others[item.cluster] for item in items], seed) if self.others else None
        device = self.model.model.device
        # On a CPU item by item, so that no number depends on an item's neighbours; elsewhere in batches, for speed.
        count = len(items)
        parts = [range(i, i + 1) for i in range(count)] if device.type == "cpu" else [range(count)]

        def choices(part: range) -> list[Record]:
            return self._choices(*([own[i] for i in part] if own else None for own in (items, seen, unseen)))  # type: ignore[arg-type]

        for records in spread(choices, parts, device):
            yield from records

    def _imagine(self, items: Sequence[Item], seed: int) -> list[list[Visuals]]:
        """Imagine for each item what the policy says: once, for each wording, or for each wording's candidates."""
        if self.policy == "item":
            return [[visuals] for visuals in self.model.imagine([item.picture for item in items], self.k, seed)]
        rows = [[pair for q in item.questions for pair in self._texts(q)] for item in items]
        texts, options = zip(*(pair for row in rows for pair in row), strict=True)
        flat = iter(self.model.imagine(texts, self.k, seed, policy=self.policy, options=options))
        return [[next(flat) for _ in row] for row in rows]

    def _texts(self, question: Question) -> list[tuple[str, str]]:
        """Return (text, option) of each set of pictures that a question has."""
        if self.task.scoring == "sequence":
            return [(question.context(c) + own, "") for c, own in enumerate(question.continuations)]
        drawn = self.policy == "option"
        own = question.continuations if self._apart(question) else ("",)
        return [(question.context(c), option if drawn else "") for c, option in enumerate(own)]

    def _apart(self, question: Question) -> bool:
        """Whether each candidate has pictures of its own: or those of one candidate's context would speak for all."""
        return self.policy == "option" or (self.policy != "item" and len(question.contexts) > 1)

    def _choices(
        self, items: list[Item], seen: list[list[Visuals]], unseen: list[list[Visuals]] | None
    ) -> list[Record]:
        """Score every candidate of every wording from text alone and beside the pictures, own and another object's."""
        others: Sequence[list[Visuals] | None] = unseen or [None] * len(items)
        both = [[_both(own, o) for own, o in _paired(sets, other)] for sets, other in zip(seen, others, strict=True)]
        records = [
            self._record(item, sets, scores)
            for item, sets, scores in zip(items, seen, self._scores(items, both), strict=True)
        ]
        return self._alone(items, records)

    def _alone(self, items: list[Item], records: list[Record]) -> list[Record]:
        """Add what is read without pictures to the records."""
        alone = [[Visuals.none(self.model.config)]] * len(items)
        for name, asked in self._texts_alone(items).items():
            chosen = {i: item for i, item in enumerate(asked) if item is not None}
            scored = self._scores(list(chosen.values()), [alone[i] for i in chosen])
            for i, scores in zip(chosen, scored, strict=True):
                records[i][name] = [_listed(s.text) for s in scores]
        return records

    def _texts_alone(self, items: list[Item]) -> dict[str, Sequence[Item | None]]:
        """Return what is read without pictures, for controls and calibration."""
        asked: dict[str, Sequence[Item | None]] = {}
        if "caption" in self.settings.controls:
            asked["caption"] = [_captioned(item) for item in items]
        if self.solved:
            asked["few_shot"] = [item.taught(self.solved) for item in items]
        if self.settings.calibrated:
            asked["content_free"] = [_content_free(item) for item in items]
        return asked

    def _record(self, item: Item, seen: list[Visuals], scores: list[Scores]) -> Record:
        """Put down all that was measured beside pictures; those of the item's own sets come first, then another object's."""
        sizes = [len(own.features) for own in seen]
        each = sizes * len(scores) if len(sizes) == 1 else sizes[:: len(sizes) // len(scores)]
        parted = [score.split(k) for score, k in zip(scores, each, strict=True)]
        record: Record = {
            "pictures": [own.keys for own in seen],
            "prompts": list(dict.fromkeys(prompt for own in seen for prompt in own.prompts)),
            "alignment": [_listed(own.alignment) for own, _ in parted],
            "text_only": [_listed(own.text) for own, _ in parted],
            "per_image": [_listed(own.per_image) for own, _ in parted],
            "blank": [_listed(own.blank) for own, _ in parted],
            "clip": self._cosines(item, seen),
        }
        if self.others:
            record["shuffled"] = {
                "of": self.others[item.cluster].cluster,
                "per_image": [_listed(other.per_image) for _, other in parted],
                "alignment": [_listed(other.alignment) for _, other in parted],
            }
        if self.task.scoring == "first_token":
            record["tokens"] = [[self._shown(own) for own in q.continuations] for q in item.questions]
        return record

    def _shown(self, candidate: str) -> str:
        """Return a candidate's first sub-token as the published scripts compare it: decoded, without spaces, in small letters."""
        tokenizer = self.model.tokenizer
        return tokenizer.decode([first_token(tokenizer, f" {candidate}")]).strip().lower()

    def _scores(self, items: list[Item], seen: list[list[Visuals]]) -> list[list[Scores]]:
        """Score items' wordings: candidates together, or apart where each has a context or pictures of its own."""
        contexts, choices, visuals = [], [], []
        counts: list[list[int]] = []
        for item, own in zip(items, seen, strict=True):
            sets = iter(own * len(item.questions) if len(own) == 1 else own)
            counts.append([])
            for question in item.questions:
                drawn = self._apart(question) and len(own) > 1
                shared = None if drawn else next(sets)
                parts = parts_of(question, drawn)
                for context, candidates in parts:
                    contexts.append(context)
                    choices.append(candidates)
                    visuals.append(shared or next(sets))
                counts[-1].append(len(parts))
        first = self.task.scoring == "first_token"
        flat = iter(self.model.score(contexts, choices, visuals, first=first))
        return [[self._joined([next(flat) for _ in range(count)]) for count in own] for own in counts]

    def _joined(self, parts: list[Scores]) -> Scores:
        """Put a wording's candidates together; those that were scored apart share their pictures all the same."""
        whole = Scores.joined(parts)
        return whole if self.policy != "item" or len(parts) == 1 else replace(whole, alignment=parts[0].alignment)

    def _cosines(self, item: Item, seen: list[Visuals]) -> list[list[float]] | None:
        """Compare each picture of the first set with a statement of each candidate: (K, C); None without a text side."""
        statements = [self.task.statement.format(picture=item.picture, choice=choice) for choice in item.choices]
        texts = self.model.imagination.encoder.encode_text(statements) if seen[0].items else None
        if texts is None:
            return None
        return _listed(torch.stack([shown.pooled for shown in seen[0].items]).float() @ texts.T.float())

    def _losses(self, items: list[Item], seed: int) -> Iterator[Record]:
        """Sum every text's loss by the mixture of each k pictures: whole texts, or each candidate with its context."""
        if self.task.kind == "text":
            seen = [[own] for own in self.model.imagine([item.picture for item in items], self.k, seed)]
            texts = [[item.questions[0].contexts[0]] for item in items]
        else:
            seen = self._imagine(items, seed)
            texts = [[text for q in item.questions for text, _ in self._texts(q)] for item in items]

        def measured(part: tuple[list[str], list[Visuals]]) -> Record:
            losses = [self.model.token_log_probs(text, own, self.ks) for text, own in zip(*part, strict=True)]
            sums = {str(k): [_rounded(-own[i].sum().item()) for own in losses] for i, k in enumerate(self.ks)}
            return {
                "pictures": [own.keys for own in part[1]],
                "prompts": list(dict.fromkeys(prompt for own in part[1] for prompt in own.prompts)),
                "loss": sums,
                "tokens": [len(own[0]) for own in losses],
            }

        sets = [_stretched(own, len(part)) for own, part in zip(seen, texts, strict=True)]
        yield from spread(measured, list(zip(texts, sets, strict=True)), self.model.model.device)

    def _generated(self, items: list[Item], seed: int) -> Iterator[Record]:
        """Generate an answer with each number of pictures, up to the first line break."""
        seen = self._imagine(items, seed)

        def measured(part: tuple[Item, list[Visuals]]) -> Record:
            item, own = part
            outputs = {}
            for k in self.ks:
                settings: dict[str, Any] = {"max_new_tokens": self.task.max_new_tokens, "do_sample": False}
                texts = self.model.generate(
                    [q.contexts[0] for q in item.questions],
                    k,
                    visuals=[v.first(k) for v in _stretched(own, len(item.questions))],
                    **settings,
                )
                outputs[str(k)] = [text.strip().split("\n")[0] for text in texts]
            return {
                "pictures": [v.keys for v in own],
                "prompts": sorted({p for v in own for p in v.prompts}),
                "outputs": outputs,
            }

        yield from spread(measured, list(zip(items, seen, strict=True)), self.model.model.device)


def _paired(seen: list[Visuals], unseen: list[Visuals] | None) -> list[tuple[Visuals, Visuals | None]]:
    """Put another object's sets of pictures beside an item's own, as often as needed."""
    if unseen is None:
        return [(own, None) for own in seen]
    return list(zip(seen, _stretched(unseen, len(seen)), strict=True))


def _stretched(sets: list[Visuals], count: int) -> list[Visuals]:
    return [sets[i % len(sets)] for i in range(count)]


def _both(own: Visuals, other: Visuals | None) -> Visuals:
    """Join two sets of pictures, so that the LM reads each text once for both."""
    if other is None:
        return own
    return Visuals(
        own.prompts + other.prompts,
        torch.cat([own.features, other.features]),
        torch.cat([own.alignment, other.alignment]),
        own.items + other.items,
        own.keys + other.keys,
    )


def _rounded(value: float) -> float | None:
    return None if value != value else round(value, 6)


def _listed(values: Any) -> Any:
    """Return nested lists of numbers that JSON keeps exactly; what is not known is None."""
    array = np.asarray(values, dtype=float)
    if array.ndim == 0:
        return _rounded(float(array))
    return [_listed(part) for part in array]
