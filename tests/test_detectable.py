"""Accuracy over any k of the pictures measured, and what a comparison could have found."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax

from vlmig import VLMIG
from vlmig.cli.main import main
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.metrics.bootstrap import Clusters, detectable
from vlmig.evaluation.metrics.comparisons import Condition, compare, judge
from vlmig.evaluation.metrics.subsets import SUBSETS, subsets
from vlmig.evaluation.plan import SPREADS, plan
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Item, Question, Task


@pytest.mark.parametrize(("clusters", "comparisons"), [(12, 1), (62, 9), (456, 59)])
def test_four_times_in_five_a_test_finds_what_it_is_said_to_find(
    clusters: int, comparisons: int
) -> None:
    """Student's test of normal differences, at the level that Holm asks of the smallest p."""
    rng, spread = np.random.default_rng(0), 0.3
    least = detectable(spread / np.sqrt(clusters), clusters, comparisons)
    found = least + spread * rng.normal(size=(4000, clusters))
    power = np.mean(stats.ttest_1samp(found, 0, axis=1).pvalue < 0.05 / comparisons)
    # 4,000 trials have a standard error of 0.006; and the sum of two central quantiles stands for
    # one of the noncentral distribution, which matters for few clusters.
    assert power == pytest.approx(0.8, abs=0.04 if clusters < 20 else 0.02)


def test_where_nothing_differs_something_could_still_hide() -> None:
    assert detectable(0.0, 62) == pytest.approx(2.85 / 62, abs=0.002), "one object in 62"
    assert detectable(0.0, 1) == detectable(9.0, 40) == 1.0, "no more than all"
    assert detectable(0.02, 62, 59) > detectable(0.02, 62, 9) > detectable(0.02, 62)


def test_every_comparison_of_a_table_says_what_it_could_have_found() -> None:
    rng = np.random.default_rng(1)
    main_condition, alone = Condition(6, "prob", "clip"), Condition(0, "prob", "clip")
    first = Condition(1, "prob", "clip")
    correct = {c: rng.random(200) < p for c, p in ((main_condition, 0.7), (alone, 0.3), (first, 0))}
    clusters, single = np.repeat(np.arange(50), 4), rng.random(200)
    masks = {"all": np.ones(200, dtype=bool)}
    rows = compare("colors", correct, main_condition, clusters, masks, single)
    judge(rows)
    for row, other in zip(rows, (correct[alone], single), strict=True):
        by_object = (correct[main_condition] - other.astype(float)).reshape(50, 4).mean(1)
        stderr = by_object.std(ddof=1) / np.sqrt(50)
        assert row["delta"] == pytest.approx(by_object.mean())
        assert row["clusters"] == 50
        # The bootstrap's standard error is itself drawn: 4,000 draws, 1.1 %; and divides by n.
        assert row["detectable"] == pytest.approx(detectable(stderr, 50, 2), rel=0.06)


def test_all_subsets_or_seeded_ones() -> None:
    assert subsets(6, 3) == list(combinations(range(6), 3))
    drawn = subsets(10, 4)
    assert drawn == subsets(10, 4) and len(set(drawn)) == SUBSETS
    assert all(len(set(one)) == 4 and set(one) <= set(range(10)) for one in drawn)
    assert subsets(10, 1) == [(i,) for i in range(10)], "every picture counts once"


def things(count: int) -> list[Item]:
    choices, wordings = ("a", "b", "c"), ("the color of {} is", "{} looks")
    items = []
    for i in range(count):
        asked = [Question((w.format(f"thing {i}"),), choices, i % 3) for w in wordings]
        items.append(Item(str(i), f"thing{i}", f"thing {i}", choices, tuple(asked)))
    return items


def measured(model: VLMIG, out: Path, **settings: Any) -> dict[str, Any]:
    evaluator = Evaluator(model, Settings(**settings), out, out)
    items = things(12)
    return measure_tasks(evaluator, [Task("things", lambda _: items)])


