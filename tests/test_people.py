"""Tasks whose items have a distribution of what people say: shares, groups, and how far a model
agrees, each computed a second way."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import open_gates
from scipy import stats
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from vlmig import VLMIG, VLMIGError
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.metrics.agreement import divergence, kendall, spearman
from vlmig.evaluation.metrics.rescoring import Rescorer
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Item, Question
from vlmig.evaluation.tasks.people import groups, shares
from vlmig.evaluation.tasks.yaml_task import choose_tasks, declaration, read_declaration
from vlmig.report.agreement import agreement_table
from vlmig.report.run_page import write_report

DATA = Path(os.environ.get("VLMIG_DATA", Path(__file__).parents[2] / "shared" / "data"))
CONTROLLED = ("none", "blank", "shuffled", "caption")
COLORS = ("black", "blue", "brown", "gray", "green", "orange", "pink", "purple", "red", "white")


def drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    """Distributions as of few people: with ties, and with zeros."""
    counts = rng.integers(0, 4, (count, len(COLORS)))
    counts[:, 0] += 1
    return counts / counts.sum(1, keepdims=True)


def test_measures_are_scipys(rng: np.random.Generator) -> None:
    p, q = drawn(rng, 200), drawn(rng, 200)
    # scipy's distance is the root; the others are correlations with ties. 1e-12: sums in another order.
    expected = [jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)]
    assert divergence(p, q) == pytest.approx(expected, abs=1e-12)
    for measure, known in ((kendall, stats.kendalltau), (spearman, stats.spearmanr)):
        found = [known(a, b).statistic for a, b in zip(p, q, strict=True)]
        assert measure(p, q) == pytest.approx(found, abs=1e-12)
        assert measure(np.full(4, 0.25), np.arange(4)) == 0, "no order says nothing of another"
    apart = divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert apart == pytest.approx(np.log(2)) and divergence(p, p) == pytest.approx(0)


def test_every_person_counts_alike_but_those_who_contradict_all_others() -> None:
    said = [{"red": 4, "brown": 1}, {"red": 1, "person": 3}, {"brown": 3, "red": 3}]
    red = np.mean([0.8, 1.0, 0.5])
    assert shares(said, ("red", "brown"), "x") == pytest.approx((red, 1 - red), abs=1e-6)
    assert shares({"red": 3, "brown": 1}, ("red", "brown"), "x") == (0.75, 0.25)
    against = [*said[:2], {"brown": 5}, {"brown": 4, "red": 1}, {"red": 5}]
    # Of two candidates tau is 1, 0 or -1: whoever prefers the other one is left out.
    assert shares(against, ("red", "brown"), "x") == pytest.approx((2.8 / 3, 0.2 / 3), abs=1e-6)


def kept_by_scipy(rows: list[np.ndarray]) -> np.ndarray:
    """CoDa's filter, with scipy's tau: drop the person who contradicts the mean most, and again."""
    while True:
        mean = np.mean(rows, 0).round(6)
        taus = [stats.kendalltau(row, mean).statistic for row in rows]
        if np.nanmin(taus) >= 0:
            return mean
        rows.pop(int(np.nanargmin(taus)))


def test_people_are_left_out_as_published(rng: np.random.Generator) -> None:
    dropped = 0
    for _ in range(30):
        people = rng.integers(0, 3, (5, 4)) + np.eye(4, dtype=int)[rng.integers(0, 4, 5)]
        said = [dict(zip("abcd", row.tolist(), strict=True)) for row in people]
        rows = list(people / people.sum(1, keepdims=True))
        expected = kept_by_scipy(rows)
        dropped += 5 - len(rows)
        assert shares(said, tuple("abcd"), "x") == pytest.approx(expected.tolist(), abs=1e-9)
    assert dropped, "nobody was left out: the test says nothing"


def item_of(row: np.ndarray) -> Item:
    return Item("x", "x", "x", COLORS, (Question(("x",), COLORS, 0),), distribution=tuple(row))


def test_groups_are_a_fixed_point_of_k_means(rng: np.random.Generator) -> None:
    """Each item is nearest to the mean of its own group, by scipy's distance."""
    sharp = rng.choice([0.2, 1.0, 20.0], 300)
    rows = np.stack([rng.dirichlet(np.full(len(COLORS), 1 / s)) for s in sharp])
    found = np.array([item.group for item in groups([item_of(row) for row in rows])])
    falling = -np.sort(-rows, 1)
    centers = {g: falling[found == g].mean(0) for g in ("single", "multi", "any")}
    assert centers["single"][0] > centers["multi"][0] > centers["any"][0]
    for row, own in zip(falling, found, strict=True):
        assert own == min(centers, key=lambda g: jensenshannon(row, centers[g]))
    assert [i.group for i in groups([item_of(rows[0])])] == ["single"], "one item is a group"


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark data at {DATA}; set VLMIG_DATA")
def test_codas_own_objects() -> None:
    """198, 208 and 115 objects, whichever objects k-means begins with; 275 have no majority."""
    coda = declaration("coda")
    items = coda.model_copy(update={"prompts": coda.prompts[:1]}).made().load(DATA)
    assert Counter(item.group for item in items) == {"single": 198, "multi": 208, "any": 115}
    assert len(items) == 521 and sum(not item.decided for item in items) == 275
    annotations = (DATA / "coda/annotations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in annotations]
    names = {
        json.loads(line)["class_id"]: json.loads(line)
        for line in (DATA / "coda/objects.jsonl").open()
    }
    for item in items[::50]:
        (own,) = [k for k, v in names.items() if item.cluster == (v["object_s"] or v["object_pl"])]
        people = [
            [r[c] for c in item.choices] for r in rows if r["class_id"] == own and r["included"]
        ]
        expected = kept_by_scipy([np.array(p) / sum(p) for p in people])
        assert item.distribution == pytest.approx(expected.tolist(), abs=1e-6)
        assert item.label == item.choices[int(np.argmax(expected))]


def test_coda_reads_people_and_names_its_objects(data: Path) -> None:
    brick, kite, tar, gloves = declaration("coda").made().load(data)
    assert [i.picture for i in (brick, kite, tar, gloves)] == ["a brick", "a kite", "tar", "gloves"]
    assert brick.questions[0].contexts == ("Most bricks are",)
    assert [i.questions[-1].contexts[0] for i in (brick, tar, gloves)] == [
        "This brick is",
        "This tar is",
        "These gloves are",
    ]
    told = dict(zip(brick.choices, brick.distribution, strict=True))
    assert (told["red"], told["brown"]) == pytest.approx((0.9, 0.1)) and brick.label == "red"
    assert [i.decided for i in (brick, kite, tar, gloves)] == [True, False, True, False]
    assert tar.group == "single" and kite.group == "any"


OWN: dict[str, Any] = {
    "task": "own",
    "files": {"test": "own.jsonl"},
    "columns": ["thing"],
    "prompts": ["A {{ thing }} is"],
    "subject": "{{ thing }}",
    "picture": "{{ thing }}",
    "choices": ["red", "blue"],
    "distribution": "colors",
    "answer": "mode",
}


def own(tmp_path: Path, row: str, **changes: Any) -> list[Item]:
    (tmp_path / "own.jsonl").write_text(row + "\n")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(OWN | changes))
    return list(read_declaration(tmp_path / "own.yaml").made().load(tmp_path))


