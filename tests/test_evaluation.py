"""The evaluation: what one pass gives, what controls and baselines show, and what the table says
of models that know nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.special import log_softmax, softmax

from vlmig import VLMIG, VLMIGError
from vlmig.cli.main import main
from vlmig.evaluation.controls import donors
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.metrics.bootstrap import holm
from vlmig.evaluation.metrics.rescoring import Rescorer
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.run_folder import main_condition
from vlmig.evaluation.settings import CONTROLS, Settings
from vlmig.evaluation.tasks.yaml_task import choose_tasks, known_tasks
from vlmig.predict.scores import Scores
from vlmig.report.tables import table


def evaluate(model: VLMIG, data: Path, out: Path, *tasks: str, **settings: Any) -> dict[str, Any]:
    evaluator = Evaluator(
        model, Settings(**settings), data, out, covered=lambda name: name != "tar"
    )
    return measure_tasks(evaluator, choose_tasks(tasks, {}))


def samples(out: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"samples_{task}.jsonl").read_text().splitlines()]


def found(results: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [
        c
        for c in results["vlmig"]["conditions"]
        if all(c[name] == value for name, value in wanted.items())
    ]


def test_results_have_lm_evals_keys_and_every_condition(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    asked = {
        "ks": (0, 1, 2),
        "mixes": ("prob", "evidence"),
        "weights": ("clip", "uniform"),
        "controls": CONTROLS,
    }
    evaluate(tiny, data, tmp_path, "memory_color", "imagenetvc_color", **asked)
    written = json.loads((tmp_path / "results.json").read_text())
    assert {
        "results",
        "versions",
        "n-samples",
        "n-shot",
        "config",
        "configs",
        "git_hash",
        "date",
    } <= written.keys()
    # 3 k x 4 rules; 2 k x 4 rules under blank and shuffled; caption; few-shot where there are
    # demonstrations; 4 baselines
    for task, count in (
        ("memory_color", 12 + 8 + 8 + 1 + 4),
        ("imagenetvc_color", 12 + 8 + 8 + 2 + 4),
    ):
        assert len(found(written, task=task, subset="all")) == count
    row = written["vlmig"]["conditions"][0]
    assert {
        "task",
        "subset",
        "k",
        "mix",
        "weights",
        "control",
        "seed",
        "acc",
        "stderr",
        "ci95",
        "n",
    } <= row.keys()
    assert {c["n"] for c in found(written, task="memory_color")} == {3, 2}
    third = pytest.approx(1 / 3)
    assert written["vlmig"]["baselines"]["memory_color"] == {"majority": third, "chance": third}
    assert {"delta", "ci95", "p", "p_holm", "mcnemar_p", "verdict", "detectable"} <= written[
        "vlmig"
    ]["comparisons"][0].keys()
    assert "visual gain" in table(written)
    (entry,) = yaml.safe_load((tmp_path / ".eval_results" / "imagenetvc_color.yaml").read_text())
    assert entry["dataset"] == {"id": "hemingkx/ImageNetVC", "task_id": "imagenetvc_color"}
    assert entry["value"] == written["results"]["imagenetvc_color"]["acc,none"]


@pytest.mark.parametrize("task", known_tasks())
def test_every_task_is_measured_under_both_protocols(
    tiny: VLMIG, data: Path, tmp_path: Path, task: str
) -> None:
    for protocol in ("default", "reference"):
        tiny.config.mix, tiny.config.weights = (
            ("evidence", "entropy") if protocol == "default" else ("logit", "clip")
        )
        evaluator = Evaluator(tiny, Settings(ks=(0, 1)), data, tmp_path / protocol)
        results = measure_tasks(evaluator, choose_tasks([task], {}, protocol))
        metrics = results["results"][task]
        if task in ("squad_text", "visual_genome_captions"):
            assert metrics["perplexity,none"] > 1
        elif task.startswith("audit_"):
            assert {row["task"] for row in results["vlmig"]["pairs"]} == {task}
            continue
        else:
            name = "exact_match" if task in ("squad", "quac") else "acc"
            assert 0 <= metrics[f"{name},none"] <= 1
        assert table(results).count("\n") >= 1


def test_k_zero_is_text_only_under_every_rule(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    asked = {
        "ks": (0, 2),
        "mixes": ("prob", "logit", "geometric", "evidence"),
        "weights": ("clip", "entropy", "cross-fitted"),
    }
    results = evaluate(tiny, data, tmp_path, "memory_color", **asked, controls=("none", "blank"))
    alone = {c["acc"] for c in found(results, k=0, subset="all")}
    assert len(alone) == 1
    blank = {
        c["acc"]
        for c in found(results, control="blank", mix="evidence", weights="entropy", subset="all")
    }
    assert blank == alone, "an empty picture is no evidence"


def test_one_pass_serves_every_k_rule_and_picture_control(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    calls: list[int] = []
    tiny.model.language_model.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    evaluate(tiny, data, tmp_path / "one", "memory_color", ks=(0, 2))
    once = len(calls)
    many = {
        "mixes": ("prob", "logit", "geometric"),
        "weights": ("clip", "uniform", "cross-fitted", "entropy"),
    }
    evaluate(
        tiny,
        data,
        tmp_path / "many",
        "memory_color",
        ks=(0, 1, 2),
        controls=("none", "blank", "shuffled"),
        **many,
    )
    assert len(calls) == 2 * once, "the shuffled pictures are read beside the own ones"
    evaluate(
        tiny,
        data,
        tmp_path / "many",
        "memory_color",
        ks=(0, 2),
        controls=("none", "blank", "shuffled"),
        mixes=("prob",),
    )
    assert len(calls) == 2 * once, "other rules over what is measured cost no call"


def test_samples_rebuild_the_accuracies(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    """By hand from the file: text alone; the mean over pictures of f p_i + (1 - f) p_0, as the LM
    gives them (equation 2); length-normalized."""
    results = evaluate(
        tiny, data, tmp_path, "memory_color", ks=(0, 2), mixes=("prob",), weights=("clip",)
    )
    alone, mixed, normal = [], [], []
    for row in samples(tmp_path, "memory_color"):
        right = row["doc"]["choices"].index(row["target"])
        for text, images, cosines in zip(
            row["text_only"], row["per_image"], row["alignment"], strict=True
        ):
            alone.append(np.argmax(text) == right)
            normal.append(
                np.argmax([t / len(c) for t, c in zip(text, row["doc"]["choices"], strict=True)])
                == right
            )
            trust = np.clip(cosines, 0, 1)[:, None]
            mixed.append(
                (trust * np.exp(images) + (1 - trust) * np.exp(text)).mean(0).argmax() == right
            )
    (text_only,) = found(results, k=0, mix="prob", subset="all")
    (pictures,) = found(results, k=2, mix="prob", subset="all")
    assert text_only["acc"] == np.mean(alone) and text_only["acc_norm"] == np.mean(normal)
    assert pictures["acc"] == np.mean(mixed)


def test_samples_have_the_item_s_accuracy_and_every_digit(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    results = evaluate(tiny, data, tmp_path, "memory_color", ks=(0, 2))
    rows = samples(tmp_path, "memory_color")
    metrics = results["results"]["memory_color"]
    for name in ("acc", "acc_norm"):
        assert np.mean([row[name] for row in rows]) == pytest.approx(metrics[f"{name},none"])
    for row in rows:
        right = row["doc"]["choices"].index(row["target"])
        lengths = [len(choice) for choice in row["doc"]["choices"]]
        found_right = [np.argmax(values) == right for values in row["loglikelihood"]]
        normal = [np.argmax(np.divide(v, lengths)) == right for v in row["loglikelihood"]]
        assert row["correct"] == found_right and row["acc"] == pytest.approx(np.mean(found_right))
        assert row["correct_norm"] == normal and row["acc_norm"] == pytest.approx(np.mean(normal))
        assert [r[0] for r in row["filtered_resps"]] == row["loglikelihood"][0]
        for values, mixture in zip(row["loglikelihood"], row["mixture"], strict=True):
            assert softmax(values) == pytest.approx(mixture, rel=1e-8)


def test_baselines_over_the_same_pictures_by_hand(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    results = evaluate(tiny, data, tmp_path, "memory_color", ks=(0, 3))
    votes, clips, ensembles, alone = [], [], [], []
    scale = tiny.imagination.encoder.tower.model.logit_scale.exp().item()
    assert results["vlmig"]["clip_scale"] == scale != 100
    for row in samples(tmp_path, "memory_color"):
        right = row["doc"]["choices"].index(row["target"])
        clip = softmax(scale * np.array(row["clip"]).mean(0))
        for text, images in zip(row["text_only"], row["per_image"], strict=True):
            counts = np.bincount(np.argmax(images, -1), minlength=len(text))
            best = np.flatnonzero(counts == counts.max())
            votes.append(max(best, key=lambda c: softmax(images, -1).mean(0)[c]) == right)
            clips.append(clip.argmax() == right)
            ensembles.append((softmax(text) + clip).argmax() == right)
        for images, alignment in zip(row["per_image"], row["alignment"], strict=True):
            alone.append(np.argmax(images[int(np.argmax(alignment))]) == right)
    expected = {"vote": votes, "clip": clips, "zlavi": ensembles, "best-image": alone}
    for mix, hits in expected.items():
        assert found(results, mix=mix, subset="all")[0]["acc"] == np.mean(hits)


def test_an_encoder_that_never_read_the_candidates_is_not_judged(
    tiny: VLMIG, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = frozenset({"red", "black", "round", "yes"})
    monkeypatch.setitem(vars(tiny.imagination.encoder), "_caption_words", read)
    results = evaluate(tiny, data, tmp_path, "memory_color", ks=(0, 2))
    never = sorted({c for row in samples(tmp_path, "memory_color") for c in row["doc"]["choices"]})
    never = [word for word in never if word not in read]
    assert never
    for row in results["vlmig"]["comparisons"]:
        by_clip = row["b"] in ("clip", "zlavi")
        assert by_clip == (row["verdict"] == "cannot name the candidates")
        assert (row["p_holm"] is None) == by_clip and row.get("unread", never) == never
    for row in results["vlmig"]["conditions"]:
        assert ("unread" in row) == (row["mix"] in ("clip", "zlavi")) and row["acc"] is not None
    fair = [row for row in results["vlmig"]["comparisons"] if "unread" not in row]
    assert [row["p_holm"] for row in fair] == holm([row["p"] for row in fair])


def test_caption_and_demonstrations_are_read_without_pictures(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    evaluate(
        tiny,
        data,
        tmp_path,
        "imagenetvc_color",
        ks=(0, 1),
        controls=("none", "caption", "few-shot"),
    )
    row = samples(tmp_path, "imagenetvc_color")[0]
    question = row["doc"]["questions"][1]["contexts"][0]
    assert question == "What color is a brick? Answer:"
    solved = "What color is coal? Answer: black. What color is chalk? Answer: white. "
    empty = tiny.imagine(["x"], k=0)
    for name, context in (
        ("caption", f"A picture of a brick. {question}"),
        ("few_shot", solved + question),
    ):
        expected = tiny.score([context], [row["doc"]["choices"]], empty)[0].text
        assert row[name][1] == pytest.approx(expected, abs=1e-5)


def test_calibration_divides_by_the_content_free_prediction(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    plain = evaluate(tiny, data, tmp_path / "plain", "memory_color", ks=(0, 1))
    results = evaluate(tiny, data, tmp_path / "divided", "memory_color", ks=(0, 1), calibrated=True)
    row = samples(tmp_path / "divided", "memory_color")[0]
    empty = tiny.score(["The color of N/A is"], [row["doc"]["choices"]], tiny.imagine(["x"], k=0))[
        0
    ].text
    assert row["content_free"][4] == pytest.approx(empty, abs=1e-5)
    rows = samples(tmp_path / "divided", "memory_color")
    right = [
        np.argmax(np.array(text) - free) == row["doc"]["choices"].index(row["target"])
        for row in rows
        for text, free in zip(row["text_only"], row["content_free"], strict=True)
    ]
    assert found(results, k=0, subset="all")[0]["acc"] == np.mean(right)
    assert plain["vlmig"]["settings"]["calibrated"] is False


def test_cross_fitted_weights_never_saw_the_object_they_are_used_on(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    """Another label for one object leaves its own weights as they are."""
    task = choose_tasks(["memory_color"], {})[0]
    evaluator = Evaluator(tiny, Settings(ks=(0, 3)), data, tmp_path)
    measured = [(item, record) for _, item, record in evaluator.measure(task)]
    items, records = [item for item, _ in measured], [record for _, record in measured]

    def trust(chosen: list[Any]) -> np.ndarray:
        rescorer = Rescorer(task, chosen, records, tiny.config)
        return rescorer.cross_fitted("none", 3)

    other = replace(
        items[0], questions=tuple(replace(q, answer=(q.answer + 1) % 3) for q in items[0].questions)
    )
    before, after = trust(items), trust([other, *items[1:]])
    assert np.array_equal(before[:9], after[:9]) and not np.array_equal(before[9:], after[9:])
    assert ((before >= 0) & (before <= 1)).all()


def test_shuffling_gives_every_object_other_objects_pictures(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    items = choose_tasks(["imagenetvc_color"], {})[0].load(data)
    taken = donors(items, seed=3)
    results = evaluate(
        tiny,
        data,
        tmp_path,
        "imagenetvc_color",
        ks=(0, 2),
        controls=("none", "shuffled"),
        mixes=("prob",),
        weights=("uniform",),
        seeds=(3,),
    )
    rows = samples(tmp_path, "imagenetvc_color")
    own = {row["doc"]["cluster"]: row for row in reversed(rows)}  # an object's first item
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for row in rows:
        shown = row["shuffled"]
        assert shown["of"] == [item.cluster for item in taken[row["doc"]["cluster"]]]
        assert shown["labels"] == [own[name]["target"] for name in shown["of"]]
        pictures = [own[name]["doc"]["picture"] for name in shown["of"]]
        q = row["doc"]["questions"][0]
        for found_images, seen in zip(
            shown["per_image"][0], tiny.imagine(pictures, k=2, seed=3), strict=True
        ):
            expected = tiny.score([q["contexts"][0]], [q["continuations"]], [seen])[0]
            # One pass beside all pictures against one beside two: sums in another order.
            assert np.array(found_images) == pytest.approx(expected.per_image, abs=1e-4)
        for question in shown["per_image"]:
            for name, images in zip(shown["of"], question, strict=True):
                right = row["doc"]["choices"][np.exp(images).mean(0).argmax()] == row["target"]
                hits[own[name]["target"] == row["target"]].append(right)
    turned = found(results, mix="prob", weights="uniform", k=2, control="shuffled", subset="all")[0]
    assert turned["acc"] == pytest.approx(np.mean(hits[True] + hits[False]))
    assert turned["donors"] == len(taken[rows[0]["doc"]["cluster"]])
    for same, name in ((True, "acc_same_label"), (False, "acc_other_label")):
        assert turned[name] == (pytest.approx(np.mean(hits[same])) if hits[same] else None)
    assert turned["same_label_share"] == len(hits[True]) / len(hits[True] + hits[False])
    gain = [
        c for c in results["vlmig"]["comparisons"] if c["b"] == "shuffled" and c["subset"] == "all"
    ][0]
    pictures = main_condition(results, "imagenetvc_color")
    turned = main_condition(results, "imagenetvc_color", control="shuffled")
    assert pictures is not None and turned is not None
    assert gain["delta"] == pytest.approx(pictures["acc"] - turned["acc"])
    assert results["results"]["imagenetvc_color"]["visual_gain,none"] == gain["delta"]


def test_one_donor_of_an_earlier_version_is_still_read(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    evaluate(tiny, data, tmp_path, "memory_color", ks=(0, 2), controls=("none", "shuffled"))
    task, rows = choose_tasks(["memory_color"], {})[0], samples(tmp_path, "memory_color")
    earlier = []
    for row in rows:
        shown = row["shuffled"]
        first = {name: [own[0] for own in shown[name]] for name in ("per_image", "alignment")}
        earlier.append({**row, "shuffled": {"of": shown["of"][0], **first}})
    now, then = (Rescorer(task, task.load(data), own, tiny.config) for own in (rows, earlier))
    assert (now.donors, then.donors) == (2, 1), "three objects have two others each"
    assert now.same_label() is not None and then.same_label() is None
    asked = (2, "prob", "uniform", "shuffled")
    for new, old in zip(now.rescore(*asked), then.rescore(*asked), strict=True):
        assert new.tolist() == old.tolist()
    assert any(
        new.tolist() != old.tolist()
        for new, old in zip(now.rescore(*asked, 1), then.rescore(*asked), strict=True)
    )


@pytest.mark.parametrize(
    ("policy", "sets", "shape"), [("item", 1, (2,)), ("question", 2, (2, 2)), ("option", 2, (2, 2))]
)
def test_candidates_with_contexts_of_their_own(
    tiny: VLMIG, data: Path, tmp_path: Path, policy: str, sets: int, shape: tuple[int, ...]
) -> None:
    """WinoGrande: pictures of one name's sentence must not speak for the other's."""
    evaluate(tiny, data, tmp_path, "winogrande", ks=(0, 2), policy=policy, controls=CONTROLS)
    row = samples(tmp_path, "winogrande")[0]
    assert len(row["pictures"]) == sets and np.shape(row["alignment"][0]) == shape
    question = row["doc"]["questions"][0]
    shown = (
        tiny.imagine(
            [question["contexts"][0]], 2, policy=policy, options=[question["continuations"][0]]
        )
        if sets > 1
        else None
    )
    shown = shown or tiny.imagine([row["doc"]["picture"]], 2)
    expected = tiny.score(question["contexts"][:1], [question["continuations"][:1]], shown)[0]
    assert np.array(row["per_image"][0])[:, 0] == pytest.approx(expected.per_image[:, 0], abs=1e-4)


def test_seeds_are_pooled_with_an_item_as_one_cluster(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    results = evaluate(
        tiny, data, tmp_path, "memory_color", "memory_color", ks=(0, 2), seeds=(0, 1, 2, 1)
    )
    rows = found(results, k=2, mix="evidence", subset="all")
    assert [row["seed"] for row in rows] == [0, 1, 2, "all"]
    assert rows[3]["acc"] == pytest.approx(np.mean([row["acc"] for row in rows[:3]]))
    assert results["results"]["memory_color"]["acc,none"] == rows[3]["acc"]
    alone = found(results, k=0, seed="all", subset="all")[0]
    assert alone["stderr"] == found(results, k=0, seed=0, subset="all")[0]["stderr"], (
        "text alone, thrice, is one sample"
    )
    assert len(samples(tmp_path, "memory_color")) == 3 * 3


def says(rank: Any) -> Any:
    """A stub in place of ``VLMIG.score``: candidates ranked by ``rank(place, text)``, whatever the
    question or pictures."""

    def score(
        contexts: Sequence[str], choices: Sequence[Sequence[str]], visuals: Sequence[Any], **_: Any
    ) -> list[Scores]:
        made = []
        for own, seen in zip(choices, visuals, strict=True):
            text = log_softmax([-float(rank(i, c)) for i, c in enumerate(own)])
            made.append(
                Scores(text, np.tile(text, (len(seen.features), 1)), text, seen.alignment.numpy())
            )
        return made

    return score


@pytest.mark.parametrize(
    ("task", "rank", "shown"),
    [
        # Two of three are round: as good as the majority, and no better than one class of two.
        (
            "object_shape",
            lambda i, c: c != "round",
            {"acc": 2 / 3, "majority": 2 / 3, "balanced_acc": 1 / 2},
        ),
        (
            "relative_size",
            lambda i, c: c != "Yes",
            {"acc": 1 / 2, "majority": 1 / 2, "balanced_acc": 1 / 2},
        ),
        (
            "imagenetvc_component",
            lambda i, c: i,
            {"acc": 2 / 3, "majority": 2 / 3, "balanced_acc": 1 / 2},
        ),
    ],
    ids=["always round", "always yes", "always the first"],
)
def test_models_that_know_nothing_are_shown_for_what_they_are(
    tiny: VLMIG, data: Path, tmp_path: Path, task: str, rank: Any, shown: dict[str, float]
) -> None:
    tiny.score = says(rank)  # type: ignore[method-assign]
    results = evaluate(tiny, data, tmp_path, task, ks=(0, 2), controls=("none", "shuffled"))
    row = main_condition(results, task)
    assert row is not None and {name: row[name] for name in shown} == pytest.approx(shown)
    gain = [c for c in results["vlmig"]["comparisons"] if c["b"] == "shuffled"][0]
    assert (gain["delta"], gain["verdict"]) == (0.0, "tied")
    assert f"{100 * shown['majority']:.1f}%" in table(results) and " 0.0 tied" in table(results)


def test_an_item_counts_once_where_any_wording_may_hit(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    evaluator = Evaluator(tiny, Settings(ks=(0,)), data, tmp_path)
    results = measure_tasks(evaluator, choose_tasks(["vicomte_shape"], {}, "reference"))
    rows = samples(tmp_path, "vicomte_shape")
    hits = [
        any(
            tokens[int(np.argmax(text))] == row["target"]
            for tokens, text in zip(row["tokens"], row["text_only"], strict=True)
        )
        for row in rows
    ]
    assert results["results"]["vicomte_shape"]["acc,none"] == np.mean(hits)


def test_another_split_stands_in_the_tasks_name(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    results = evaluate(tiny, data, tmp_path, "vicomte_color@train", "vicomte_color", ks=(0,))
    assert results["configs"]["vicomte_color@train"]["test_split"] == "train"
    assert results["n-samples"]["vicomte_color@train"]["original"] == 3
    assert results["n-samples"]["vicomte_color"]["original"] == 2


def test_only_what_the_world_covers(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    results = evaluate(
        tiny, data, tmp_path, "memory_color", "imagenetvc_color", ks=(0, 1), subset="covered"
    )
    assert {c["subset"] for c in results["vlmig"]["conditions"]} == {"covered"}
    assert (
        results["n-samples"]["memory_color"]["original"] == 2
        and "acc,none" in results["results"]["memory_color"]
    )
    assert not (tmp_path / ".eval_results").exists(), "a part of a benchmark is not its result"
    with pytest.raises(VLMIGError, match="only the pocket model's world has one"):
        Evaluator(tiny, Settings(subset="covered"), data, tmp_path)


def test_an_untrained_adapter_is_not_evaluated(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    tiny.config.trained = False
    with pytest.raises(VLMIGError, match="untrained"):
        evaluate(tiny, data, tmp_path, "memory_color")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ks": (-1,)}, "k=-1; expected numbers of images"),
        ({"controls": ("nothing",)}, "control 'nothing'; expected one of none, blank"),
        ({"mixes": ("sum",)}, "mix 'sum'; expected one of prob, logit"),
        ({"weights": ("loud",)}, "weights 'loud'; expected one of uniform"),
        ({"policy": "all"}, "policy 'all'; expected one of item"),
        ({"limit": 0}, "limit=0; expected at least one item"),
        ({"seeds": ()}, "no seed; expected at least one"),
    ],
)
def test_wrong_settings_are_said_in_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(VLMIGError, match=message):
        Settings(**wrong)


def test_a_task_without_covered_items_is_refused_before_any_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pocket generator draws strawberries, and no table tops."""
    folder = tmp_path / "valm"
    folder.mkdir()
    header = "Index,Descriptor,Item,Shape"
    (folder / "memory_color_data.csv").write_text(f"{header}\n1,a,strawberry,red\n")
    (folder / "shape.csv").write_text(f"{header}\n1,,table top,round\n")
    out = tmp_path / "out"
    tasks = ["--tasks", "memory_color,object_shape", "--subset", "covered", "--k", "0,1"]
    assert main(["eval", *tasks, "--data", str(tmp_path), "--out", str(out)]) == 2
    assert "task object_shape has no covered items; expected things" in capsys.readouterr().err
    assert not list(out.rglob("*.json*"))
