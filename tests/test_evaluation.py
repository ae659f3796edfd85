"""Evaluation on files of our own in the benchmarks' formats."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from vlmig import VLMIG, VLMIGError
from vlmig.evaluation.report import table, write_report
from vlmig.evaluation.results import write_results
from vlmig.evaluation.run import Evaluator, Settings, shuffled
from vlmig.evaluation.sources import SOURCES, fetch
from vlmig.evaluation.statistics import balanced_accuracy, clustered, majority, verdict
from vlmig.evaluation.tasks import TASKS, choose_tasks


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    files = {
        "valm/memory_color_data.csv": "Index,Descriptor,Item,Shape\n1,a,brick,red\n2,the,fog,grey\n3,,tar,black\n",
        "valm/color-concrete-objects.csv": "object,color\nbrick,red\nink,blue\n",
        "valm/shape.csv": "Index,Descriptor,Item,Shape\n1,,ball,round\n2,,plate,round\n3,,sail,triangle\n",
        "imagenetvc/color.csv": "category,question,answer\nbrick,What color is a brick?,red\nbrick,What color is its edge?,gray\ntar,What color is tar?,black\n",
        "imagenetvc/shape.csv": "category,question,answer\nball,What is the shape of a ball?,round\nsail,What shape is a sail?,triangle\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def evaluate(model: VLMIG, data: Path, out: Path, *tasks: str, **settings: object) -> dict:
    evaluator = Evaluator(model, Settings(**settings), data, out, covered=lambda name: name != "tar")
    outcomes = [evaluator.run(task) for task in choose_tasks(tasks, TASKS)]
    return write_results(evaluator, outcomes, out)


def test_every_task_reads_its_format(data: Path) -> None:
    for task in TASKS.values():
        items = task.load(data)
        assert items
        for item in items:
            assert 0 <= item.answer < len(item.choices)
            assert len(set(item.contexts)) == len(item.contexts)
            assert not any(choice in item.picture.split() for choice in item.choices), (
                "an answer leaked into the picture"
            )


def test_grey_is_gray_and_descriptors_are_kept(data: Path) -> None:
    fog = TASKS["memory_color"].load(data)[1]
    assert fog.choices[fog.answer] == "gray"
    assert fog.contexts[0] == "Q: What is the color of the fog? A: It is"
    assert fog.contexts[-1] == "The fog usually has the color of"


def test_results_have_lm_eval_keys_and_every_condition(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    asked = {
        "ks": (0, 1, 2),
        "mixes": ("prob", "evidence"),
        "weights": ("clip", "uniform"),
        "controls": ("none", "shuffled", "blank"),
    }
    results = evaluate(tiny, data, tmp_path, "memory_color", "imagenetvc_color", **asked)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["results"]["memory_color"]["acc,none"] == results["results"]["memory_color"]["acc,none"]
    assert {"versions", "n-samples", "n-shot", "config", "configs", "git_hash", "date"} <= written.keys()
    conditions = written["vlmig"]["conditions"]
    # tasks x subsets x ks x (mix, weights) x controls
    assert len(conditions) == 2 * 2 * 3 * 4 * 3
    assert {"task", "subset", "k", "mix", "weights", "control", "seed", "acc", "stderr", "ci95", "n"} <= conditions[
        0
    ].keys()
    assert {c["n"] for c in conditions if c["task"] == "memory_color"} == {3, 2}
    assert written["vlmig"]["baselines"]["memory_color"] == {
        "majority": pytest.approx(1 / 3),
        "chance": pytest.approx(1 / 3),
    }
    assert "text-only" in table(written)


def test_k_zero_is_text_only_under_every_rule_and_control(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    asked = {
        "ks": (0, 2),
        "mixes": ("prob", "logit", "evidence"),
        "weights": ("clip", "entropy"),
        "controls": ("none", "blank"),
    }
    results = evaluate(tiny, data, tmp_path, "memory_color", **asked)
    conditions = results["vlmig"]["conditions"]
    assert len({c["acc"] for c in conditions if c["k"] == 0 and c["subset"] == "all"}) == 1
    blank = [c for c in conditions if c["control"] == "blank" and c["mix"] == "evidence" and c["subset"] == "all"]
    assert len({c["acc"] for c in blank}) == 1, "an empty picture is no evidence"


def test_one_pass_serves_every_k_and_rule(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    calls: list[int] = []
    tiny.model.language_model.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    evaluate(tiny, data, tmp_path / "one", "memory_color", ks=(0, 2))
    once = len(calls)
    evaluate(
        tiny,
        data,
        tmp_path / "many",
        "memory_color",
        ks=(0, 1, 2),
        mixes=("prob", "logit"),
        weights=("clip", "uniform"),
    )
    assert len(calls) == 2 * once


def test_samples_rebuild_the_accuracy(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    results = evaluate(tiny, data, tmp_path, "memory_color", ks=(0, 2))
    rows = [json.loads(line) for line in (tmp_path / "samples_memory_color.jsonl").read_text().splitlines()]
    right = [row["doc"]["choices"][int(np.argmax(text))] == row["target"] for row in rows for text in row["text_only"]]
    text_only = [c["acc"] for c in results["vlmig"]["conditions"] if c["k"] == 0 and c["subset"] == "all"]
    assert np.mean(right) == pytest.approx(text_only[0])


def test_the_report_is_one_self_contained_page(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    evaluate(tiny, data, tmp_path, "memory_color", ks=(0, 2))
    page = write_report(tmp_path, tiny.imagination.store).read_text()
    assert page.count("data:image/png;base64,") == 3 * 2
    assert 'src="http' not in page and "outside the model's world" in page


def test_shuffling_gives_every_object_another_objects_pictures(tiny: VLMIG, data: Path) -> None:
    items = TASKS["imagenetvc_color"].load(data)
    visuals = tiny.imagine([item.picture for item in items], k=1)
    turned = [own[0] for own in shuffled(items, [[v] for v in visuals], seed=0)]
    assert all(own.prompt != other.prompt for own, other in zip(visuals, turned, strict=True))
    assert turned[0].prompt == turned[1].prompt, "items of one object share their pictures"


def test_an_untrained_adapter_is_not_evaluated(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    tiny.config.trained = False
    with pytest.raises(VLMIGError, match="untrained"):
        evaluate(tiny, data, tmp_path, "memory_color")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "valm/memory_color_data.csv",
            "Index,Descriptor,Item,Color\n1,a,brick,red\n",
            "has no column Shape; expected Descriptor, Item, Shape, found",
        ),
        (None, "", "no file .*memory_color_data.csv; pass --data"),
    ],
)
def test_bad_files_are_said_in_one_line(tmp_path: Path, file: str | None, text: str, message: str) -> None:
    if file:
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(text)
    with pytest.raises(VLMIGError, match=message):
        TASKS["memory_color"].load(tmp_path)


def test_bootstrap_draws_clusters_not_items() -> None:
    generator = np.random.default_rng(0)
    objects = generator.integers(0, 2, 50).astype(float)
    values, clusters = np.repeat(objects, 20), np.repeat([str(i) for i in range(50)], 20)
    # Twenty copies of fifty objects know no more than fifty objects.
    expected = objects.std() / np.sqrt(50)
    assert clustered(values, clusters.tolist()).stderr == pytest.approx(expected, rel=0.1)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator, hits, runs = np.random.default_rng(1), 0, 200
    for _ in range(runs):
        rates = generator.beta(2, 2, 40)
        values = (generator.random((40, 5)) < rates[:, None]).astype(float)
        estimate = clustered(values.ravel(), np.repeat([str(i) for i in range(40)], 5).tolist())
        hits += estimate.low <= 0.5 <= estimate.high
    # 95 % nominal; 200 runs have a standard error of 1.5 points, small-sample bootstrap runs a little low.
    assert 0.89 <= hits / runs <= 0.99


def test_words_and_baselines() -> None:
    assert verdict(clustered([1.0] * 30, [str(i) for i in range(30)])) == "better"
    assert verdict(clustered([-1.0] * 30, [str(i) for i in range(30)])) == "worse"
    assert verdict(clustered([1.0, -1.0] * 15, [str(i) for i in range(30)])) == "tied"
    labels = ["round"] * 9 + ["star"]
    assert majority(labels) == 0.9
    assert balanced_accuracy(np.array([1.0] * 9 + [0.0]), labels) == 0.5


def test_files_are_fetched_once_and_only_with_the_known_content(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "valm/shape.csv"
    content = (data / name).read_bytes()
    known = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(SOURCES, name, ((data / name).as_uri(), known))
    assert (fetch([name], tmp_path) / name).read_bytes() == content
    monkeypatch.setitem(SOURCES, name, ((tmp_path / "gone").as_uri(), known))
    fetch([name], tmp_path)  # already there
    with pytest.raises(VLMIGError, match="cannot download .*pass --data"):
        fetch([name], tmp_path / "fresh")
    monkeypatch.setitem(SOURCES, name, ((data / name).as_uri(), "0" * 64))
    with pytest.raises(VLMIGError, match="expected 000000000000.*the source changed"):
        fetch([name], tmp_path / "fresh")
    assert not list((tmp_path / "fresh").rglob("*.csv"))
    with pytest.raises(VLMIGError, match="no source known here"):
        fetch(["valm/other.csv"], tmp_path)
