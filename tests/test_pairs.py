"""Tasks about two things: both orders, whether they are answered alike, and intervals over the
things, which pairs share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from proof import PROOF
from scipy.special import expit

from vlmig import VLMIG, VLMIGError
from vlmig.evaluation.controls import content_free, donors
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.metrics.bootstrap import Clusters, mcnemar, share_interval
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Item, Question
from vlmig.evaluation.tasks.yaml_task import choose_tasks, declaration, read_declaration
from vlmig.imagination.prompts import prompts_for, subject_of
from vlmig.report.tables import table

DATA = Path(os.environ.get("VLMIG_DATA", Path(__file__).parents[2] / "shared" / "data"))
PAIRS = ("spatial_size", "vec_mass", "vec_temperature", "relative_size", "vicomte_size")


def load(task: str, data: Path) -> list[Item]:
    return list(declaration(task).made().load(data))


def test_a_pair_is_one_item_asked_in_both_orders(data: Path) -> None:
    first, _, last = load("spatial_size", data)
    asked = [(q.contexts[0], first.choices[q.answer]) for q in first.questions]
    assert asked == [
        ("Which is larger, a barn or a needle?", "first"),
        ("Which is bigger, a barn or a needle?", "first"),
        ("Which is smaller, a barn or a needle?", "second"),
        ("Which is larger, a needle or a barn?", "second"),
        ("Which is bigger, a needle or a barn?", "second"),
        ("Which is smaller, a needle or a barn?", "first"),
    ]
    answers = [question.continuations[question.answer] for question in first.questions]
    assert answers == ["a barn", "a barn", "a needle"] * 2
    published = declaration("spatial_size", "reference").made().load(data)[0].questions[2]
    assert published == Question(("Is a barn smaller than a needle?",), ("Yes", "No"), 1)
    assert (first.picture, first.things) == ("a barn and a needle", ("a barn", "a needle"))
    assert last.picture == "a harbour and a thimble", (
        "a row whose thing stands first in the alphabet"
    )
    assert load("vec_mass", data)[1].things == ("the feather", "the oar")


@pytest.mark.parametrize("task", PAIRS)
def test_the_second_half_has_the_things_swapped_and_the_other_answer(task: str, data: Path) -> None:
    for item in load(task, data):
        half = len(item.questions) // 2
        one, two = item.things
        for own, other in zip(item.questions[:half], item.questions[half:], strict=True):
            assert own.answer == 1 - other.answer
            words = own.contexts[0].lower().replace(one, "<>").replace(two, one).replace("<>", two)
            assert words == other.contexts[0].lower()
            named = "Which" in own.contexts[0]
            assert own.continuations == other.continuations[:: -1 if named else 1]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark data at {DATA}; set VLMIG_DATA")
def test_the_public_files_are_what_the_tasks_say() -> None:
    sizes = {"spatial_size": (250, 25), "vec_mass": (327, 56), "vec_temperature": (211, 22)}
    for task, (pairs, things) in sizes.items():
        items = load(task, DATA)
        assert (len(items), len({name for i in items for name in i.objects})) == (pairs, things)
        assert np.mean([q.answer for i in items for q in i.questions]) == 0.5
    rows = [json.loads(line) for line in (DATA / "spatial/size.json").open()]
    for item in load("spatial_size", DATA):
        one, two = (thing.split(" ", 1)[1] for thing in item.things)
        (label,) = {r["label"] for r in rows if (r["obj_a"], r["obj_b"]) == (one, two)}
        assert item.label == ("first" if label else "second")
    places = load("spatial_posrel", DATA)
    found = {(i.cluster, i.label) for i in places if "drive" in i.picture or "driving" in i.picture}
    assert found == {("a person and a car", "inside"), ("a person and a lorry", "inside")}
    assert np.mean([i.label == "beside" for i in places]) == 0.5


def pair(one: str, two: str) -> Item:
    question = Question((f"Is {one} larger than {two}?",), ("Yes", "No"), 0)
    name = f"{one} / {two}"
    return Item(name, name, f"{one} and {two}", ("yes", "no"), (question,), things=(one, two))


def test_donors_share_no_thing_where_they_can_and_the_content_free_question_no_name() -> None:
    names = [f"thing{i}" for i in range(12)]
    items = [pair(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    for name, others in donors(items, seed=0).items():
        assert len({o.cluster for o in others}) == 5
        assert all(set(o.things).isdisjoint(name.split(" / ")) for o in others)
    few = donors([pair("ant", "cup"), pair("ant", "barn")], seed=0)
    assert [o.cluster for o in few["ant / cup"]] == ["ant / barn"], "there is no other"
    (question,) = content_free(pair("an ant", "an ant lion")).questions
    assert question.contexts == ("Is N/A larger than N/A?",)


def test_a_pair_is_covered_where_both_things_are(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    settings = Settings(ks=(0,), subset="covered", controls=("none",))
    evaluator = Evaluator(tiny, settings, data, tmp_path, covered=lambda name: name != "an oar")
    items = evaluator.items(declaration("spatial_size").made())
    assert [item.cluster for item in items] == ["barn / needle", "harbour / thimble"]


OWN: dict[str, Any] = {
    "task": "own",
    "files": {"test": "own.csv"},
    "columns": ["a", "b"],
    "things": {"one": "{{ a }}", "two": "{{ b }}"},
    "prompts": ["Is {{ one }} older than {{ two }}?"],
    "subject": "{{ a }} / {{ b }}",
    "picture": "{{ one }} and {{ two }}",
    "choices": ["yes", "no"],
    "answer": "'yes'",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"things": {"one": "{{ a }}"}}, "has 1 things; expected two"),
        ({"things": ["a", "b"]}, "things"),
        ({"orders": "three"}, "orders"),
        ({"choices": ["yes", "no", "maybe"]}, "line 2: two things, and 3 candidates"),
        ({"things": {"one": "{{ a }}", "two": "{{ c }}"}}, "line 2 does not fit the task: 'c'"),
    ],
)
def test_what_is_wrong_with_two_things_is_said_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "own.csv").write_text("a,b\nAda,Bo\n")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(OWN))
    (item,) = read_declaration(tmp_path / "own.yaml").made().load(tmp_path)
    assert item.things == ("ada", "bo") and len(item.questions) == 2
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(OWN | changes))
    with pytest.raises(VLMIGError, match=message) as raised:
        read_declaration(tmp_path / "own.yaml").made().load(tmp_path)
    assert "\n" not in str(raised.value)


def test_both_orders_are_alike_where_both_are_right_or_both_wrong(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    settings = Settings(ks=(0, 2), controls=("none", "shuffled"))
    results = measure_tasks(
        Evaluator(tiny, settings, data, tmp_path), choose_tasks(["spatial_size"], {})
    )
    lines = (tmp_path / "samples_spatial_size.jsonl").read_text().splitlines()
    alike = []
    for row in map(json.loads, lines):
        answers = row["answer"]
        for own, other in zip(answers[:3], answers[3:], strict=True):
            alike.append(own != other)  # of "first" and "second", one is right in each order
    conditions = results["vlmig"]["conditions"]
    (main,) = [c for c in conditions if (c["k"], c["control"], c["mix"]) == (2, "none", "evidence")]
    assert main["consistent"] == pytest.approx(np.mean(alike))
    assert main["consistent_ci95"][0] <= main["consistent"] <= main["consistent_ci95"][1]
    assert all("consistent" in c for c in conditions) and "alike" in table(results)
    assert main["n"] == 3 and results["vlmig"]["comparisons"][0]["clusters"] == 3


def test_a_mean_over_pairs_varies_as_all_pairs_that_share_a_thing_together(
    rng: np.random.Generator,
) -> None:
    """The variance by its definition: products of deviations of all entries that share a thing."""
    pairs = rng.integers(0, 9, (60, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    effect = rng.normal(0, 1, 9)
    values = effect[pairs].sum(1) + rng.normal(0, 0.3, len(pairs))
    values /= 2 * np.abs(values).max()
    deviations, total = values - values.mean(), 0.0
    for i in range(len(pairs)):
        for j in range(len(pairs)):
            if set(pairs[i]) & set(pairs[j]):
                total += deviations[i] * deviations[j]
    names = np.array([f"thing {i}" for i in range(9)])[pairs]
    found = Clusters(names).estimate(values, least=-1.0)
    assert found.stderr == pytest.approx(np.sqrt(total * 9 / 7) / len(pairs))
    assert Clusters(names[:, ::-1]).estimate(values, least=-1.0) == found, "whichever stands first"
    copies = Clusters(np.repeat(names, 4, axis=0)).estimate(np.repeat(values, 4), least=-1.0)
    assert copies.stderr == pytest.approx(found.stderr), "wordings say nothing new"


def test_pairs_that_share_nothing_are_like_single_things(rng: np.random.Generator) -> None:
    values = rng.random(80)
    names = np.arange(160).reshape(80, 2)
    apart = Clusters(names).estimate(values, least=-1.0)
    assert apart.stderr == pytest.approx(values.std() / np.sqrt(78))  # 80 / 78 of the variance
    alone = Clusters(np.arange(80)).estimate(values, least=-1.0)
    # The bootstrap's quantiles scatter by a few percent.
    assert apart.high - apart.low == pytest.approx(alone.high - alone.low, rel=0.08)
    assert Clusters(names[:, :1]).estimate(values) == Clusters(names[:, 0]).estimate(values)
    agreed = Clusters(names).estimate(np.ones(80))
    assert agreed.high == 1.0 and 0.9 < agreed.low < 1.0, "all alike is no certainty"


def test_mcnemar_lets_both_things_of_a_pair_speak() -> None:
    names = np.array([["a", "b"], ["a", "c"], ["b", "c"], ["d", "e"]])
    right, other = np.array([1.0, 1, 0, 0]), np.array([0.0, 0, 1, 0])
    # a wins twice; b and c win once and lose once; d and e are tied: one object speaks.
    assert mcnemar(right, other, names) == 1.0
    six = np.array([[f"{i}", f"{i}'"] for i in range(3)])
    assert mcnemar(np.ones(3), np.zeros(3), six) == pytest.approx(2 * 0.5**6)


@pytest.mark.scaled
@pytest.mark.parametrize("effect", [0.0, 1.0, 3.0])
def test_intervals_over_shared_things_cover_the_truth(effect: float) -> None:
    """25 things of unequal difficulty in 250 pairs, as spatial_size has; the truth is that of all
    things there could be. Counting pairs as independent covers it in 59 % at effect 1, 41 % at 3."""
    rng, runs = np.random.default_rng(5), 2000 if PROOF else 200
    pairs = np.array([(i, j) for i in range(25) for j in range(i + 1, 25) if i // 5 != j // 5])
    logits = 1.2 + effect * rng.normal(0, 1, (200_000, 2)).sum(1) / np.sqrt(2)
    truth, drawn = float(expit(logits).mean()), Clusters(np.repeat(pairs, 2, axis=0))
    hits, apart = np.zeros(2), 0
    for _ in range(runs):
        own = rng.normal(0, 1, 25)[pairs].sum(1) * effect / np.sqrt(2)
        rates = np.repeat(expit(1.2 + own), 2)
        values = (rng.random(len(rates)) < rates).astype(float)
        share = drawn.estimate(values)
        gain = drawn.estimate(values - truth, least=-1.0)
        hits += [share.low <= truth <= share.high, gain.low <= 0 <= gain.high]
        low, high = share_interval(values.reshape(-1, 2).sum(1), np.full(250, 2))
        apart += low <= truth <= high
    # 200 runs have a standard error of 1.8 points, 2,000 of 0.6. With so few things the variance is
    # itself uncertain; where they do not differ, it is at least that of pairs.
    assert (hits / runs >= (0.92 if PROOF else 0.88)).all()
    assert (apart / runs > 0.9) == (effect == 0), "pairs would do: the things are alike"


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("Is a lemon bigger than a car?", "a lemon and a car"),
        ("Is the red lego brick heavier than the hammer?", "the red lego brick and the hammer"),
        ("Are lemons usually smaller than cars?", "lemons and cars"),
        ("Q: Is an ant more expensive than a bus? A:", "an ant and a bus"),
        ("A lemon is much smaller than a car", "A lemon and a car"),
        ("Is a lemon as big as a car?", "a lemon and a car"),
        ("Which is larger, a lemon or a car?", "a lemon and a car"),
        ("What is bigger: an ant, or an elephant?", "an ant and an elephant"),
        ("Which thing is taller, a tree or a shrub?", "a tree and a shrub"),
        ("Is a lemon or a car larger?", "a lemon and a car"),
        ("What is larger than a car?", "larger than a car"),
    ],
)
def test_a_comparison_imagines_both_things(question: str, subject: str) -> None:
    assert subject_of(question) == subject


def test_an_image_of_each_thing_in_turn() -> None:
    question = "Is a lemon bigger than a car?"
    assert prompts_for("each", question, 3) == ["a lemon", "a car", "a lemon"]
    assert prompts_for("each", "What color is a lemon?", 2) == ["a lemon", "a lemon"]
