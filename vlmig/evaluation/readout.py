"""From records to right and wrong: every k, rule, weighting and control, computed from what one pass kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp, xlogy
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vlmig.config import VLMIGConfig
from vlmig.evaluation.items import Item, Task
from vlmig.scores import Scores, Setting
from vlmig.stopping import Stopping

BASELINES = ("vote", "clip", "zlavi")
"""Other ways to use the same pictures: the majority of their answers; CLIP's choice between statements, pictures averaged; and the
even ensemble of the LM's and CLIP's distributions, after Z-LaVI (Yang et al. 2022)."""
CLIP_SCALE = 100.0
"""Inverse temperature of CLIP's distributions, at which its models are trained to end."""
FOLDS = 5
Record = dict[str, Any]


class Readout:
    """One task's records under one seed, question by question.

    Args:
        items: in the order of ``records``.
        config: the mixture's parameters.
    """

    def __init__(self, task: Task, items: Sequence[Item], records: Sequence[Record], config: VLMIGConfig) -> None:
        self.task, self.items, self.records, self.config = task, items, records, config
        self.owner = np.array([i for i, item in enumerate(items) for _ in item.questions])
        self.clusters = np.array([items[i].cluster for i in self.owner])
        questions = [q for item in items for q in item.questions]
        self.answers = [q.answer for q in questions]
        self.labels = np.array([items[i].choices[q.answer] for i, q in zip(self.owner, questions, strict=True)])
        self.lengths = [np.array([max(1, len(c)) for c in q.continuations], dtype=float) for q in questions]
        self.tokens = self._all("tokens")
        self.scores = cache(self._scores)
        self.learned = cache(self._learned)

    def _all(self, name: str, part: str | None = None) -> list[Any] | None:
        """Collect one kind of number of every question; None where some item lacks it."""
        sources = [record if part is None else record.get(part, {}) for record in self.records]
        if any(source.get(name) is None for source in sources):
            return None
        return [value for source in sources for value in source[name]]

    def has(self, control: str) -> bool:
        """Tell whether a control was measured."""
        names = {"shuffled": ("per_image", "shuffled"), "caption": ("caption",), "few-shot": ("few_shot",)}
        return control in ("none", "blank") or self._all(*names[control]) is not None

    def _scores(self, control: str) -> list[Scores]:
        """Return every question's scores under a control."""
        pictures = "shuffled" if control == "shuffled" else None
        text = self._all({"caption": "caption", "few-shot": "few_shot"}.get(control, "text_only")) or []
        blank = self._all("blank") or []
        images, alignment = self._all("per_image", pictures) or [], self._all("alignment", pictures) or []
        free = self._all("content_free") or [0.0] * len(text)
        made = []
        for t, b, p, a, f in zip(text, blank, images, alignment, free, strict=True):
            own, empty = np.array(t, dtype=float) - f, np.array(b, dtype=float) - f
            seen = np.array(p, dtype=float).reshape(-1, len(own)) - f
            if control == "blank":
                seen = np.broadcast_to(empty, seen.shape)
            made.append(Scores(own, seen, empty, np.array(a, dtype=float)))
        return made

    def _groups(self, scores: list[Scores], k: int) -> list[list[int]]:
        """Put questions with equally many candidates, and as many pictures of the first k, together."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, score in enumerate(scores):
            groups.setdefault((len(score.text), min(k, len(score.per_image))), []).append(i)
        return list(groups.values())

    def used(self, rule: Stopping, setting: Setting) -> np.ndarray:
        """Return how many pictures each question's answer needs, (Q,); questions that share pictures need as many."""
        scores, counts = self.scores("none"), np.zeros(len(self.owner), dtype=int)
        for i, record in enumerate(self.records):
            own = np.flatnonzero(self.owner == i)
            for members in [own] if len(record["pictures"]) == 1 else own[:, None]:
                counts[members] = rule.used([scores[m] for m in members], setting)
        return counts

    def read_until(self, counts: np.ndarray, mix: str, weights: str) -> list[np.ndarray]:
        """Return each question's log-likelihoods beside a number of pictures of its own."""
        found = {k: self.read(k, mix, weights) for k in np.unique(counts).tolist()}
        return [found[k][i] for i, k in enumerate(counts.tolist())]

    def read(self, k: int, mix: str, weights: str, control: str = "none") -> list[np.ndarray]:
        """Return each question's log-likelihoods of its candidates by a rule, the questions of one size at once.

        A question with fewer pictures than k is read with all of them.
        """
        scores = self.scores(control)
        if mix in BASELINES and k:
            return list(self._baseline(scores, k, mix))
        trust = self.learned(control, k) if weights == "learned" and k else None
        kind = "uniform" if weights == "learned" else weights
        setting = self.config.setting(None if mix in BASELINES else mix, kind)
        found: list[Any] = [None] * len(scores)
        for group in self._groups(scores, k):
            many = Scores.stacked([scores[i].first(k) for i in group])
            share = None if trust is None else trust[group].T
            rows = many.loglikelihoods(len(many.per_image), *setting, trust=share)
            for place, row in zip(group, rows, strict=True):
                found[place] = row
        return found

    def _baseline(self, scores: list[Scores], k: int, mix: str) -> Iterator[np.ndarray]:
        cosines = [record.get("clip") for record in self.records]
        for i, score in enumerate(scores):
            images = log_softmax(score.per_image[:k], -1)
            if mix == "vote":
                votes = np.bincount(images.argmax(-1), minlength=images.shape[1]) / k
                # Pictures' mean probability decides between candidates with equally many votes.
                yield np.log(np.maximum(0.999 * votes + 0.001 * np.exp(images).mean(0), 1e-30))
                continue
            cosine = np.array(cosines[self.owner[i]], dtype=float)[:k].mean(0)
            clip = log_softmax(CLIP_SCALE * np.resize(cosine, score.text.shape))
            text = log_softmax(score.text)
            yield clip if mix == "clip" else np.logaddexp(clip, text) - np.log(2)

    def _learned(self, control: str, k: int) -> np.ndarray:
        """Learn how far to trust each picture, (Q, K): how likely it raises the right answer's probability above the text's.

        A logistic regression on what is known without the answer, fitted on other objects than it is applied to.
        """
        scores = self.scores(control)
        inputs = np.stack([_signs(score, k) for score in scores])
        helped = np.stack(
            [
                log_softmax(s.per_image[:k], -1)[:, self._right(i)] > log_softmax(s.text)[self._right(i)]
                for i, s in enumerate(scores)
            ]
        )
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
            trust[apply] = model.predict_proba(inputs[apply].reshape(-1, inputs.shape[-1]))[:, 1].reshape(-1, k)
        return trust

    def _right(self, question: int) -> int:
        """Return the place of the right candidate among what was scored."""
        if self.tokens is None:
            return self.answers[question]
        own = [i for i, token in enumerate(self.tokens[question]) if token == self.labels[question].lower()]
        return own[0] if own else self.answers[question]

    def correct(self, found: list[np.ndarray], normalised: bool = False) -> np.ndarray:
        """Say which entries are right; ``normalised`` divides by the candidates' characters (lm-eval's acc_norm)."""
        return self.counted(self.right(found, normalised))

    def right(self, found: list[np.ndarray], normalised: bool = False) -> np.ndarray:
        """Say which questions are right."""
        scaled = [own / length if normalised else own for own, length in zip(found, self.lengths, strict=True)]
        best = [int(own.argmax()) for own in scaled]
        if self.tokens is None:
            return np.array([b == a for b, a in zip(best, self.answers, strict=True)], dtype=float)
        # As published: the first sub-token, as it is written, against the whole answer.
        read = zip(self.tokens, best, self.labels, strict=True)
        return np.array([tokens[b] == label.lower() for tokens, b, label in read], dtype=float)

    def named(self, question: int, found: np.ndarray) -> str:
        """Name a question's best candidate; as published by its first sub-token."""
        best = int(found.argmax())
        choices = self.items[self.owner[question]].choices
        return choices[best] if self.tokens is None else self.tokens[question][best]

    def counted(self, values: np.ndarray) -> np.ndarray:
        """Count each question, or as ViComTe does each item by its best wording."""
        if self.task.counted == "each":
            return values
        return np.array([values[self.owner == i].max() for i in range(len(self.items))])

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the item and the right answer of each entry that counts."""
        if self.task.counted == "each":
            return self.owner, self.labels
        return np.arange(len(self.items)), np.array([item.label for item in self.items])


def confidence(found: list[np.ndarray]) -> np.ndarray:
    """Return the probability of each question's best candidate among its candidates."""
    return np.array([float(np.exp(own.max() - logsumexp(own))) for own in found])


def _signs(score: Scores, k: int) -> np.ndarray:
    """Describe each picture without the answer: alignment, entropies, how sure, how many pictures agree, (K, 6)."""
    images, text = log_softmax(score.per_image[:k], -1), log_softmax(score.text)
    alignment = np.nan_to_num(score.alignment[:k])
    alignment = alignment.mean(-1) if alignment.ndim > 1 else alignment
    best = images.argmax(-1)
    columns = [
        alignment,
        -xlogy(np.exp(images), np.exp(images)).sum(-1),
        np.full(k, -xlogy(np.exp(text), np.exp(text)).sum()),
        np.exp(images.max(-1)),
        np.full(k, np.exp(text.max())),
        (best[:, None] == best[None]).mean(-1),
    ]
    return np.stack(columns, -1)
