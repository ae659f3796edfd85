"""Loss per token of plain texts under each condition, and differences, paired by text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vlmig.evaluation.evaluator import Evaluator, Measured
from vlmig.evaluation.metrics.bootstrap import Clusters
from vlmig.evaluation.metrics.comparisons import LOSS, Condition
from vlmig.evaluation.metrics.outcome import Outcome
from vlmig.evaluation.run_folder import Row

GIVEN = ("own", "shuffled", "blank")
"""Single images that a text is read beside: its own, another text's, the blank one."""


def add_losses(evaluator: Evaluator, outcome: Outcome, measured: Measured) -> None:
    """Add the perplexities of plain texts, and how the losses per token differ.

    Every token counts alike, so a mean is a ratio of sums over texts; intervals draw whole
    clusters.
    """
    ks, seeds = evaluator.settings.every_k, measured.seeds
    read = [_read(measured, seed, ks, outcome.main) for seed in seeds]
    tokens, clusters = read[0][1], [item.cluster for item in measured.items]
    one_seed = Clusters(np.repeat(clusters, tokens))
    for seed, (losses, _) in zip(seeds, read, strict=True):
        for condition, sums in losses.items():
            estimate = one_seed.estimate(np.repeat(sums / tokens, tokens), least=-1.0)
            row: Row = {"task": outcome.task.name, "subset": "all", **vars(condition)}
            row |= {"seed": seed, **dict.fromkeys(("acc", "stderr", "ci95")), "n": outcome.size}
            row |= {"perplexity": float(np.exp(estimate.mean)), "tokens": int(tokens.sum())}
            row |= {LOSS: estimate.mean, "loss_ci95": None, "clusters": one_seed.size}
            if one_seed.size > 1:
                row["loss_ci95"] = [max(0.0, estimate.low), estimate.high]
            outcome.conditions.append(row)
    pooled = {}
    for condition in read[0][0]:
        pooled[condition] = np.concatenate([losses[condition] for losses, _ in read])
    main = Condition(evaluator.settings.main_k, *outcome.main)
    counts, every = np.tile(tokens, len(seeds)), np.tile(clusters, len(seeds))
    outcome.losses = _compared(outcome, pooled, main, counts, every)


def _read(
    measured: Measured, seed: int, ks: Sequence[int], rule: tuple[str, str]
) -> tuple[dict[Condition, np.ndarray], np.ndarray]:
    """Return the summed loss of each text under every condition, and its tokens, (N,) each."""
    records = list(measured.records(seed))
    losses = {}
    for k in ks:
        losses[Condition(k, *rule)] = np.array([r["loss"][str(k)][0] for r in records])
    for name in GIVEN:
        if all(name in record.get("given", {}) for record in records):
            losses[Condition(1, *rule, name)] = np.array([r["given"][name][0] for r in records])
    return losses, np.array([record["tokens"][0] for record in records])


def _compared(
    outcome: Outcome,
    losses: Mapping[Condition, np.ndarray],
    main: Condition,
    tokens: np.ndarray,
    clusters: np.ndarray,
) -> list[Row]:
    """Compare imagined images, and a text's own one, with text alone and the controls."""
    rule = outcome.main
    named = {f"k={main.k}": main, "own": Condition(1, *rule, "own")}
    against = {"text-only": Condition(0, *rule), **named}
    against |= {name: Condition(1, *rule, name) for name in ("shuffled", "blank")}
    drawn = Clusters(np.repeat(clusters, tokens))
    rows: list[Row] = []
    for a, condition in named.items():
        for b, other in against.items():
            if condition not in losses or other not in losses or condition == other:
                continue
            if (b, a) in [(row["a"], row["b"]) for row in rows]:
                continue  # the same pair the other way round
            less = np.repeat((losses[condition] - losses[other]) / tokens, tokens)
            gain = drawn.estimate(less, least=-1.0)
            row: Row = {"task": outcome.task.name, "subset": "all", "metric": LOSS}
            row |= {"a": a, "b": b, "delta": gain.mean, "ci95": [gain.low, gain.high]}
            row |= {"p": gain.p, "stderr": gain.stderr, "clusters": drawn.size}
            rows.append(row)
    return rows
