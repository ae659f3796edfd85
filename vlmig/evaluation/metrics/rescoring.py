"""From records to right and wrong: every k, rule, weighting and control, computed from what one pass kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp, xlogy
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vlmig.evaluation.metrics.columns import Column, coded
from vlmig.evaluation.tasks.items import Item, Task
from vlmig.models.config import VLMIGConfig
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import Stopping
from vlmig.predict.scores import Scores

BASELINES = ("vote", "clip", "zlavi")
"""Other ways to use the same pictures: the majority of their answers; CLIP's choice between statements, pictures averaged; and the
even ensemble of the LM's and CLIP's distributions, after Z-LaVI (Yang et al. 2022)."""
CLIP_SCALE = 100.0
"""Inverse temperature of CLIP's distributions, at which its models are trained to end."""
FOLDS = 5
NUMBERS = (
    "text_only",
    "blank",
    "per_image",
    "alignment",
    "clip",
    "caption",
    "few_shot",
    "content_free",
)
SHUFFLED = ("per_image", "alignment")
"""What is kept of a record, and of its part ``shuffled``; ``clip`` is of the item, the others are of each question."""
Record = dict[str, Any]


class Readout:
    """One task's records under one seed, question by question: their numbers, not the records themselves.

    Args:
        items: in the order of ``records``.
        config: the mixture's parameters.
    """

    def __init__(
        self, task: Task, items: Sequence[Item], records: Iterable[Record], config: VLMIGConfig
    ) -> None:
        self.task, self.items, self.config = task, items, config
        self.owner = np.repeat(np.arange(len(items)), [len(item.questions) for item in items])
        self.clusters = coded(item.cluster for item in items)[0][self.owner]
        self.answers = [q.answer for item in items for q in item.questions]
        self.labels, self.names = coded(
            item.choices[q.answer] for item in items for q in item.questions
        )
        self.lengths = Column()
        for item in items:
            self.lengths.add([max(1, len(c)) for c in q.continuations] for q in item.questions)
        self.columns = {
            name: Column() for name in (*NUMBERS, *(f"shuffled {name}" for name in SHUFFLED))
        }
        self.tokens: list[Sequence[str]] = []
        """As published, each candidate's first sub-token; empty where whole candidates are scored."""
        known: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.shared: list[bool] = []
        """Of each item, whether its questions share their pictures."""
        for record in records:
            self._take(record)
            self.shared.append(len(record["pictures"]) == 1)
            self.tokens += (
                known.setdefault(tuple(own), tuple(own)) for own in record.get("tokens") or ()
            )
        self.groups = cache(self._grouped)
        self.learned = cache(self._learned)

    def _take(self, record: Record) -> None:
        other = record.get("shuffled") or {}
        numbers = {name: record.get(name) for name in NUMBERS} | {
            f"shuffled {n}": other.get(n) for n in SHUFFLED
        }
        numbers["clip"] = numbers["clip"] and [numbers["clip"]]
        for name, rows in numbers.items():
            self.columns[name].add(rows)

    def complete(self, name: str) -> bool:
        """Tell whether every item has a kind of number."""
        return self.columns[name].items == len(self.items)

    def has(self, control: str) -> bool:
        """Tell whether a control was measured."""
        names = {"shuffled": "shuffled per_image", "caption": "caption", "few-shot": "few_shot"}
        return control in ("none", "blank") or self.complete(names[control])

    def _columns(self, control: str) -> tuple[Column, Column, Column]:
        """Return text's, pictures' and alignment's numbers under a control."""
        part = "shuffled " if control == "shuffled" else ""
        names = (
            {"caption": "caption", "few-shot": "few_shot"}.get(control, "text_only"),
            f"{part}per_image",
        )
        text, images, alignment = (self.columns[name] for name in (*names, f"{part}alignment"))
        return text, images, alignment

    def _grouped(self, control: str) -> list[np.ndarray]:
        """Put questions together that have equally many candidates and pictures."""
        sizes = [column.sizes for column in self._columns(control)]
        if self.complete("clip"):
            sizes.append(self.columns["clip"].sizes[self.owner])
        found, group = np.unique(np.stack(sizes, 1), axis=0, return_inverse=True)
        return [np.flatnonzero(group.ravel() == i) for i in range(len(found))]

    def _stacked(self, control: str, group: np.ndarray) -> Scores:
        """Put the scores of questions of one size beside each other: (Q, C), (K, Q, C), (Q, C), (K, Q) or (K, Q, C)."""
        text, images, alignment = (column.of(group) for column in self._columns(control))
        blank = self.columns["blank"].of(group)
        free = (
            self.columns["content_free"].of(group)
            if self.complete("content_free")
            else np.zeros_like(text)
        )
        own, empty = text - free, blank - free
        seen = (
            np.ascontiguousarray(images.reshape(len(text), -1, text.shape[1]).swapaxes(0, 1)) - free
        )
        if control == "blank":
            seen = np.tile(empty, (len(seen), 1, 1))
        each = alignment.shape[1] > len(seen)  # every candidate has pictures of its own
        fits = alignment.reshape(len(text), len(seen), *([-1] if each else []))
        return Scores(own, seen, empty, np.ascontiguousarray(fits.swapaxes(0, 1)))

    def scores(self, control: str) -> Iterator[Scores]:
        """Yield every question's scores under a control."""
        groups = self.groups(control)
        stacked = [self._stacked(control, group) for group in groups]
        places = np.empty((len(self.owner), 2), dtype=int)
        for i, group in enumerate(groups):
            places[group] = np.stack([np.full(len(group), i), np.arange(len(group))], 1)
        return (stacked[i].one(own) for i, own in places)

    def used(self, rule: Stopping, mixture: Mixture) -> np.ndarray:
        """Return how many pictures each question's answer needs, (Q,); questions that share pictures need as many."""
        scores, counts = list(self.scores("none")), np.zeros(len(self.owner), dtype=int)
        first = np.flatnonzero(np.diff(self.owner, prepend=-1))
        for shared, own in zip(
            self.shared, np.split(np.arange(len(counts)), first[1:]), strict=True
        ):
            for members in [own] if shared else own[:, None]:
                counts[members] = rule.used([scores[m] for m in members], mixture)
        return counts

    def read_until(self, counts: np.ndarray, mix: str, weights: str) -> list[np.ndarray]:
        """Return each question's log-likelihoods beside a number of pictures of its own."""
        found = {k: self.read(k, mix, weights) for k in np.unique(counts).tolist()}
        return [found[k][i] for i, k in enumerate(counts.tolist())]

    def read(self, k: int, mix: str, weights: str, control: str = "none") -> list[np.ndarray]:
        """Return each question's log-likelihoods of its candidates by a rule, the questions of one size at once.

        A question with fewer pictures than k is read with all of them.
        """
        trust = self.learned(control, k) if weights == "learned" and k else None
        kind = "uniform" if weights == "learned" else weights
        mixture = Mixture.of(self.config, None if mix in BASELINES else mix, kind)
        found: list[Any] = [None] * len(self.owner)
        for group in self.groups(control):
            scores = self._stacked(control, group)
            if mix in BASELINES and k:
                rows = self._baseline(scores, group, k, mix)
            else:
                rows = scores.loglikelihoods(
                    k, mixture, trust=None if trust is None else trust[group].T
                )
            for place, row in zip(group, rows, strict=True):
                found[place] = row
        return found

    def _baseline(self, scores: Scores, group: np.ndarray, k: int, mix: str) -> np.ndarray:
        """Return the log-likelihoods of questions of one size, (Q, C)."""
        images, text = log_softmax(scores.per_image[:k], -1), log_softmax(scores.text, -1)
        candidates = np.arange(text.shape[1])
        if mix == "vote":
            votes = (images.argmax(-1)[..., None] == candidates).sum(0) / k
            # Pictures' mean probability decides between candidates with equally many votes.
            return np.log(np.maximum(0.999 * votes + 0.001 * np.exp(images).mean(0), 1e-30))
        cosines = (
            self.columns["clip"]
            .of(self.owner[group])
            .reshape(len(group), len(scores.per_image), -1)
        )
        cosine = cosines[:, :k].mean(1)[:, candidates % cosines.shape[-1]]
        clip = log_softmax(CLIP_SCALE * cosine, -1)
        return clip if mix == "clip" else np.logaddexp(clip, text) - np.log(2)

    def _learned(self, control: str, k: int) -> np.ndarray:
        """Learn how far to trust each picture, (Q, K): how likely it raises the right answer's probability above the text's.

        A logistic regression on what is known without the answer, fitted on other objects than it is applied to.
        """
        inputs, helped = (
            np.empty((len(self.owner), k, 6)),
            np.empty((len(self.owner), k), dtype=bool),
        )
        right = np.array([self._right(i) for i in range(len(self.owner))])
        for group in self.groups(control):
            scores = self._stacked(control, group)
            inputs[group] = _signs(scores, k).swapaxes(0, 1)
            each = np.arange(len(group)), right[group]
            images, text = log_softmax(scores.per_image[:k], -1), log_softmax(scores.text, -1)
            helped[group] = (images[:, *each] > text[each]).T
        trust = np.full(helped.shape, float(helped.mean()))
        folds = min(FOLDS, len(np.unique(self.clusters)))
        if folds < 2:
            return trust
        for fit, apply in GroupKFold(folds).split(inputs, groups=self.clusters):
            known = helped[fit].ravel()
            if known.all() or not known.any():
                trust[apply] = float(known.mean())
                continue
            model = make_pipeline(StandardScaler(), LogisticRegression())
            model.fit(inputs[fit].reshape(-1, inputs.shape[-1]), known)
            trust[apply] = model.predict_proba(inputs[apply].reshape(-1, inputs.shape[-1]))[
                :, 1
            ].reshape(-1, k)
        return trust

    def _right(self, question: int) -> int:
        """Return the place of the right candidate among what was scored."""
        if not self.tokens:
            return self.answers[question]
        label = self.names[self.labels[question]].lower()
        own = [i for i, token in enumerate(self.tokens[question]) if token == label]
        return own[0] if own else self.answers[question]

    def correct(self, found: list[np.ndarray], normalised: bool = False) -> np.ndarray:
        """Say which entries are right; ``normalised`` divides by the candidates' characters (lm-eval's acc_norm)."""
        return self.counted(self.right(found, normalised))

    def right(self, found: list[np.ndarray], normalised: bool = False) -> np.ndarray:
        """Say which questions are right."""
        pairs = zip(found, self.lengths, strict=True)
        best = [int((own / length if normalised else own).argmax()) for own, length in pairs]
        if not self.tokens:
            return np.array([b == a for b, a in zip(best, self.answers, strict=True)], dtype=float)
        # As published: the first sub-token, as it is written, against the whole answer.
        read = zip(self.tokens, best, self.labels, strict=True)
        return np.array(
            [tokens[b] == self.names[label].lower() for tokens, b, label in read], dtype=float
        )

    def named(self, question: int, found: np.ndarray) -> str:
        """Name a question's best candidate; as published by its first sub-token."""
        best = int(found.argmax())
        choices = self.items[self.owner[question]].choices
        return self.tokens[question][best] if self.tokens else choices[best]

    def counted(self, values: np.ndarray) -> np.ndarray:
        """Count each question, or as ViComTe does each item by its best wording."""
        if self.task.counted == "each":
            return values
        return np.maximum.reduceat(values, self._first)

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the item and the right answer's number of each entry that counts."""
        if self.task.counted == "each":
            return self.owner, self.labels
        return np.arange(len(self.items)), self.labels[self._first]

    @property
    def _first(self) -> np.ndarray:
        """Each item's first question."""
        return np.searchsorted(self.owner, np.arange(len(self.items)))


