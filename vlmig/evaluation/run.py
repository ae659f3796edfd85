"""Running tasks: imagine once, score once, and read every k, mixture and weighting off the same per-image scores."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlmig.checkpoint import write_text
from vlmig.config import POLICIES as PROMPT_POLICIES
from vlmig.errors import VLMIGError
from vlmig.evaluation.statistics import balanced_accuracy, clustered, majority, verdict
from vlmig.evaluation.tasks import Item, Task
from vlmig.predictor import VLMIG
from vlmig.scoring import Scores
from vlmig.visuals import Visuals

logger = logging.getLogger(__name__)

CONTROLS = ("none", "blank", "shuffled")
POLICIES = ("item", *PROMPT_POLICIES)
"""What to imagine: what the item is about, once for all its templates; or what each template's text says."""


@dataclass
class Settings:
    """What to measure."""

    ks: Sequence[int] = (0, 6)
    mixes: Sequence[str] = ()
    """Mixing rules; the checkpoint's own is always among them."""
    weights: Sequence[str] = ()
    controls: Sequence[str] = ("none",)
    seeds: Sequence[int] = (0,)
    limit: int | None = None
    policy: str = "item"

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 0:
            raise VLMIGError(f"k={','.join(map(str, self.ks))}; expected numbers of pictures, 0 (text only) or more")
        for control in self.controls:
            if control not in CONTROLS:
                raise VLMIGError(f"control {control!r}; expected some of {', '.join(CONTROLS)}")
        if self.policy not in POLICIES:
            raise VLMIGError(f"policy {self.policy!r}; expected one of {', '.join(POLICIES)}")
        if self.limit is not None and self.limit < 1:
            raise VLMIGError(f"limit={self.limit}; expected at least one item")


@dataclass
class Outcome:
    """One task's numbers, in the blocks of results.json."""

    task: Task
    items: list[Item]
    conditions: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    baselines: dict[str, float] = field(default_factory=dict)
    correct: dict[tuple[Any, ...], np.ndarray] = field(default_factory=dict)
    """(k, mix, weights, control, seed) -> whether each (item, template) was right, (items * templates,)."""


