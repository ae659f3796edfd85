"""Accuracy by groups of items: the table, the worst group, and what chance would do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_report import Page, lines, measured

from vlmig import VLMIG, VLMIGError
from vlmig.evaluation.metrics.by_group import chance_of
from vlmig.evaluation.run_folder import read_run
from vlmig.evaluation.tasks.yaml_task import choose_tasks
from vlmig.pocket.concepts import load_concepts
from vlmig.pocket.tasks import TASKS, size_group
from vlmig.report.by_group import spread_lines
from vlmig.report.run_page import write_report

TASK = """
task: looks
files: {test: looks.csv}
columns: [thing, color, kind]
subject: "{{ thing }}"
picture: "{{ thing | a }}"
prompts: ["The color of {{ thing | a }} is", "What color is {{ thing | a }}? It is"]
choices: [red, blue]
answer: color
"""


@pytest.fixture()
def looks(tmp_path: Path) -> Path:
    rows = ["thing,color,kind"]
    for i in range(12):
        rows.append(f"thing{i},{'red' if i % 3 else 'blue'},{'animal' if i < 5 else 'food'}")
    (tmp_path / "looks.csv").write_text("\n".join([*rows, "thing12,red,", ""]))
    (tmp_path / "looks.yaml").write_text(TASK)
    return tmp_path


def test_groups_are_told_apart_and_the_worst_is_named(tiny: VLMIG, looks: Path) -> None:
    out, file = looks / "run", str(looks / "looks.yaml")
    measured(tiny, looks, out, choose_tasks([file], {}), ks=(0, 1))
    before = len((out / "journal").glob("*.jsonl").__next__().read_text().splitlines())
    tasks = choose_tasks([file], {}, groups=["kind"])
    results = measured(tiny, looks, out, tasks, ks=(0, 1))
    entries = [f.read_text().splitlines() for f in (out / "journal").glob("*.jsonl")]
    assert sum(map(len, entries)) == before == 13, (
        "groups decide no number, nothing is scored again"
    )
    rows = {row["group"]: row for row in results["vlmig"]["groups"]["rows"]}
    assert set(rows) == {"animal", "food"}, "an empty cell is no group"
    assert [rows[name]["n"] for name in ("animal", "food")] == [5, 7]
    for name, row in rows.items():
        shown = [
            line
            for line in lines(out, "looks")
            if dict(line["doc"].get("groups", ())).get("kind") == name
        ]
        right = [line["correct"] for line in shown]
        assert row["acc"] == pytest.approx(np.mean(right))
        alone = [
            [
                np.argmax(text) == q["answer"]
                for text, q in zip(line["text_only"], line["doc"]["questions"], strict=True)
            ]
            for line in shown
        ]
        assert row["text_only"] == pytest.approx(np.mean(alone))
        assert row["gain"] == pytest.approx(row["acc"] - row["text_only"])
        assert row["acc_ci95"][0] <= row["acc"] <= row["acc_ci95"][1]
    spread = next(s for s in results["vlmig"]["groups"]["spreads"] if s["by"] == "kind")
    low, high = sorted(rows.values(), key=lambda row: row["acc"])
    assert spread["spread"] == pytest.approx(high["acc"] - low["acc"])
    (line, *_) = [text for text in spread_lines(results) if "by kind" in text]
    assert f"worst {spread['worst']}" in line and "p = " in line
    page = Page(write_report(out, tiny.imagination.store))
    assert [row["group"] for row in page.data["groups"]["rows"] if row["by"] == "kind"] == sorted(
        rows
    )
    assert read_run(out).results["vlmig"]["groups"] == json.loads(
        json.dumps(results["vlmig"]["groups"])
    )


def test_a_column_that_is_none_is_refused(looks: Path) -> None:
    with pytest.raises(VLMIGError, match="no column 'sort'; expected one of thing, color, kind"):
        choose_tasks([str(looks / "looks.yaml")], {}, groups=["sort"])


def test_chance_is_the_share_of_deals_that_lie_as_far_apart() -> None:
    objects = np.repeat(np.arange(40), 3)
    groups = np.where(objects < 20, "a", "b")
    rng = np.random.default_rng(0)
    same = (rng.random(40) < 0.5).astype(float)[objects]
    gap = abs(same[groups == "a"].mean() - same[groups == "b"].mean())
    dealt = []
    for _ in range(4000):
        order = rng.permutation(same[::3])
        dealt.append(abs(order[:20].mean() - order[20:].mean()) >= gap - 1e-12)
    assert chance_of(gap, same, objects, groups) == pytest.approx(np.mean(dealt), abs=0.04)
    far = (objects < 20).astype(float)
    assert chance_of(1.0, far, objects, groups) < 0.001


def test_concepts_are_grouped_by_their_size() -> None:
    items = TASKS["pocket_color"].load(Path())
    found = {dict(item.groups)["size"] for item in items}
    assert found == {"", "hand", "person", "larger"}
    sizes = {c.name: size_group(c) for c in load_concepts()}
    assert sizes["strawberry"] == "hand"
