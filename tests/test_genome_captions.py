"""Visual Genome's regions as plain texts with images of their own: the split, the losses beside each
image, and their differences, each computed a second way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_files import GENOME
from conftest import open_gates
from data_files import read, visual_genome
from PIL import Image

from vlmig import VLMIG, VLMIGError
from vlmig.data.sources.build import build_source
from vlmig.data.sources.visual_genome import HELD_OUT, VisualGenome, held_out
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.metrics.bootstrap import holm
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import CONTROLS, Settings
from vlmig.evaluation.tasks.download import fetch
from vlmig.evaluation.tasks.yaml_task import choose_tasks, declaration
from vlmig.report.losses import loss_table
from vlmig.report.run_page import write_report
from vlmig.report.tables import main_rows
from vlmig.vision import BLANK

CAPTIONS = "visual_genome_captions"
TEXTS = [  # what is read, what is scored, and its region
    ("a red ball", " on grass", (GENOME[0], (0, 2, 20, 22))),
    ("tall", " tree", (GENOME[0], (9, 2, 29, 22))),
    ("the blue", " kite", (GENOME[1], (30, 2, 40, 22))),
    ("a man rows", " a boat", (GENOME[2], (0, 2, 20, 22))),
]


def test_the_splits_share_no_image(tmp_path: Path) -> None:
    """Of the raw format with its oddities: together they have all records, each on one side."""
    folder = visual_genome(tmp_path / "vg")
    records = json.loads((folder / "region_descriptions.json").read_text())
    moved = {record.get("image_id", record.get("id")): record for record in records}
    for old, new in ((1, GENOME[1]), (2, GENOME[2])):
        text = json.dumps(moved[old]).replace(f'"id": {old}', f'"id": {new}')
        moved[old] = json.loads(text.replace(f'"image_id": {old}', f'"image_id": {new}'))
        (file,) = folder.glob(f"VG_100K*/**/{old}.jpg")
        shutil.copy(file, file.with_name(f"{new}.jpg"))
    (folder / "region_descriptions.json").write_text(json.dumps(list(moved.values())))
    found = {
        split: read(VisualGenome(folder, split=split))  # type: ignore[arg-type]
        for split in ("all", "train", "test")
    }
    (pairs, bad), (learnt, _), (tested, _) = found.values()
    assert GENOME[0] == 4, "which these files have themselves"
    assert {pair.group for pair in tested} == {str(number) for number in GENOME}
    assert {pair.group for pair in learnt} == {"3"}
    assert sorted(map(repr, pairs)) == sorted(map(repr, [*learnt, *tested]))
    assert len(bad) == len(found["train"][1]) + len(found["test"][1])
    # 1,000 of 100,000 are expected, with a standard deviation of 31.
    assert abs(sum(map(held_out, range(100_000))) - 100_000 * HELD_OUT) < 125
    with pytest.raises(VLMIGError, match="split 'val'; expected one of all, train, test"):
        build_source({"source": "visual_genome", "path": str(folder), "split": "val"})


def test_what_is_scored_is_never_imagined(data: Path) -> None:
    items = declaration(CAPTIONS).made().load(data)
    texts = [(q.contexts[0], q.continuations[0]) for item in items for q in item.questions]
    assert texts == [(opening, rest) for opening, rest, _ in TEXTS]
    for item, (opening, _, (number, box)) in zip(items, TEXTS, strict=True):
        assert (item.picture, item.cluster) == (opening, str(number))
        assert item.pair is not None and item.pair.box == box


def test_tokens_behind_a_beginning_are_a_part(tiny: VLMIG) -> None:
    (visuals,) = tiny.imagine(["a red ball"], 2)
    (whole,) = tiny.token_log_probs("a red ball on grass", visuals, [2])
    (part,) = tiny.token_log_probs("a red ball on grass", visuals, [2], "a red ball")
    assert 0 < len(part) < len(whole) and torch.equal(whole[-len(part) :], part)
    (all_of_it,) = tiny.token_log_probs("a red ball", visuals, [2], "on grass")
    assert len(all_of_it) == len(tiny.token_log_probs("a red ball", visuals, [0])[0])


Run = tuple[Path, VLMIG, dict[str, Any], list[Any]]


@pytest.fixture(scope="module")
def run(parts: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The task with two imagined images: folder, model, results, samples."""
    torch.manual_seed(1)
    out, names = tmp_path_factory.mktemp("captions"), ("vision_encoder", "generator")
    vision, generator = (str(parts / name) for name in names)
    size = {"fusion_heads": 4, "imaginer_size": 32, "imaginer_steps": 2}
    own: dict[str, Any] = {"vision": vision, "generator": generator, "store": out / "store"}
    model = VLMIG.from_base(str(parts / "language_model"), **own, **size)
    open_gates(model)
    evaluator = Evaluator(model, Settings(ks=(0, 2), controls=CONTROLS), data, out)
    results = measure_tasks(evaluator, choose_tasks([CAPTIONS], {}))
    lines = (out / f"samples_{CAPTIONS}.jsonl").read_text().splitlines()
    return out, model, results, [json.loads(line) for line in lines]