def test_a_curve_is_the_mean_over_subsets_and_not_the_first_pictures(
    tiny: VLMIG, tmp_path: Path
) -> None:
    norm = tiny.model.language_model.transformer.ln_f
    for parameter in (norm.weight, norm.bias):
        parameter.data.mul_(0.02)  # a text model that is sure of nothing: pictures have a say
    tiny.config.mix, tiny.config.weights, tiny.config.strength = "evidence", "uniform", 100.0
    results = measured(tiny, tmp_path, ks=(0, 1, 4), controls=("none",))
    lines = [
        json.loads(line) for line in (tmp_path / "samples_things.jsonl").read_text().splitlines()
    ]
    right = []
    for line in lines:
        asked = line["doc"]["questions"]
        columns = (line["per_image"], line["text_only"], line["blank"])
        for question, *values in zip(asked, *columns, strict=True):
            images, text, blank = (log_softmax(np.array(own), -1) for own in values)
            mixed = text + 100 * (images - blank)  # whose mean is the rule evidence, uniform
            of_k = []
            for k in (1, 2, 3, 4):
                answers = [mixed[list(s)].mean(0).argmax() for s in combinations(range(4), k)]
                of_k.append(np.mean([answer == question["answer"] for answer in answers]))
            right.append(of_k)
    shares = np.array(right)
    assert 0 < shares[:, 0].mean() < 1 and len(set(shares[:, 0].tolist())) > 2, "images differ"
    curves = {row["k"]: row for row in results["vlmig"]["curves"]}
    assert [curves[k]["subsets"] for k in (1, 2, 3, 4)] == [4, 6, 4, 1]
    for k in (1, 2, 3, 4):
        assert curves[k]["acc"] == pytest.approx(shares[:, k - 1].mean())
        assert curves[k]["missing"] == pytest.approx((shares[:, 3] - shares[:, k - 1]).mean())
    names = np.repeat([f"thing{i}" for i in range(12)], 2)
    expected = Clusters(names).estimate(shares[:, 0])
    assert curves[1]["ci95"] == pytest.approx([expected.low, expected.high])
    rows = [row for row in results["vlmig"]["conditions"] if row["mix"] == "evidence"]
    conditions = {row["k"]: row["acc"] for row in rows}
    assert conditions[4] == pytest.approx(curves[4]["acc"])
    assert conditions[1] != pytest.approx(curves[1]["acc"]), "the first picture is one draw of four"
    single = next(c for c in results["vlmig"]["comparisons"] if c["b"] == "k=1")
    assert single["delta"] == pytest.approx(curves[1]["missing"])


def test_a_plan_says_before_a_run_what_it_could_find(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    asked = ["eval", "--tasks", "memory_color", "--data", str(data), "--out", str(out)]
    assert main([*asked, "--k", "0,1,6", "--control", "shuffled,blank", "--plan"]) == 0
    said = capsys.readouterr().out
    task, subset, items, objects, *points = said.splitlines()[1].split()
    assert (task, subset) == ("memory_color", "all") and not out.exists()
    count = sum(line.startswith("memory_color") for line in said.splitlines())
    # Against text alone, one picture, two controls and four baselines, in each subset.
    stderr = 1 / np.sqrt(int(objects))
    worst = 100 * detectable(stderr, int(objects), 8 * count)
    assert float(points[-1]) == pytest.approx(worst, abs=0.06)
    settings = Settings(ks=(0, 1, 6), controls=("none", "blank"))
    head, row = plan([Task("things", lambda _: things(60))], settings, tmp_path, None)
    assert row[:4] == ["things", "all", "60", "60"]
    for name, spread in SPREADS.items():
        found = 100 * detectable(spread / np.sqrt(60), 60, 7)
        assert float(row[head.index(name)]) == pytest.approx(found, abs=0.06)
