"""Audits by minimal pairs: both sides are measured, and compared as written out here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from test_report import Page, lines, measured, named

from vlmig import VLMIG, VLMIGError
from vlmig.evaluation.tasks.yaml_task import choose_tasks, declaration, read_declaration
from vlmig.report.by_group import pair_lines
from vlmig.report.finding import finding
from vlmig.report.run_page import write_report

TASK = """
task: fruit
columns: [one, two, kind]
rows:
  - {one: a lemon, two: a plum, kind: small}
  - {one: a melon, two: a pear, kind: small}
  - {one: a cat, two: a dog, kind: large}
sides: {one: "{{ one }}", two: "{{ two }}"}
subject: "{{ one }} {{ two }}"
picture: "{{ side }}"
prompts: ["The color of {{ side }} is", "Say the color of {{ side }}:"]
choices: [red, blue, green]
groups: {kind: "{{ kind }}"}
"""


@pytest.fixture()
def fruit(tmp_path: Path) -> Path:
    (tmp_path / "fruit.yaml").write_text(TASK)
    return tmp_path / "fruit.yaml"


def test_the_sides_are_compared_with_and_without_images(tiny: VLMIG, fruit: Path) -> None:
    out = fruit.parent / "run"
    tiny.config.mix, tiny.config.weights = "prob", "uniform"
    results = measured(tiny, fruit.parent, out, choose_tasks([str(fruit)], {}), ks=(0, 2))
    rows = {row["group"]: row for row in results["vlmig"]["pairs"]}
    assert [(name, row["n"]) for name, row in rows.items()] == [
        ("all", 3),
        ("large", 1),
        ("small", 2),
    ]
    items = lines(out, "fruit")
    assert [line["doc"]["side"] for line in items[:2]] == ["a lemon", "a plum"]
    assert {line["target"] for line in items} == {""} and {line["correct"] for line in items} == {
        None
    }
    expected = {"text": [], "images": [], "within": []}
    for one, two in zip(items[::2], items[1::2], strict=True):
        for wording in range(2):
            text = [softmax(side["text_only"][wording]) for side in (one, two)]
            expected["text"].append(np.abs(text[0] - text[1]).sum() / 2)
            # equation 2, of whole probabilities, among the candidates
            mixed = [np.exp(side["per_image"][wording]).mean(0) for side in (one, two)]
            mixed = [own / own.sum() for own in mixed]
            expected["images"].append(np.abs(mixed[0] - mixed[1]).sum() / 2)
            halves = [np.exp(side["per_image"][wording]) for side in (one, two)]
            apart = [a / a.sum() - b / b.sum() for a, b in halves]
            expected["within"].append(np.mean([np.abs(own).sum() / 2 for own in apart]))
    for name, values in expected.items():
        assert rows["all"][name] == pytest.approx(np.mean(values), abs=1e-5)
    assert rows["all"]["change"] == pytest.approx(rows["all"]["images"] - rows["all"]["text"])
    largest = rows["all"]["largest"]
    assert len(largest) == 3 and {pair["candidate"] for pair in largest} <= {"red", "blue", "green"}
    (line,) = pair_lines(results)
    assert line.startswith("fruit (3 pairs): total variation of the sides; text only")
    assert finding(results).startswith("The sides of fruit are 0.")
    page = Page(write_report(out, tiny.imagination.store))
    assert len(page.data["pairs"]) == 3 and len(page.data["items"]) == 6
    assert page.data["items"][0]["wordings"][0]["right"] is None
    limited = measured(tiny, fruit.parent, out, choose_tasks([str(fruit)], {}), ks=(0, 2), limit=2)
    assert limited["vlmig"]["pairs"][0]["n"] == 2, "a limit keeps both sides of a pair"


@pytest.mark.parametrize(
    "task", ["audit_occupations", "audit_places", "audit_households", "audit_things"]
)
def test_our_audits_are_minimal_pairs(task: str) -> None:
    items = declaration(task).made().load(Path())
    for one, two in zip(items[::2], items[1::2], strict=True):
        assert one.cluster == two.cluster and one.choices == two.choices
        assert one.picture != two.picture and one.side != two.side
        for first, second in zip(one.questions, two.questions, strict=True):
            shared = first.contexts[0].lower().replace(one.side.lower(), "")
            assert shared == second.contexts[0].lower().replace(two.side.lower(), "")
        assert not any(choice in one.picture for choice in one.choices), "no answer is drawn"
    assert len({item.cluster for item in items}) == len(items) // 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('two: "{{ two }}"}', 'two: "{{ two }}", three: "x"}', "has sides; expected two"),
        ("choices: [red, blue, green]", "answer: one", "has an answer and sides, or neither"),
        ("rows:", "files: {test: a.csv}\nrows:", "has files and rows, or neither"),
        ("columns: [one,", "columns: [colour, one,", "a row without colour"),
    ],
)
def test_other_forms_are_refused(fruit: Path, old: str, new: str, message: str) -> None:
    fruit.write_text(TASK.replace(old, new))
    with pytest.raises(VLMIGError, match=message):
        read_declaration(fruit)


def test_auto_is_refused(tiny: VLMIG, data: Path, tmp_path: Path, fruit: Path) -> None:
    assert named("memory_color")[0].paired is False
    tiny.config.auto = {"sure": 0.9, "spread": 1.0, "freedom": 2.0}
    with pytest.raises(VLMIGError, match="k=auto with the minimal pairs of fruit"):
        measured(tiny, data, tmp_path / "auto", choose_tasks([str(fruit)], {}), ks=("auto",))