def test_a_task_of_yours_may_have_counts(tmp_path: Path) -> None:
    (item,) = own(tmp_path, '{"thing": "cup", "colors": {"blue": 6, "red": 2, "lilac": 9}}')
    assert item.distribution == (0.25, 0.75) and item.label == "blue" and item.decided


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ('{"thing": "cup", "colors": {"lilac": 1}}', {}, "line 1 does not say how often people"),
        ('{"thing": "cup", "colors": []}', {}, "line 1 does not say how often people"),
        ('{"thing": "cup", "colors": {"red": -1, "blue": 2}}', {}, "numbers from 0 on"),
        ('{"thing": "cup", "colors": {"red": "some"}}', {}, "line 1 does not say how often people"),
        ('{"thing": "cup", "colors": {"red": NaN}}', {}, "line 1 does not say how often people"),
        ('{"thing": "cup", "colors": [3, 4]}', {}, "line 1 does not say how often people"),
        ('{"thing": "cup", "colors": "red"}', {}, "line 1 does not say how often people"),
        ('{"thing": "cup"}', {}, "line 1 does not fit the task: 'colors' is undefined"),
        ("{}", {"choices": "labels"}, "has a distribution, but no choices"),
        ("{}", {"scoring": "first_token"}, "has a distribution; expected kind choice"),
        ("{}", {"people": "own.jsonl"}, "has people without by"),
        ("{}", {"by": "thing"}, "or by without people"),
        ("{}", {"by": "cup", "people": "x.jsonl"}, "has by cup; expected one of its columns"),
    ],
)
def test_what_is_wrong_with_what_people_said_is_said_in_one_line(
    tmp_path: Path, row: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(VLMIGError, match=message) as raised:
        own(tmp_path, row, **changes)
    assert "\n" not in str(raised.value)


Run = tuple[Path, VLMIG, dict[str, Any], list[Any]]


@pytest.fixture(scope="module")
def run(parts: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Coda on four objects, of which one is not covered: folder, model, results, samples."""
    torch.manual_seed(1)
    out, names = tmp_path_factory.mktemp("coda"), ("vision_encoder", "generator")
    vision, generator = (str(parts / name) for name in names)
    size = {"fusion_heads": 4, "imaginer_size": 32, "imaginer_steps": 2, "alignment_floor": -1.0}
    own: dict[str, Any] = {"vision": vision, "generator": generator, "store": out / "store"}
    tiny = VLMIG.from_base(str(parts / "language_model"), **own, **size)
    open_gates(tiny)
    asked: dict[str, Any] = {"ks": (0, 1, 2), "mixes": ("evidence", "prob"), "controls": CONTROLLED}
    evaluator = Evaluator(tiny, Settings(**asked), data, out, covered=lambda n: n != "tar")
    results = measure_tasks(evaluator, choose_tasks(["coda"], {}))
    lines = (out / "samples_coda.jsonl").read_text().splitlines()
    return out, tiny, results, [json.loads(line) for line in lines]


def apart(row: dict[str, Any], predicted: Any) -> float:
    """Average an item's divergence over its wordings, by scipy."""
    told = row["doc"]["distribution"]
    return float(np.mean([jensenshannon(own, told) ** 2 for own in predicted]))


def test_divergences_are_those_of_the_samples(run: Run) -> None:
    _, _, results, rows = run
    block = results["vlmig"]["distributions"]
    parts = {("all", "all"): rows, ("covered", "all"): [r for r in rows if r["covered"]]}
    for group in ("single", "any"):
        parts["all", group] = [r for r in rows if r["doc"]["group"] == group]
    main = results["configs"]["coda"]
    for (subset, group), own in parts.items():
        expected = {}
        for k in (0, 2):
            name = "text_only" if k == 0 else "loglikelihood"
            found = [apart(r, softmax(r[name], -1)) for r in own]
            expected[k, main["mix"], "none"] = np.mean(found)
        caption = [apart(r, softmax(r["caption"], -1)) for r in own]
        expected[0, main["mix"], "caption"] = np.mean(caption)
        part = [c for c in block["conditions"] if (c["subset"], c["group"]) == (subset, group)]
        for row in part:
            place = (row["k"], row["mix"], row["control"])
            if place in expected:
                assert row["n"] == len(own)
                # samples keep six digits of log-probabilities
                assert row["jsd"] == pytest.approx(expected.pop(place), abs=1e-5)
                assert row["jsd_ci95"][0] <= row["jsd"] <= row["jsd_ci95"][1]
        assert not expected
        (base,) = [b for b in block["baselines"] if (b["subset"], b["group"]) == (subset, group)]
        uniform = [apart(r, [np.full(11, 1 / 11)]) for r in own]
        assert base["uniform"] == pytest.approx(np.mean(uniform))
    ranks = [
        stats.kendalltau(own, r["doc"]["distribution"]).statistic
        for r in rows
        for own in r["mixture"]
    ]
    (row,) = [c for c in block["conditions"] if whole(c, main) and c["k"] == 2]
    assert row["kendall"] == pytest.approx(np.mean(ranks))


def test_images_count_by_the_doubt_they_remove_in_a_distribution(run: Run) -> None:
    """However likely the LM finds it beside an image that any candidate comes; elsewhere that is
    part of equation 2."""
    _, model, results, rows = run
    main = results["configs"]["coda"]
    assert (main["mix"], main["weights"], model.config.mix) == ("prob", "entropy", "evidence")
    counted = []
    for row in rows:
        images, text = softmax(row["per_image"], -1), softmax(row["text_only"], -1)[:, None]
        removed = 1 - stats.entropy(images, axis=-1) / stats.entropy(text, axis=-1)
        fits = np.array(row["alignment"]) >= model.config.alignment_floor
        share = (np.maximum(removed, 0) * fits)[..., None]
        mixed = (share * images + (1 - share) * text).mean(1)
        assert np.array(row["mixture"]) == pytest.approx(mixed, abs=1e-5)
        counted.append(share.max())
    assert max(counted) > 0
    text, images = [0.2, 0.2], [[0.4, 0.1], [0.01, 0.04]]
    record: Any = {"pictures": [["a", "b"]], "alignment": [[0.5, 0.5]], "clip": None}
    record |= {"text_only": [np.log(text)], "blank": [np.log(text)], "per_image": [np.log(images)]}
    told = Item("x", "x", "x", COLORS[:2], (Question(("x",), COLORS[:2], 0),))
    for people, expected in (
        ((0.5, 0.5), [0.2, 0.2]),
        ((), [0.4 * 0.41 / 0.55, 0.4 * 0.14 / 0.55]),
    ):
        item, task = replace(told, distribution=people), declaration("coda").made()
        rescorer = Rescorer(task, [item], [record], model.config)
        (found,) = rescorer.rescore(2, "prob", "uniform")
        assert np.exp(found) == pytest.approx(expected)
        assert np.exp(rescorer.rescore(0, "prob", "uniform")[0]) == pytest.approx(text)


def whole(row: dict[str, Any], main: dict[str, Any]) -> bool:
    """A condition of the main rule, without a control, over all items."""
    named = {"subset": "all", "group": "all", "mix": main["mix"], "weights": main["weights"]}
    return (named | {"control": "none"}).items() <= row.items()


def test_votes_and_shuffled_images_are_those_of_the_samples(run: Run) -> None:
    _, _, results, rows = run
    block, main = results["vlmig"]["distributions"], results["configs"]["coda"]
    everything = [c for c in block["conditions"] if (c["subset"], c["group"]) == ("all", "all")]
    for k in (1, 2):
        found = []
        for row in rows:
            voted = [np.bincount(np.argmax(p[:k], -1), minlength=11) / k for p in row["per_image"]]
            found.append(apart(row, voted))
        (votes,) = [c for c in everything if (c["k"], c["mix"]) == (k, "vote")]
        # A thousandth of a vote is the images' mean probability, which breaks ties.
        assert votes["jsd"] == pytest.approx(np.mean(found), abs=5e-3)
    means = {}
    for control in ("none", "shuffled"):
        means[control] = [
            c["jsd"]
            for c in everything
            if (c["k"], c["control"]) == (2, control)
            and (c["mix"], c["weights"]) == (main["mix"], main["weights"])
        ]
    assert len(means["shuffled"]) == 1 and means["shuffled"] != means["none"]
    compared = [c for c in block["comparisons"] if (c["subset"], c["group"]) == ("all", "all")]
    compared = [c for c in compared if (c["mix"], c["weights"]) == (main["mix"], main["weights"])]
    assert {c["b"] for c in compared} == {
        "text-only",
        "k=1",
        "shuffled",
        "blank",
        "caption",
        "vote",
    }
    (gain,) = [c for c in compared if c["b"] == "shuffled"]
    assert gain["delta"] == pytest.approx(means["none"][0] - means["shuffled"][0])
    singles = [c for c in block["curves"] if (c["subset"], c["group"], c["k"]) == ("all", "all", 1)]
    (one,) = [c for c in compared if c["b"] == "k=1"]
    assert one["delta"] == pytest.approx(means["none"][0] - singles[0]["jsd"])
    assert {c["metric"] for c in compared} == {"jsd"}


def test_every_rule_is_compared_with_text_and_with_one_image(run: Run) -> None:
    _, _, results, _ = run
    block = results["vlmig"]["distributions"]
    rows = [c for c in block["comparisons"] if (c["subset"], c["group"]) == ("all", "all")]
    found = {(c["mix"], c["b"]): c["delta"] for c in rows if c["mix"] == "evidence"}
    assert set(found) == {("evidence", "text-only"), ("evidence", "k=1"), ("evidence", "shuffled")}
    means = {}
    for row in block["conditions"]:
        if (row["subset"], row["group"], row["mix"]) == ("all", "all", "evidence"):
            means[row["k"], row["control"]] = row["jsd"]
    for name, place in (("text-only", (0, "none")), ("shuffled", (2, "shuffled"))):
        assert found["evidence", name] == pytest.approx(means[2, "none"] - means[place])


def test_accuracy_counts_where_most_people_agree(run: Run) -> None:
    _, _, results, rows = run
    decided = [r for r in rows if max(r["doc"]["distribution"]) > 0.5]
    assert len(decided) == 2 and all(
        r["correct"] is None and "acc" not in r for r in rows if r not in decided
    )
    expected = np.mean([r["acc"] for r in decided])
    assert results["results"]["coda"]["acc,none"] == pytest.approx(expected)
    main = results["configs"]["coda"]
    conditions = results["vlmig"]["distributions"]["conditions"]
    (row,) = [c for c in conditions if whole(c, main) and c["k"] == 2]
    assert (row["acc"], row["n_majority"], row["n"]) == (pytest.approx(expected), 2, 4)
    assert results["vlmig"]["baselines"]["coda"]["chance"] == pytest.approx(1 / 11)


def test_less_divergence_is_better() -> None:
    from vlmig.evaluation.metrics.comparisons import judge

    row = {"p": 1e-4, "stderr": 0.01, "clusters": 50, "delta": -0.1}
    rows = [{**row, "metric": "jsd"}, dict(row)]
    judge(rows)
    assert [r["verdict"] for r in rows] == ["better", "worse"]


def test_the_page_shows_people_beside_the_model(run: Run) -> None:
    out, model, results, rows = run
    page = write_report(out, model.imagination.store).read_text(encoding="utf-8")
    text = page.split('id="data"', 1)[1].split(">", 1)[1].split("</script>", 1)[0]
    shown = json.loads(text)
    told = {item["id"]: item for item in shown["items"]}
    for row in rows:
        item = told[row["doc"]["id"]]
        assert item["people"] == [round(1000 * share) for share in row["doc"]["distribution"]]
        assert item["group"] == row["doc"]["group"]
        marks = {wording["ok"] for run in item["runs"] for wording in run["wordings"]}
        assert (None in marks) == (max(row["doc"]["distribution"]) <= 0.5)
    parts = {(row["subset"], row["group"]) for row in shown["agreement"]}
    assert {("all", "all"), ("covered", "all"), ("all", "any")} <= parts
    lines = agreement_table(results).splitlines()
    assert "less is better" in lines[0] and len(lines) == 2 + len(shown["agreement"])
    assert agreement_table({"vlmig": {}}) == ""