def test_losses_are_those_of_loglikelihood(run: Run, data: Path) -> None:
    """The other path to a number: candidates after a context, beside crops that are cut here."""
    _, model, _, rows = run
    pairs = [(opening, rest) for opening, rest, _ in TEXTS]
    crops = {}
    for _, _, (number, box) in TEXTS:
        path = data / f"visual_genome/VG_100K/{number}.jpg"
        crops[number, box] = Image.open(path).convert("RGB").crop(box)
    first = {number: crops[number, box] for _, _, (number, box) in reversed(TEXTS)}
    donors = {row["doc"]["cluster"]: row for row in rows}
    assert len(donors) == 3
    own = [crops[about] for _, _, about in TEXTS]
    expected = {
        "own": model.loglikelihood(pairs, images=own),
        "blank": model.loglikelihood(pairs, images=[Image.new("RGB", (20, 20), BLANK)] * 4),
    }
    others = {}
    for number in GENOME:
        others[number] = model.loglikelihood(pairs, images=[first[number]] * 4)
    for i, row in enumerate(rows):
        # samples keep six digits
        for name, found in expected.items():
            assert row["given"][name][0] == pytest.approx(-found[i], abs=2e-5)
        (about,) = {TEXTS[i][2][0]}
        near = [abs(row["given"]["shuffled"][0] + others[n][i]) for n in GENOME if n != about]
        assert min(near) < 2e-5, "the image of a region of another image"
    for k in (0, 2):
        visuals = [images.first(k) for images in model.imagine([t[0] for t in TEXTS], 2, 0)]
        found = model.loglikelihood(pairs, visuals=visuals)
        losses = [row["loss"][str(k)][0] for row in rows]
        assert losses == pytest.approx([-value for value in found], abs=2e-5)
    assert rows[0]["loss"]["0"] != rows[0]["given"]["own"] != rows[0]["given"]["shuffled"]


def test_means_and_differences_are_those_of_the_samples(run: Run) -> None:
    _, _, results, rows = run
    tokens = np.array([row["tokens"][0] for row in rows])
    sums = {"text-only": [row["loss"]["0"][0] for row in rows]}
    sums["k=2"] = [row["loss"]["2"][0] for row in rows]
    for name in ("own", "shuffled", "blank"):
        sums[name] = [row["given"][name][0] for row in rows]
    means = {name: np.sum(values) / tokens.sum() for name, values in sums.items()}
    conditions = {(c["k"], c["control"]): c for c in results["vlmig"]["conditions"]}
    keys = {"text-only": (0, "none"), "k=2": (2, "none")}
    for name, mean in means.items():
        row = conditions[keys.get(name, (1, name))]
        assert row["loss"] == pytest.approx(mean) and row["perplexity"] == pytest.approx(
            np.exp(mean)
        )
        assert row["loss_ci95"][0] <= mean <= row["loss_ci95"][1]
        assert (row["n"], row["tokens"], row["clusters"]) == (4, tokens.sum(), 3)
    compared = results["vlmig"]["losses"]
    assert {(c["a"], c["b"]) for c in compared} == {
        *(("k=2", b) for b in ("text-only", "own", "shuffled", "blank")),
        *(("own", b) for b in ("text-only", "shuffled", "blank")),
    }
    for row in compared:
        assert row["delta"] == pytest.approx(means[row["a"]] - means[row["b"]])
        assert row["ci95"][0] <= row["delta"] <= row["ci95"][1] and row["clusters"] == 3
    assert [c["p_holm"] for c in compared] == holm([c["p"] for c in compared])


def test_the_report_shows_them(run: Run) -> None:
    out, model, results, _ = run
    text = loss_table(results)
    assert "own less" in text and f"{results['vlmig']['losses'][0]['delta']:+.4f}" in text
    page = write_report(out, model.imagination.store).read_text()
    assert "its own image" in page
    from vlmig.evaluation.run_folder import read_run

    (row,) = main_rows(read_run(out))
    assert row["cells"].keys() >= {"text", "main", "own", "shuffled", "blank"}
    assert loss_table({**results, "vlmig": {}}) == ""


def test_a_second_run_measures_nothing(run: Run, data: Path) -> None:
    out, model, results, rows = run
    evaluator = Evaluator(model, Settings(ks=(0, 2), controls=CONTROLS), data, out)
    before = len(evaluator.journal)
    again = measure_tasks(evaluator, choose_tasks([CAPTIONS], {}))
    assert len(evaluator.journal) == before == len(rows)
    assert again["vlmig"]["losses"] == results["vlmig"]["losses"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no file", "fetch region_descriptions.json.zip.*then pass --data DATA"),
        ("no images", "no pairs in .*no such image 5.*its images too; fetch it"),
        ("no such split", "no pairs in .*none of this split"),
        ("broken", r"VG_100K/\d+.jpg in .*truncated image; expected an image; fetch it again"),
    ],
)
def test_faults_are_one_line(
    tiny: VLMIG, data: Path, tmp_path: Path, fault: str, message: str
) -> None:
    shutil.copytree(data / "visual_genome", tmp_path / "visual_genome")
    regions = tmp_path / "visual_genome/region_descriptions.json"
    if fault == "no file":
        regions.unlink()
    elif fault == "no images":
        shutil.rmtree(tmp_path / "visual_genome/VG_100K")
    elif fault == "no such split":
        regions.write_text(json.dumps(json.loads(regions.read_text())[:1]))
    else:
        for path in (tmp_path / "visual_genome/VG_100K").iterdir():
            path.write_bytes(path.read_bytes()[:-400])
    task = declaration(CAPTIONS).made()
    with pytest.raises(VLMIGError, match=message) as raised:
        task.load(tmp_path)
        Evaluator(tiny, Settings(), tmp_path, tmp_path / "out").measure(task)
    assert "\n" not in str(raised.value)


def test_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(VLMIGError, match="both archives of images"):
        fetch(declaration(CAPTIONS).made().files, tmp_path)