class Evaluator:
    """Run tasks on one model.

    Args:
        model: the predictor.
        settings: what to measure.
        data: folder of benchmark files.
        out: where samples are written.
        covered: tells whether an item's object belongs to the ``covered`` subset; None has no such subset.

    Raises:
        VLMIGError: the model's adapter is untrained.
    """

    def __init__(
        self, model: VLMIG, settings: Settings, data: Path, out: Path, covered: Callable[[str], bool] | None = None
    ) -> None:
        if not model.config.trained:
            raise VLMIGError(
                "the model's adapter is untrained and would be measured as noise; train it, or load a trained checkpoint"
            )
        self.model, self.settings, self.data, self.out, self.covered = model, settings, data, out, covered
        main = model.config.setting()[:2]
        self.rules = list(
            dict.fromkeys([main, *((m, w) for m in settings.mixes or main[:1] for w in settings.weights or main[1:])])
        )
        for rule in self.rules:
            model.config.setting(*rule)
        self.ks = sorted(set(settings.ks) | {0})
        self.main_k = 6 if 6 in self.ks else self.ks[-1]

    def run(self, task: Task) -> Outcome:
        """Measure a task under every asked condition and write its samples."""
        items = task.load(self.data)[: self.settings.limit]
        logger.info("%s: %d items", task.name, len(items))
        outcome = Outcome(task, items)
        if task.kind == "text":
            self._perplexities(outcome)
            return outcome
        labels = [item.choices[item.answer] for item in items]
        outcome.baselines = {
            "majority": majority(labels),
            "chance": float(np.mean([1 / len(i.choices) for i in items])),
        }
        lines: list[str] = []
        for seed in self.settings.seeds:
            visuals = self._imagine(items, seed)
            for control in self.settings.controls:
                scores = self._score(items, visuals, control, seed)
                self._accumulate(outcome, scores, control, seed)
                lines += [json.dumps(row) for row in self._samples(items, scores, visuals, control, seed)]
        write_text(self.out / f"samples_{task.name}.jsonl", "\n".join(lines) + "\n")
        self._conditions(outcome)
        self._comparisons(outcome)
        return outcome

    def _imagine(self, items: list[Item], seed: int) -> list[list[Visuals]]:
        """Imagine for each item what the policy says: once, for each template, or for each template's candidates."""
        policy, k = self.settings.policy, self.ks[-1]
        if policy == "item":
            own = self.model.imagine([item.picture for item in items], k, seed, progress=True)
            return [[visuals] for visuals in own]
        rows = [
            [(c, o) for c in item.contexts for o in ((policy == "option" and item.choices) or ("",))] for item in items
        ]
        texts, options = zip(*(pair for row in rows for pair in row), strict=True)
        flat = iter(self.model.imagine(texts, k, seed, progress=True, policy=policy, options=options))
        return [[next(flat) for _ in row] for row in rows]

    def _score(self, items: list[Item], visuals: list[list[Visuals]], control: str, seed: int) -> list[list[Scores]]:
        """Score every template of every item beside its own, empty or another object's pictures."""
        if control == "shuffled":
            visuals = shuffled(items, visuals, seed)
        if control == "blank":
            empty = self.model.model.blank_features.float().cpu()
            visuals = [[replace(v, features=empty.expand(len(v.features), -1, -1)) for v in own] for own in visuals]
        apart = self.settings.policy == "option"  # every candidate has pictures of its own, and is scored by itself
        parts = [[(o,) for o in item.choices] if apart else [item.choices] for item in items]
        contexts = [c for item, own in zip(items, parts, strict=True) for c in item.contexts for _ in own]
        choices = [part for item, own in zip(items, parts, strict=True) for _ in item.contexts for part in own]
        seen = [
            v
            for item, own, p in zip(items, visuals, parts, strict=True)
            for v in _spread(own, len(item.contexts) * len(p))
        ]
        flat = iter(self.model.score(contexts, choices, seen, progress=True))
        return [
            [Scores.joined([next(flat) for _ in own]) for _ in item.contexts]
            for item, own in zip(items, parts, strict=True)
        ]

    def _accumulate(self, outcome: Outcome, scores: list[list[Scores]], control: str, seed: int) -> None:
        for k in self.ks:
            for rule, weights in self.rules:
                outcome.correct[k, rule, weights, control, seed] = np.array(
                    [
                        score.mixed(k, *self.model.config.setting(rule, weights)).argmax() == item.answer
                        for item, templates in zip(outcome.items, scores, strict=True)
                        for score in templates
                    ],
                    dtype=float,
                )

    def subsets(self, items: list[Item]) -> dict[str, np.ndarray]:
        """Name the subsets and say which (item, template) belong to each."""
        counts = [max(1, len(item.contexts)) for item in items]
        chosen = {"all": np.ones(sum(counts), dtype=bool)}
        if self.covered is not None:
            chosen["covered"] = np.repeat([self.covered(item.cluster) for item in items], counts)
        return {name: mask for name, mask in chosen.items() if mask.any()}

    def _conditions(self, outcome: Outcome) -> None:
        clusters = np.array([item.cluster for item in outcome.items for _ in item.contexts])
        labels = np.array([item.choices[item.answer] for item in outcome.items for _ in item.contexts])
        numbers = np.array([i for i, item in enumerate(outcome.items) for _ in item.contexts])
        for (k, rule, weights, control, seed), correct in outcome.correct.items():
            right_alone = outcome.correct[0, rule, weights, control, seed] > 0
            for subset, mask in self.subsets(outcome.items).items():
                estimate = clustered(correct[mask], clusters[mask])
                kept = correct[mask & right_alone]
                outcome.conditions.append(
                    {
                        "task": outcome.task.name,
                        "subset": subset,
                        "k": k,
                        "mix": rule,
                        "weights": weights,
                        "control": control,
                        "seed": seed,
                        "acc": estimate.mean,
                        "stderr": estimate.stderr,
                        "ci95": [estimate.low, estimate.high],
                        "n": len(np.unique(numbers[mask])),
                        "balanced_acc": balanced_accuracy(correct[mask], labels[mask].tolist()),
                        "majority": majority(labels[mask].tolist()),
                        "kept": float(kept.mean()) if len(kept) else None,
                    }
                )

    def _comparisons(self, outcome: Outcome) -> None:
        clusters = [item.cluster for item in outcome.items for _ in item.contexts]
        outcome.comparisons = self.compare(outcome.task.name, outcome.correct, clusters, self.subsets(outcome.items))

    def compare(
        self,
        name: str,
        correct: dict[tuple[Any, ...], np.ndarray],
        clusters: Sequence[str],
        subsets: dict[str, np.ndarray],
    ) -> list[dict[str, Any]]:
        """Compare the main setting with text alone, with one picture and with other objects' pictures, paired by item."""
        seed, (rule, weights) = self.settings.seeds[0], self.rules[0]

        def key(k: int, control: str = "none") -> tuple[Any, ...]:
            return (k, rule, weights, control, seed)

        main = key(self.main_k)
        others = {
            "text-only": key(0),
            "k=1": key(1),
            "shuffled": key(self.main_k, "shuffled"),
            "blank": key(self.main_k, "blank"),
        }
        rows = []
        for subset, mask in subsets.items():
            for label, other in others.items():
                if other in correct and main in correct and other != main:
                    gain = clustered((correct[main] - correct[other])[mask], np.asarray(clusters)[mask].tolist())
                    row = {"task": name, "subset": subset, "a": f"k={self.main_k}", "b": label, "delta": gain.mean}
                    rows.append({**row, "ci95": [gain.low, gain.high], "p": gain.p, "verdict": verdict(gain)})
        return rows

    def _samples(
        self, items: list[Item], scores: list[list[Scores]], visuals: list[list[Visuals]], control: str, seed: int
    ) -> Iterable[dict[str, Any]]:
        """Yield a line per item, with every distribution the results are computed from."""
        for i, (item, templates, seen) in enumerate(zip(items, scores, visuals, strict=True)):
            yield {
                "doc_id": i,
                "doc": asdict(item),
                "target": item.choices[item.answer],
                "control": control,
                "seed": seed,
                "covered": None if self.covered is None else self.covered(item.cluster),
                "pictures": [own.keys for own in seen],
                "alignment": [_rounded(s.alignment) for s in templates],
                "text_only": [_rounded(s.text) for s in templates],
                "per_image": [_rounded(s.per_image) for s in templates],
                "blank": [_rounded(s.blank) for s in templates],
            }

    def _perplexities(self, outcome: Outcome) -> None:
        """Measure the perplexity of texts with pictures of their subject mixed in, against text alone."""
        config = self.model.config
        visuals = self._imagine(outcome.items, self.settings.seeds[0])
        for k in self.ks:
            losses, tokens = [], []
            for item, seen in zip(outcome.items, visuals, strict=True):
                log_probs = self.model.token_log_probs(item.contexts[0], seen[0].first(k))
                losses.append(-log_probs.sum().item())
                tokens.append(len(log_probs))
            row = {"task": outcome.task.name, "subset": "all", "k": k, "mix": config.mix, "weights": config.weights}
            row |= {"control": "none", "seed": self.settings.seeds[0], "acc": None, "stderr": None, "ci95": None}
            outcome.conditions.append({**row, "n": len(losses), "perplexity": float(np.exp(sum(losses) / sum(tokens)))})


def shuffled(items: list[Item], visuals: list[list[Visuals]], seed: int) -> list[list[Visuals]]:
    """Give every object another object's pictures, the same for all its items."""
    objects = sorted({item.cluster for item in items})
    if len(objects) < 2:
        raise VLMIGError("the shuffled control needs items about at least two objects; raise --limit")
    order = np.random.default_rng(seed).permutation(len(objects))
    taken = {objects[order[i]]: objects[order[i - 1]] for i in range(len(objects))}
    first = {item.cluster: v for item, v in zip(reversed(items), reversed(visuals), strict=True)}
    return [first[taken[item.cluster]] for item in items]


def _spread(own: list[Visuals], count: int) -> list[Visuals]:
    """Give each of an item's scored texts its pictures: one set for all, or one each."""
    return [own[i * len(own) // count] if len(own) < count else own[i] for i in range(count)]


def _rounded(values: np.ndarray) -> Any:
    rounded = np.round(np.asarray(values, dtype=float), 5)
    unknown = np.isnan(rounded)
    shown = rounded.astype(object)
    shown[unknown] = None  # JSON knows no NaN
    return shown.tolist()
