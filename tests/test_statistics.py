"""Intervals, tests and calibration, each against another way to know the answer."""

from __future__ import annotations

import numpy as np
import pytest
from proof import PROOF
from scipy import stats

from eval.coverage import coverage
from vlmig.evaluation.metrics.bootstrap import (
    Clusters,
    Estimate,
    balanced_accuracy,
    holm,
    majority,
    mcnemar,
    reliability,
    share_interval,
    verdict,
)
from vlmig.evaluation.metrics.outcome import candidate_lists
from vlmig.evaluation.tasks.items import Item


def estimate_of(values: object, clusters: object, least: float = 0.0) -> Estimate:
    return Clusters(clusters).estimate(values, least)  # type: ignore[arg-type]


def test_bootstrap_draws_clusters_not_items(rng: np.random.Generator) -> None:
    objects = rng.integers(0, 2, 50).astype(float)
    values, clusters = np.repeat(objects, 20), np.repeat([str(i) for i in range(50)], 20)
    # Twenty copies of fifty objects know no more than fifty objects.
    assert estimate_of(values, clusters).stderr == pytest.approx(
        objects.std() / np.sqrt(50), rel=0.1
    )


def test_values_may_come_in_any_order_and_blocks(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, clusters = rng.random(60), np.repeat([f"{i:02}" for i in range(20)], 3)
    order = rng.permutation(60)
    first = estimate_of(values, clusters)
    assert estimate_of(values[order], clusters[order]).low == pytest.approx(first.low, abs=1e-12)
    monkeypatch.setattr("vlmig.evaluation.metrics.bootstrap.BLOCK", 20 * 1000)
    assert estimate_of(values, clusters) == first, "drawn in four blocks"


@pytest.mark.scaled
@pytest.mark.parametrize(
    ("objects", "wordings", "a", "b"),
    [(40, 5, 2, 2), (62, 9, 1, 1), (30, 9, 3, 1), (100, 5, 0.5, 0.5)],
)
def test_intervals_cover_the_truth_as_often_as_they_say(
    objects: int, wordings: int, a: float, b: float
) -> None:
    """Items of an object share its difficulty, beta(a, b); the truth is the mean over all objects
    there could be."""
    generator, runs = np.random.default_rng(3), 1000 if PROOF else 150
    clusters, hits = np.repeat(np.arange(objects), wordings), 0
    for _ in range(runs):
        rates = generator.beta(a, b, objects)
        values = (generator.random((objects, wordings)) < rates[:, None]).astype(float)
        estimate = estimate_of(values.ravel(), clusters)
        hits += estimate.low <= a / (a + b) <= estimate.high
    # 150 runs have a standard error of 1.8 points; the proof's 1,000 of 0.7, and must lie within
    # 93 to 97 %.
    low, high = (0.93, 0.97) if PROOF else (0.89, 1.0)
    assert low <= hits / runs <= high


@pytest.mark.scaled
@pytest.mark.parametrize(
    ("accuracy", "objects", "wordings", "alike"),
    [(0.05, 62, 1, 1.0), (0.02, 100, 9, 0.7), (0.98, 40, 5, 0.5), (0.1, 20, 1, 1.0)],
)
def test_intervals_hold_near_zero_and_one(
    accuracy: float, objects: int, wordings: int, alike: float
) -> None:
    """Cells of docs/evaluation.md; a bootstrap held in 85 to 89 % at 0.05, n = 62."""
    runs = 4000 if PROOF else 500
    share = coverage(accuracy, objects, wordings, alike, runs)
    # 500 runs have a standard error of 1.0 points, 4,000 of 0.35.
    low, high = (0.925, 0.98) if PROOF else (0.91, 0.995)
    assert low <= share <= high


def test_one_entry_per_cluster_gives_wilsons_interval(rng: np.random.Generator) -> None:
    values = (rng.random(400) < 0.05).astype(float)
    known = stats.binomtest(int(values.sum()), 400).proportion_ci(method="wilson")
    # The spread of 0/1 entries over clusters has n - 1 below it.
    assert share_interval(values, np.ones(400)) == pytest.approx(tuple(known), abs=2e-5)
    copies = share_interval(9 * values, np.full(400, 9))
    assert copies == pytest.approx(share_interval(values, np.ones(400))), "copies know no more"


def test_entries_that_agree_less_within_objects_know_more(rng: np.random.Generator) -> None:
    """Wordings that are independent of their object count like as many objects."""
    sums, counts = rng.binomial(9, 0.5, 400).astype(float), np.full(400, 9)
    low, high = share_interval(sums, counts)
    known = stats.binomtest(int(sums.sum()), 3600).proportion_ci(method="wilson")
    # The measured spread scatters by 7 %, its root by 3.5 %, and three clusters stand beside it.
    assert high - low == pytest.approx(known.high - known.low, rel=0.15)
    counts[0] = 9000  # one object that outweighs all others leaves next to one
    sums[0] = 4500
    wide = share_interval(sums, counts)
    assert wide[1] - wide[0] > high - low


def test_an_interval_without_spread_is_not_a_point() -> None:
    """All of n clusters right: Wilson's interval ends at n / (n + z^2). For a difference, the share
    of clusters that deviates is at most the rate p at which none of n does in 2.5 % of samples."""
    estimate = estimate_of(np.ones(30), np.arange(30))
    assert (estimate.low, estimate.high) == pytest.approx((30 / (30 + 1.96**2), 1.0), abs=1e-5)
    nothing = estimate_of(np.zeros(30), np.arange(30), least=-1.0)
    assert nothing.low == -nothing.high == pytest.approx(0.025 ** (1 / 30) - 1)
    assert nothing.p == 1.0
    one = estimate_of([1.0, 0.0], ["a", "a"])
    assert (one.low, one.high) == (0.0, 1.0), "one cluster knows nothing"


def test_p_is_under_five_percent_just_where_the_interval_leaves_zero_out(
    rng: np.random.Generator,
) -> None:
    seen = set()
    for shift in np.linspace(-0.5, 0.5, 41):
        values = rng.normal(shift, 1.0, 60).clip(-1, 1)
        estimate = estimate_of(values, np.arange(60), least=-1.0)
        # The two are read off the same draws, one by interpolation: at the border they may part by
        # one draw.
        if 0.045 < estimate.p < 0.055:
            continue
        assert (estimate.p < 0.05) == (estimate.low > 0 or estimate.high < 0)
        seen.add(bool(estimate.p < 0.05))
    assert seen == {True, False}


def test_p_goes_on_where_the_draws_end(rng: np.random.Generator) -> None:
    """4,000 draws cannot tell p under 1/4,000, which a table of forty comparisons needs."""
    values = np.where(rng.random(300) < 0.8, 1.0, -1.0)
    estimate = estimate_of(values, np.arange(300), least=-1.0)
    assert estimate.p < 1e-12
    assert np.log10(estimate.p) == pytest.approx(
        np.log10(stats.ttest_1samp(values, 0).pvalue), rel=0.1
    )


@pytest.mark.parametrize("n", [5, 40, 400])
def test_mcnemar_is_the_exact_binomial_test(n: int, rng: np.random.Generator) -> None:
    a, b = (rng.random(n) < 0.7).astype(float), (rng.random(n) < 0.5).astype(float)
    wins, losses = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    assert mcnemar(a, b, np.arange(n)) == pytest.approx(
        stats.binomtest(wins, wins + losses, 0.5).pvalue
    )
    assert mcnemar(a, b, np.arange(n)) == pytest.approx(mcnemar(b, a, np.arange(n)))
    assert mcnemar(a, a, np.arange(n)) == 1.0
    # Nine wordings of every item say nothing new.
    assert mcnemar(np.repeat(a, 9), np.repeat(b, 9), np.repeat(np.arange(n), 9)) == mcnemar(
        a, b, np.arange(n)
    )


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04, times 4 3 2 1: .04 .06 .06 .04, made to rise: .04 .06 .06 .06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_words() -> None:
    assert [verdict(0.1, 0.01), verdict(-0.1, 0.01), verdict(0.1, 0.2)] == [
        "better",
        "worse",
        "tied",
    ]


def test_baselines() -> None:
    labels = ["round"] * 9 + ["star"]
    assert majority(labels) == 0.9
    # Two kinds of question: always "yes" to the first, always "2" to the second.
    answers, kinds = ["yes", "yes", "no", "2", "2", "4", "2"], np.array([0, 0, 0, 1, 1, 1, 1])
    assert majority(answers, kinds) == 5 / 7 > majority(answers) == 3 / 7
    assert balanced_accuracy(np.array([1.0] * 9 + [0.0]), labels) == 0.5


@pytest.mark.parametrize("gains", [[1.0], [1.0, 1.0, 1.0], [1.0, 0.9, 0.8], [0.0, 0.0], [1.0] * 12])
def test_few_clusters_prove_little_however_they_agree(gains: list[float]) -> None:
    """As the exact McNemar test, which counts signs; one item proves nothing."""
    differences, names = np.array(gains), [str(i) for i in range(len(gains))]
    (found,) = Clusters(names).estimates([differences], least=-1.0)
    exact = mcnemar(differences > 0, np.zeros(len(gains)), names)
    assert found.p == pytest.approx(exact)
    assert (exact > 0.05) == (len(gains) < 6)


def test_free_text_has_no_most_frequent_answer() -> None:
    shared = [
        Item(str(i), "thing", "a thing", ("yes", "no")[:: 1 - 2 * (i % 2)], ()) for i in range(4)
    ]
    assert candidate_lists(shared) is not None and set(candidate_lists(shared)) == {0}
    own = [Item(str(i), "goal", "a goal", (f"do {i}", f"leave {i}"), ()) for i in range(4)]
    assert candidate_lists(own) is None


def test_calibration_error_by_hand() -> None:
    confidence, correct = np.array([0.15, 0.15, 0.95, 1.0]), np.array([0.0, 1.0, 1.0, 1.0])
    error, bins = reliability(confidence, correct)
    assert error == pytest.approx((2 * abs(0.15 - 0.5) + 2 * abs(0.975 - 1.0)) / 4)
    assert [row["n"] for row in bins] == [2, 2]


def test_a_calibrated_answerer_has_no_calibration_error(rng: np.random.Generator) -> None:
    confidence = rng.random(20000)
    error, _ = reliability(confidence, (rng.random(20000) < confidence).astype(float))
    assert error < 0.02


def test_one_table_of_clusters_serves_many_values(rng: np.random.Generator) -> None:
    clusters = np.repeat(np.arange(30), 4)
    shared = Clusters(clusters)
    for values in rng.random((3, 120)):
        assert shared.estimate(values) == estimate_of(values, clusters)
