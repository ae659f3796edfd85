"""How often ``k="auto"`` answers otherwise than with all ten images, beside the images that it
draws.

Three ways in which images of a prompt may scatter are simulated, 10,000 questions of four
candidates each: as normal log-odds, as two kinds of image with a truth of their own, and with one
image in eight that shouts. The rule is calibrated many times, each time on other questions that
scatter alike, and used on questions of their own, which is what its level speaks of; and once on
questions that scatter normally, of which it does not. "each look" is the rule before: the level is
the error of each look, if images scatter normally. "at n" is, in %, how many answers that stop
after n images change, "of" how many stop there.

    python -m eval.stopping

And the images of a run, in random order; three quarters of its objects calibrate, the others count,
ten times:

    vlmig eval --tasks pocket_color --limit 100 --k 0,10 --control none --out runs/ten
    python -m eval.stopping runs/ten
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from eval.tables import markdown, said
from vlmig.evaluation.answered import answered
from vlmig.evaluation.fit_auto_k import fit, in_random_orders, path
from vlmig.evaluation.run_folder import Run, read_run
from vlmig.models.config import VLMIGConfig
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import MOST, Stopping
from vlmig.predict.scores import Scores

LEVELS = (0.1, 0.05, 0.02)
QUESTIONS, CALIBRATIONS = 10_000, 20
CALIBRATED_ON = (60, 300)
CANDIDATES = 4
MIXTURE = Mixture("evidence", strength=1.5)
SPLITS, ORDERS = 10, 8
Scatter = Callable[[np.random.Generator, int], Scores]


def normal(rng: np.random.Generator, count: int) -> Scores:
    """Images scatter normally around a truth of the question's own, as widely as the question has
    it."""
    own = 0.7 * np.sqrt(rng.chisquare(8, (count, 1)) / 8)
    return _questions(rng, rng.normal(size=(count, CANDIDATES)) + own * _noise(rng, count))


def two_kinds(rng: np.random.Generator, count: int) -> Scores:
    """Each image shows one of two things with equal probability, such as a fruit ripe or unripe."""
    first, second = 2 * rng.normal(size=(2, count, CANDIDATES))
    is_first = rng.random((MOST, count, 1)) < 0.5
    return _questions(rng, np.where(is_first, first, second) + 0.2 * _noise(rng, count))


def shouting(rng: np.random.Generator, count: int) -> Scores:
    """As ``normal``, but one image in eight says something of its own, ten times as loudly."""
    loud = rng.random((MOST, count, 1)) < 1 / 8
    scattered = rng.normal(size=(count, CANDIDATES)) + 0.7 * _noise(rng, count)
    return _questions(rng, np.where(loud, 10 * _noise(rng, count), scattered))


def _noise(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(size=(MOST, count, CANDIDATES))


def _questions(rng: np.random.Generator, evidence: np.ndarray) -> Scores:
    """Stack questions whose images say so much (K, Q, C) beside a text that is unsure."""
    text = log_softmax(rng.normal(size=evidence.shape[1:]), -1)
    return Scores(text, log_softmax(text + evidence, -1), text, np.ones(evidence.shape[:2]))


SCATTERS: dict[str, Scatter] = {
    "normal": normal,
    "two kinds": two_kinds,
    "one shouts": shouting,
}


@dataclass
class Count:
    """Where questions stopped, and whether their answers differ from those by all images."""

    stops: list[np.ndarray] = field(default_factory=list)
    changed: list[np.ndarray] = field(default_factory=list)

    def add(self, paths: tuple[np.ndarray, np.ndarray], rule: Stopping) -> None:
        """Count Q questions, whose looks are after 0, 1, 2, ... images."""
        doubts, changed = paths
        stop = (doubts <= rule.threshold).argmax(0)
        self.stops.append(stop)
        self.changed.append(changed[stop, np.arange(len(stop))])

    def cells(self) -> list[str]:
        """Format the share of answers that changed, the images drawn, and both by look."""
        stops, changed = np.concatenate(self.stops), np.concatenate(self.changed)
        looks = []
        for look in (0, 1, 2, 3, 5):
            here = (stops == look) if look < 5 else (stops > 3) & (stops < MOST)
            share = f"{100 * changed[here].mean():.0f}" if here.any() else "-"
            looks.append(f"{share} of {100 * here.mean():.0f}")
        return [f"{100 * changed.mean():.1f}", f"{stops.mean():.1f}", *looks]


HEAD = ["changed, %", "pictures", *(f"at {n}" for n in ("0", "1", "2", "3", "4 to 9"))]


def simulated(questions: int = QUESTIONS, calibrations: int = CALIBRATIONS) -> str:
    """Tabulate the three scatters, for each level and number of calibration questions."""
    rows = []
    for name, scatter in SCATTERS.items():
        found = dict(counted(scatter, questions, calibrations))
        rows += [[name, *key, *count.cells()] for key, count in found.items()]
    return markdown(["scatter", "rule", "level, %", *HEAD], rows)


def counted(
    scatter: Scatter, questions: int, calibrations: int
) -> Iterator[tuple[tuple[str, str], Count]]:
    """Yield the counts of each rule and level, over questions that scatter as the calibration's
    do."""
    rng, found = np.random.default_rng(0), dict[tuple[str, str], Count]()
    for size in CALIBRATED_ON:
        for _ in range(calibrations):
            known = scatter(rng, size)
            rule = fit([known.at(i) for i in range(size)], MIXTURE)
            asked = scatter(rng, questions // calibrations)
            _count(found, f"{size} alike", asked, rule, MIXTURE)
            if size == CALIBRATED_ON[-1]:
                _count(found, "each look", asked, _before(rule), MIXTURE)
                if scatter is not normal:
                    unlike = normal(rng, size)
                    rule = fit([unlike.at(i) for i in range(size)], MIXTURE)
                    _count(found, f"{size} normal", asked, rule, MIXTURE)
    yield from found.items()


def _before(rule: Stopping) -> Stopping:
    """Return the rule as it was before its threshold was calibrated."""
    return replace(rule, risks=(), slope=None)


def _count(
    counts: dict[tuple[str, str], Count],
    name: str,
    asked: Scores,
    rule: Stopping,
    mixture: Mixture,
) -> None:
    """Add stacked questions to the counts of a rule at every level."""
    paths = path(asked, rule, mixture)
    for level in LEVELS:
        count = counts.setdefault((name, f"{100 * level:g}"), Count())
        count.add(paths, replace(rule, level=level))


def of_run(run: Run) -> str:
    """Tabulate the images of a run in random orders, for each task."""
    block, rows = run.results["vlmig"], []
    own = {name: block[name] for name in ("strength", "doubt", "alignment_floor")}
    own["learned"] = block.get("learned")
    mixture = Mixture.of(VLMIGConfig(**{**own, **block["default"]}))
    for task in run.tasks:
        found = [(cluster, scores) for scores, _, cluster in answered(run, task)]
        names = np.array([name for name, _ in found])
        scores = [question for _, question in found]
        if not scores:
            continue
        most = min(MOST, min(len(question.per_image) for question in scores))
        counts: dict[tuple[str, str], Count] = {}
        rng = np.random.default_rng(0)
        for _ in range(SPLITS):
            objects = rng.permutation(np.unique(names))
            calibrates = np.isin(names, objects[: 3 * len(objects) // 4])
            known = [scores[i] for i in np.flatnonzero(calibrates)]
            rule = fit(known, mixture, most, items=names[calibrates].tolist())
            used = [scores[i] for i in np.flatnonzero(~calibrates)]
            for asked in _stacked(used, rng):
                _count(counts, "calibrated", asked, rule, mixture)
                _count(counts, "each look", asked, _before(rule), mixture)
        rows += [
            [f"{task}, {len(np.unique(names))} objects, of {most}", *key, *count.cells()]
            for key, count in counts.items()
        ]
    return markdown(["pictures of", "rule", "level, %", *HEAD], rows)


def _stacked(questions: Sequence[Scores], rng: np.random.Generator) -> Iterator[Scores]:
    """Stack questions in random orders of their images, those with equally many candidates
    together."""
    for size in {question.text.size for question in questions}:
        alike = [question for question in questions if question.text.size == size]
        yield in_random_orders(alike, ORDERS, rng)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the simulation, or the tables of results folders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="*", help="what vlmig eval --out wrote")
    folders = parser.parse_args(argv).folders

    def show() -> None:
        tables = [of_run(read_run(folder)) for folder in folders] or [simulated()]
        print("\n\n".join(tables))

    return said(show)


if __name__ == "__main__":
    sys.exit(main())
