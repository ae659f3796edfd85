"""Measure items: imagine once, read once, and keep what any k, mixture, weighting or control is
computed from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from vlmig.evaluation.auto_k import rule_for, score_items
from vlmig.evaluation.controls import DONORS, captioned, content_free, donors, with_donors
from vlmig.evaluation.journal import key_of
from vlmig.evaluation.losses import Text, measure_losses, prompts_of, repeated
from vlmig.evaluation.records import Record, listed
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Item, Question, Task, by_context
from vlmig.imagination.visuals import Visuals
from vlmig.predict.predictor import VLMIG
from vlmig.predict.scores import Scores
from vlmig.predict.writing import Until
from vlmig.runtime import deterministic_map
from vlmig.vision import BLANK

logger = logging.getLogger(__name__)
DECIDES = ("name", "version", "scoring", "kind", "statement", "max_new_tokens")
"""Fields of a task that decide an item's measurement, besides the item."""
T = TypeVar("T")


class Plan:
    """How one task's items are measured.

    Args:
        items: all of the task's, since the control ``shuffled`` takes images from others.
        data: folder of benchmark files, for few-shot examples.
        identity: what the model is, see ``vlmig.evaluation.journal.fingerprint``.
    """

    def __init__(
        self,
        model: VLMIG,
        settings: Settings,
        task: Task,
        items: Sequence[Item],
        data: Path,
        identity: str,
    ) -> None:
        self.model, self.settings, self.task, self.identity = model, settings, task, identity
        self.ks, self.k = settings.every_k, settings.every_k[-1]
        self.policy = self.settings.policy or task.policy
        self.rule = rule_for(model, settings, task)
        self.generic = settings.contrasts(model.config)
        self.data, count = data, DONORS if task.kind == "choice" else 1
        shuffled = "shuffled" in settings.controls and task.has_donors
        self.donors = {s: donors(items, s, count) for s in settings.seeds} if shuffled else {}
        self.examples = task.demonstrations(data) if "few-shot" in self.settings.controls else []
        features = model.model.generic_features.tolist() if self.generic else None
        self._generic_key = key_of(features=features)
        self._examples_key = key_of(items=[item.described() for item in self.examples])
        has_donors = any(self.donors.values())
        for control, available in (("shuffled", has_donors), ("few-shot", self.examples)):
            if control in self.settings.controls and not available:
                message = "%s: no other objects or few-shot examples, so no control %s"
                logger.info(message, task.name, control)

    def key(self, seed: int, item: Item) -> str:
        """Name the measurement of an item by its content, so that it is found in any list of
        items."""
        settings, donors = self.settings, self._donors(seed, item)
        decisive = {"shuffled", "caption", "few-shot"} | ({"blank"} if item.pair else set())
        controls = sorted(decisive & set(settings.controls))
        return key_of(
            model=self.identity,
            task=[getattr(self.task, name) for name in DECIDES],
            item=replace(item, groups=()).described(),  # groups decide no number
            ks=self._decisive_ks(),
            seed=seed,
            policy=self.policy,
            controls=controls,
            other=[[donor.picture, donor.label] for donor in donors] or None,
            solved=self._examples_key,
            calibrated=settings.calibrated,
            # Only where they are used: other measurements keep their names.
            **({"generic": self._generic_key} if self.generic else {}),
            **({"given": [d.described()["pair"] for d in donors]} if item.pair else {}),
        )

    def _donors(self, seed: int, item: Item) -> list[Item]:
        return self.donors.get(seed, {}).get(item.cluster, [])

    def _decisive_ks(self) -> Any:
        """Return what the numbers of images decide: any k up to the largest is computed from one
        measurement."""
        if self.rule is not None:
            return {"least": self.k, **self.rule.described()}
        return self.ks if self.task.scoring == "sequence" or self.task.kind != "choice" else self.k

    def records(self, items: list[Item], seed: int) -> Iterator[Record]:
        """Measure items: imagine for all together, then score item by item, so that no number
        depends on others."""
        if self.task.kind == "generate":
            yield from self._generated(items, seed)
        elif self.task.kind == "text" or self.task.scoring == "sequence":
            yield from self._losses(items, seed)
        elif self.rule is not None:
            rule, policy, least = self.rule, self.policy, self.k
            scored = score_items(
                self.model, self.task, rule, policy, least, items, seed, self.generic
            )
            records = []
            for item, (visuals, scores) in zip(items, scored, strict=True):
                records.append(self._record(item, visuals, scores, donors=[]))
            yield from self._with_text_only(items, records)
        else:
            yield from self._choices(items, seed)

    def _imagine(self, items: Sequence[Item], seed: int) -> list[list[Visuals]]:
        """Return each item's sets of images: one for all its questions, one for each, or one for
        each candidate."""
        texts, sizes, how = self._to_imagine(items)
        return _regrouped(self.model.imagine(texts, self.k, seed, **how), sizes)

    def make(self, items: Sequence[Item], seed: int) -> None:
        """Make sure that the store has all images of items and of their donors."""
        donors = chain(*[self._donors(seed, item) for item in items])
        texts, _, how = self._to_imagine([*items, *donors])
        self.model.images.make(texts, self.k, seed, **how)

    def _to_imagine(self, items: Sequence[Item]) -> tuple[Sequence[str], list[int], dict[str, Any]]:
        """Return the texts to imagine, how many each item has, and by which policy."""
        if self.policy == "item" or self.task.kind == "text":
            return [item.picture for item in items], [1] * len(items), {}
        sets = [list(chain(*map(self._texts, item.questions))) for item in items]
        texts, options = zip(*chain(*sets), strict=True)
        return texts, list(map(len, sets)), {"policy": self.policy, "options": options}

    def _texts(self, question: Question) -> list[tuple[str, str]]:
        """Return (text, option) for each set of images that a question has."""
        candidates = question.continuations
        if self.task.kind == "text":
            return [("".join((question.contexts[0], *question.continuations)), "")]
        if self.task.scoring == "sequence":
            return [(question.context(c) + text, "") for c, text in enumerate(candidates)]
        if not self._separate(question):
            return [(question.context(0), "")]
        options = candidates if self.policy == "option" else [""] * len(candidates)
        return [(question.context(c), option) for c, option in enumerate(options)]

    def _separate(self, question: Question) -> bool:
        """Whether each candidate has its own images: images of one candidate's context cannot serve
        all."""
        return self.policy == "option" or (self.policy != "item" and len(question.contexts) > 1)

    def _choices(self, items: list[Item], seed: int) -> Iterator[Record]:
        """Score every question's candidates with text alone, its images, and other objects'."""
        visuals = self._imagine(items, seed)
        donors = [self._donors(seed, item) for item in items]
        flat = list(chain(*donors))
        drawn = self._imagine(flat, seed) if flat else []
        of_donors = _regrouped(drawn, list(map(len, donors)))
        device = self.model.model.device
        # On a CPU item by item, so that no number depends on an item's neighbors; elsewhere all
        # together, for speed.
        size = 1 if device.type == "cpu" else len(items)

        def score(start: int) -> list[Record]:
            group = slice(start, start + size)
            both = list(map(with_donors, visuals[group], of_donors[group]))
            scored = self._scores(items[group], both)
            records = []
            for i, scores in enumerate(scored, start):
                records.append(self._record(items[i], visuals[i], scores, donors[i]))
            return self._with_text_only(items[group], records)

        for records in deterministic_map(score, range(0, len(items), size), device):
            yield from records

    def _with_text_only(self, items: list[Item], records: list[Record]) -> list[Record]:
        """Add the controls and the calibration that use no images."""
        changes: dict[str, Callable[[Item], Item | None]] = {}
        if "caption" in self.settings.controls:
            changes["caption"] = captioned
        if self.examples:
            changes["few_shot"] = lambda item: item.taught(self.examples)
        if self.settings.calibrated:
            changes["content_free"] = content_free
        none = Visuals.none(self.model.config)
        for name, change in changes.items():
            changed_items: dict[int, Item] = {}
            for i, item in enumerate(items):
                if (changed := change(item)) is not None:
                    changed_items[i] = changed
            scored = self._scores(list(changed_items.values()), [[none]] * len(changed_items))
            for i, questions in zip(changed_items, scored, strict=True):
                texts: Any = {name: [listed(scores.text) for scores in questions]}
                records[i].update(texts)
        return records

    def _record(
        self, item: Item, visuals: list[Visuals], scores: list[Scores], donors: list[Item]
    ) -> Record:
        """Write down what was measured; the scores of the item's images come first, then those of
        each donor's."""
        # A question has one set of images, or as many as candidates, all of one size.
        sets_each = 0 if len(visuals) == 1 else len(visuals) // len(scores)
        record: Record = {
            "pictures": [images.keys for images in visuals],
            "prompts": prompts_of(visuals),
            "alignment": [],
            "text_only": [],
            "per_image": [],
            "blank": [],
            "clip": self._cosines(item, visuals),
        }
        if donors:
            record["shuffled"] = {
                "of": [donor.cluster for donor in donors],
                "labels": [donor.label for donor in donors],
                "per_image": [],
                "alignment": [],
            }
        for i, question in enumerate(scores):
            of_item, of_donors = question.split(len(visuals[i * sets_each].features))
            record["alignment"].append(listed(of_item.alignment))
            record["text_only"].append(listed(of_item.text))
            record["per_image"].append(listed(of_item.per_image))
            record["blank"].append(listed(of_item.blank))
            if of_item.generic is not None:
                record.setdefault("generic", []).append(listed(of_item.generic))
            if donors:
                shuffled: Any = record["shuffled"]
                for name in ("per_image", "alignment"):
                    values = np.stack(np.split(getattr(of_donors, name), len(donors)))
                    shuffled[name].append(listed(values))
        if self.task.scoring == "first_token":
            record["tokens"] = []
            for wording in item.questions:
                record["tokens"].append([self._first_token(text) for text in wording.continuations])
        return record

    def _first_token(self, candidate: str) -> str:
        """Return a candidate's first sub-token as the published scripts compare it: stripped, in
        lower case."""
        token = self.model.scorer.texts.first_token(f" {candidate}")
        return self.model.tokenizer.decode([token]).strip().lower()

    def _scores(self, items: list[Item], visuals: list[list[Visuals]]) -> list[list[Scores]]:
        """Score items' questions: candidates together, or one by one where each has its own context
        or images."""
        contexts, choices, images = [], [], []
        sizes: list[int] = []
        for item, sets in zip(items, visuals, strict=True):
            remaining = iter(sets * len(item.questions) if len(sets) == 1 else sets)
            for question in item.questions:
                separate = self._separate(question) and len(sets) > 1
                shared = None if separate else next(remaining)
                groups = by_context(question, separate)
                sizes.append(len(groups))
                for context, candidates in groups:
                    contexts.append(context)
                    choices.append(candidates)
                    images.append(shared or next(remaining))
        first = self.task.scoring == "first_token"
        how: Any = {"first": first, "generic": self.generic}
        flat = self.model.score(contexts, choices, images, together=True, **how)
        questions = list(map(self._whole, _regrouped(flat, sizes)))
        return _regrouped(questions, [len(item.questions) for item in items])

    def _whole(self, scores: list[Scores]) -> Scores:
        """Join a question's candidates; with the policy ``item`` they share their images even if
        scored one by one."""
        whole = Scores.joined(scores)
        if self.policy != "item" or len(scores) == 1:
            return whole
        return replace(whole, alignment=scores[0].alignment)

    def _cosines(self, item: Item, visuals: list[Visuals]) -> list[list[float]] | None:
        """Compare the first set's images with a statement of each candidate: (K, C); None without a
        text side."""
        if not visuals[0].items:
            return None
        statements = []
        for choice in item.choices:
            statements.append(self.task.statement.format(picture=item.picture, choice=choice))
        texts = self.model.imagination.encoder.encode_text(statements)
        if texts is None:
            return None
        pooled = torch.stack([image.pooled for image in visuals[0].items])
        return listed(pooled.float() @ texts.T.float())

    def _losses(self, items: list[Item], seed: int) -> Iterator[Record]:
        """Sum the loss of whole texts, or of each candidate with its context, by the mixture of
        each k images; and beside given images, where items have their own."""
        plain, texts = self.task.kind == "text", list[list[Text]]()
        for item in items:
            texts.append([])
            for question in item.questions:
                start = question.contexts[0] if plain and question.continuations else ""
                texts[-1] += [(text, start) for text, _ in self._texts(question)]
        sets = self._imagine(items, seed)
        given = [self._given(item, seed) for item in items]
        yield from measure_losses(self.model, self.ks, texts, sets, given)

    def _given(self, item: Item, seed: int) -> dict[str, Visuals]:
        """Encode the images that an item with its own is read beside: that, another item's, and
        the blank one."""
        if self.task.open_image is None or item.pair is None:
            return {}
        images = {"own": self.task.open_image(self.data, item.pair)}
        for donor in self._donors(seed, item):
            if donor.pair is not None:
                images["shuffled"] = self.task.open_image(self.data, donor.pair)
        if "blank" in self.settings.controls:
            images["blank"] = Image.new("RGB", images["own"].size, BLANK)
        visuals = self.model.look(list(images.values()), [item.picture] * len(images))
        return dict(zip(images, visuals, strict=True))

    def _generated(self, items: list[Item], seed: int) -> Iterator[Record]:
        """Generate an answer with each number of images, up to the first line break."""
        sets, tokenizer = self._imagine(items, seed), self.model.tokenizer
        settings: dict[str, Any] = {"max_new_tokens": self.task.max_new_tokens, "do_sample": False}

        def measure(i: int) -> Record:
            contexts = [question.contexts[0] for question in items[i].questions]
            visuals = repeated(sets[i], len(contexts))
            outputs = {}
            for k in self.ks:
                line = [Until(tokenizer, ["\n"], blank=False)]  # nothing after it is read
                texts = self.model.generate(
                    contexts, k, visuals=visuals, stopping_criteria=line, **settings
                )
                outputs[str(k)] = [text.strip().split("\n")[0] for text in texts]
            keys = [images.keys for images in sets[i]]
            return {"pictures": keys, "prompts": sorted(prompts_of(sets[i])), "outputs": outputs}

        yield from deterministic_map(measure, range(len(items)), self.model.model.device)


def _regrouped(values: Iterable[T], sizes: Sequence[int]) -> list[list[T]]:
    """Split values into lists of these sizes."""
    remaining = iter(values)
    return [list(islice(remaining, size)) for size in sizes]