def confidence(found: list[np.ndarray]) -> np.ndarray:
    """Return the probability of each question's best candidate among its candidates."""
    sizes, sure = np.array([len(own) for own in found]), np.empty(len(found))
    for size in np.unique(sizes):
        group = np.flatnonzero(sizes == size)
        rows = np.stack([found[i] for i in group])
        sure[group] = np.exp(rows.max(-1) - logsumexp(rows, -1))
    return sure


def _signs(scores: Scores, k: int) -> np.ndarray:
    """Describe each picture without the answer: alignment, entropies, how sure, how many pictures agree, (K, Q, 6)."""
    images, text = log_softmax(scores.per_image[:k], -1), log_softmax(scores.text, -1)
    alignment = np.nan_to_num(scores.alignment[:k])
    alignment = alignment.mean(-1) if alignment.ndim > 2 else alignment
    best = images.argmax(-1)
    columns = [
        alignment,
        -xlogy(np.exp(images), np.exp(images)).sum(-1),
        np.tile(-xlogy(np.exp(text), np.exp(text)).sum(-1), (k, 1)),
        np.exp(images.max(-1)),
        np.tile(np.exp(text.max(-1)), (k, 1)),
        (best[:, None] == best[None]).mean(1),
    ]
    return np.stack(columns, -1)
