"""From records to right and wrong: every k, rule, weighting and control, computed from one
measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from vlmig.evaluation.fit_learned import Examples, cross_fitted, described
from vlmig.evaluation.metrics.columns import Column, coded
from vlmig.evaluation.records import Record
from vlmig.evaluation.settings import CROSS_FITTED
from vlmig.evaluation.tasks.items import Item, Task
from vlmig.models.config import VLMIGConfig
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import Stopping
from vlmig.predict.scores import Scores

BY_CLIP = ("clip", "zlavi")
BASELINES = ("vote", *BY_CLIP, "best-image")
"""Other uses of the same images: the majority of their answers; CLIP's choice between statements,
averaged over images; the even ensemble of the LM's and CLIP's distributions, after Z-LaVI (Yang et
al. 2022); the answer beside the image that fits its prompt best, with nothing mixed (generate, then
answer: UniG2U-Bench, 2603.03241)."""
CLIP_SCALE = 100.0
"""Factor of cosines in CLIP's distributions where the encoder has none of its own; OpenAI's CLIP
ends its training there."""
NUMBERS = (
    "text_only",
    "blank",
    "per_image",
    "alignment",
    "clip",
    "caption",
    "few_shot",
    "content_free",
    "generic",
)
SHUFFLED = ("per_image", "alignment")
"""Columns made of a record, and of its control ``shuffled``. ``clip`` is per item, the others are
per question."""


class Rescorer:
    """One task's records under one seed, as columns of numbers: any mixture of them is computed
    from these.

    Args:
        items: in the order of ``records``.
        config: the mixture's parameters.
        clip_scale: the encoder's factor of cosines; None for ``CLIP_SCALE``.
    """

    def __init__(
        self,
        task: Task,
        items: Sequence[Item],
        records: Iterable[Record],
        config: VLMIGConfig,
        clip_scale: float | None = None,
    ) -> None:
        self.clip_scale = clip_scale or CLIP_SCALE
        self.task, self.items, self.config = task, items, config
        self.owner = np.repeat(np.arange(len(items)), [len(item.questions) for item in items])
        """The item of each question, (Q,)."""
        self.clusters = coded(item.cluster for item in items)[0][self.owner]
        self.answers: list[int] = []
        names = []
        self.lengths = Column()
        for item in items:
            lengths = []
            for question in item.questions:
                self.answers.append(question.answer)
                names.append(item.choices[question.answer])
                lengths.append([max(1, len(text)) for text in question.continuations])
            self.lengths.add(lengths)
        self.labels, self.names = coded(names)
        self.columns = {name: Column() for name in NUMBERS}
        self.columns |= {f"shuffled {name}": Column() for name in SHUFFLED}
        self.tokens: list[Sequence[str]] = []
        """As published, each candidate's first sub-token; empty where whole candidates are
        scored."""
        self.shared: list[bool] = []
        """Of each item, whether its questions share their images."""
        self.donors = 1
        """How many objects' images the control ``shuffled`` shows instead."""
        self._same: list[list[bool]] = []
        known: dict[tuple[str, ...], tuple[str, ...]] = {}
        for record in records:
            self._add(record, items[len(self.shared)].label)
            self.shared.append(len(record["pictures"]) == 1)
            for tokens in record.get("tokens") or ():
                self.tokens.append(known.setdefault(tuple(tokens), tuple(tokens)))
        self.groups = cache(self._groups)
        self.cross_fitted = cache(self._cross_fitted)

    def _add(self, record: Record, label: str) -> None:
        for name in NUMBERS:
            rows: Any = record.get(name)
            self.columns[name].add([rows] if rows and name == "clip" else rows)
        shuffled: Any = record.get("shuffled")
        if shuffled and "labels" in shuffled:  # earlier versions had one donor, and not its label
            self.donors = len(shuffled["labels"])
            self._same.append([other == label for other in shuffled["labels"]])
        for name in SHUFFLED:
            self.columns[f"shuffled {name}"].add(shuffled[name] if shuffled else None)

    def complete(self, name: str) -> bool:
        """Tell whether every item has a kind of number."""
        return self.columns[name].items == len(self.items)

    def same_label(self) -> np.ndarray | None:
        """Tell for each donor whether its label is the item's, (M, entries); None if unknown."""
        if len(self._same) < len(self.items):
            return None
        return np.array(self._same).T[:, self.entries()[0]]

    @property
    def aligned(self) -> bool:
        """Whether the encoder could compare every image with texts."""
        return self.complete("clip")

    def has(self, control: str) -> bool:
        """Tell whether a control was measured."""
        names = {"shuffled": "shuffled per_image", "caption": "caption", "few-shot": "few_shot"}
        return control in ("none", "blank") or self.complete(names[control])

    def _columns(self, control: str) -> tuple[Column, Column, Column]:
        """Return the columns of text, images and alignment under a control."""
        prefix = "shuffled " if control == "shuffled" else ""
        text = {"caption": "caption", "few-shot": "few_shot"}.get(control, "text_only")
        columns = self.columns
        return columns[text], columns[f"{prefix}per_image"], columns[f"{prefix}alignment"]

    def _groups(self, control: str) -> list[np.ndarray]:
        """Group the questions that have equally many candidates and images."""
        sizes = [column.sizes for column in self._columns(control)]
        if self.complete("clip"):
            sizes.append(self.columns["clip"].sizes[self.owner])
        distinct, group = np.unique(np.stack(sizes, 1), axis=0, return_inverse=True)
        return [np.flatnonzero(group.ravel() == i) for i in range(len(distinct))]

    def _stacked(self, control: str, group: np.ndarray, donor: int = 0) -> Scores:
        """Stack the scores of a group of questions: (Q, C), (K, Q, C), (Q, C), (K, Q) or (K, Q,
        C)."""
        text, images, alignment = (column.of(group) for column in self._columns(control))
        if control == "shuffled":
            images = np.split(images, self.donors, axis=1)[donor]
            alignment = np.split(alignment, self.donors, axis=1)[donor]
        blank = self.columns["blank"].of(group)
        free = np.zeros_like(text)
        if self.complete("content_free"):
            free = self.columns["content_free"].of(group)
        text_only, empty = text - free, blank - free
        per_image = images.reshape(len(text), -1, text.shape[1]).swapaxes(0, 1)
        per_image = np.ascontiguousarray(per_image) - free
        if control == "blank":
            per_image = np.tile(empty, (len(per_image), 1, 1))
        if self.items[0].distribution:  # each image counts alike, as each person does
            per_image = log_softmax(per_image, -1) + logsumexp(text_only, -1, keepdims=True)
        separate = alignment.shape[1] > len(per_image)  # each candidate has its own images
        shape = (len(text), len(per_image), -1) if separate else (len(text), len(per_image))
        cosines = np.ascontiguousarray(alignment.reshape(shape).swapaxes(0, 1))
        generic = None
        if self.complete("generic"):
            by_question = self.columns["generic"].of(group).reshape(len(text), -1, text.shape[1])
            generic = np.ascontiguousarray(by_question.swapaxes(0, 1)) - free
        return Scores(text_only, per_image, empty, cosines, generic)

    def scores(self, control: str) -> Iterator[Scores]:
        """Yield every question's scores under a control."""
        stacked, position = [], np.empty((len(self.owner), 2), dtype=int)
        for number, group in enumerate(self.groups(control)):
            stacked.append(self._stacked(control, group))
            position[group, 0] = number
            position[group, 1] = np.arange(len(group))
        for number, row in position:
            yield stacked[number].at(row)

    def used(self, rule: Stopping, mixture: Mixture) -> np.ndarray:
        """Return how many images each question's answer needs, (Q,); questions that share images
        need equally many."""
        scores, counts = list(self.scores("none")), np.zeros(len(self.owner), dtype=int)
        by_item = np.split(np.arange(len(counts)), self._first[1:])
        for shared, questions in zip(self.shared, by_item, strict=True):
            for members in [questions] if shared else questions[:, None]:
                counts[members] = rule.used([scores[m] for m in members], mixture)
        return counts

    def rescore_each(self, counts: np.ndarray, mix: str, weights: str) -> list[np.ndarray]:
        """Return each question's log-likelihoods with its number of images, ``counts`` (Q,)."""
        by_count = {k: self.rescore(k, mix, weights) for k in np.unique(counts).tolist()}
        return [by_count[k][i] for i, k in enumerate(counts.tolist())]

    def rescore(
        self, k: int, mix: str, weights: str, control: str = "none", donor: int = 0
    ) -> list[np.ndarray]:
        """Return each question's log-likelihoods of its candidates, (C,) each, by a rule.

        A question with fewer images than k uses all of them.

        Args:
            donor: whose images the control ``shuffled`` shows, of ``donors``.
        """
        trust = self.cross_fitted(control, k, donor) if weights == CROSS_FITTED and k else None
        kind = "uniform" if weights == CROSS_FITTED else weights
        mixture = Mixture.of(self.config, None if mix in BASELINES else mix, kind)

        def rows(group: np.ndarray) -> np.ndarray:
            scores = self._stacked(control, group, donor)
            if mix in BASELINES and k:
                return self._baseline(scores, group, k, mix)
            return scores.loglikelihoods(k, mixture, None if trust is None else trust[group].T)

        return self._by_question(control, rows)

    def _by_question(self, control: str, rows: Callable[[np.ndarray], Iterable[Any]]) -> list[Any]:
        """Put what ``rows`` returns for each group of questions in the questions' order."""
        result: list[Any] = [None] * len(self.owner)
        for group in self.groups(control):
            for question, row in zip(group, rows(group), strict=True):
                result[question] = row
        return result

    def rescore_images(self, chosen: Sequence[int], mix: str, weights: str) -> list[np.ndarray]:
        """Return each question's log-likelihoods with the images of these indices."""
        mixture, indices = Mixture.of(self.config, mix, weights), list(chosen)

        def rows(group: np.ndarray) -> np.ndarray:
            whole = self._stacked("none", group)
            images, alignment = whole.per_image[indices], whole.alignment[indices]
            subset = replace(whole, per_image=images, alignment=alignment)
            return subset.loglikelihoods(len(indices), mixture)

        return self._by_question("none", rows)

    @property
    def images(self) -> int:
        """How many images every question has; 0 where they have different numbers."""
        sizes = self.columns["per_image"].sizes // self.columns["text_only"].sizes
        return int(sizes[0]) if len(set(sizes.tolist())) == 1 else 0

    def _baseline(self, scores: Scores, group: np.ndarray, k: int, mix: str) -> np.ndarray:
        """Return the log-likelihoods of a group of questions, (Q, C)."""
        images, text = log_softmax(scores.per_image[:k], -1), log_softmax(scores.text, -1)
        candidates = np.arange(text.shape[1])
        if mix == "best-image":
            return images[_best_fitting(scores.alignment[:k]), np.arange(len(group))]
        if mix == "vote":
            votes = (images.argmax(-1)[..., None] == candidates).sum(0) / k
            # The images' mean probability decides between candidates with equally many votes.
            return np.log(np.maximum(0.999 * votes + 0.001 * np.exp(images).mean(0), 1e-30))
        cosines = self.columns["clip"].of(self.owner[group])
        cosines = cosines.reshape(len(group), len(scores.per_image), -1)
        mean = cosines[:, :k].mean(1)[:, candidates % cosines.shape[-1]]
        clip = log_softmax(self.clip_scale * mean, -1)
        return clip if mix == "clip" else np.logaddexp(clip, text) - np.log(2)

    def _cross_fitted(self, control: str, k: int, donor: int = 0) -> np.ndarray:
        """Return the trust in each image, (Q, K), by learned weights that were fitted on other
        objects of this task than they are applied to."""
        return cross_fitted(self.examples(control, k, donor))

    def examples(self, control: str, k: int, donor: int = 0) -> Examples:
        """Describe the first k images of each question, and tell which of them help."""
        right = np.array([self._right_candidate(i) for i in range(len(self.owner))])

        def rows(group: np.ndarray) -> Iterator[Any]:
            return zip(
                *described(self._stacked(control, group, donor), right[group], k), strict=True
            )

        features, helped = zip(*self._by_question(control, rows), strict=True)
        return Examples(np.stack(features), np.stack(helped), self.clusters)

    def _right_candidate(self, question: int) -> int:
        """Return the index of the right candidate among those that were scored."""
        if self.tokens:
            label = self.names[self.labels[question]].lower()
            if label in self.tokens[question]:
                return list(self.tokens[question]).index(label)
        return self.answers[question]

    def correct(self, values: list[np.ndarray], per_character: bool = False) -> np.ndarray:
        """Tell which entries are right, see ``right``."""
        return self.counted(self.right(values, per_character))

    def right(self, values: list[np.ndarray], per_character: bool = False) -> np.ndarray:
        """Tell which questions are right, (Q,), by their candidates' log-likelihoods.

        Args:
            per_character: divide by the candidates' characters (lm-eval's acc_norm).
        """
        result = np.zeros(len(values))
        for i, (row, lengths) in enumerate(zip(values, self.lengths, strict=True)):
            best = int((row / lengths if per_character else row).argmax())
            if self.tokens:  # as published: the first sub-token against the whole answer
                result[i] = self.tokens[i][best] == self.names[self.labels[i]].lower()
            else:
                result[i] = best == self.answers[i]
        return result

    def named(self, question: int, values: np.ndarray) -> str:
        """Name a question's best candidate; as published by its first sub-token."""
        best = int(values.argmax())
        if self.tokens:
            return self.tokens[question][best]
        return self.items[self.owner[question]].choices[best]

    def counted(self, values: np.ndarray) -> np.ndarray:
        """Count each question, or as ViComTe does each item by its best wording."""
        if self.task.counted == "each":
            return values
        return np.maximum.reduceat(values, self._first)

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the item and the right answer's label of each entry that counts."""
        if self.task.counted == "each":
            return self.owner, self.labels
        return np.arange(len(self.items)), self.labels[self._first]

    @property
    def _first(self) -> np.ndarray:
        """Each item's first question."""
        return np.searchsorted(self.owner, np.arange(len(self.items)))


def confidence(values: list[np.ndarray]) -> np.ndarray:
    """Return the probability of each question's best candidate among its candidates, (Q,)."""
    sizes = np.array([len(row) for row in values])
    result = np.empty(len(values))
    for size in np.unique(sizes):
        group = np.flatnonzero(sizes == size)
        rows = np.stack([values[i] for i in group])
        result[group] = np.exp(rows.max(-1) - logsumexp(rows, -1))
    return result


def _best_fitting(alignment: np.ndarray) -> np.ndarray:
    """Return the image most like its prompt, (Q,), by similarities (K, Q), or (K, Q, C), which are
    averaged over candidates; the first image where they are unknown."""
    mean = alignment.mean(-1) if alignment.ndim > 2 else alignment
    return np.nan_to_num(mean).argmax(0)
