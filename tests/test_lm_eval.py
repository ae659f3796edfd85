"""lm-eval on our models: the same items, the same answers as our own harness and as lm-eval's own
model of the base LM."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table

from vlmig import VLMIG, VLMIGError
from vlmig.cli.main import main
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.metrics.rescoring import Rescorer
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.yaml_task import declaration
from vlmig.integrations.launch import TASKS, complete
from vlmig.integrations.lm_eval import VlmigLM, before_stop
from vlmig.integrations.requests import gathered, last_paragraph
from vlmig.models.learned import FEATURES
from vlmig.models.mixture import Mixture
from vlmig.predict.scores import Scores

NAMES = sorted(path.stem.removeprefix("vlmig_") for path in TASKS.glob("vlmig_*_*.yaml"))


def asked(
    *pairs: tuple[Any, ...], kind: str = "loglikelihood", doc: Any = None, id: int | None = 0
) -> list[Instance]:
    """Requests about one document."""
    return [Instance(kind, doc or {}, pair, i, ("task", id, 1)) for i, pair in enumerate(pairs)]


def harness(model: VlmigLM | HFLM, data: Path, *tasks: str) -> dict[str, Any]:
    manager = TaskManager(
        include_path=str(TASKS), include_defaults=False, metadata={"data": str(data)}
    )
    names = [f"vlmig_{task}" for task in tasks]
    return simple_evaluate(model=model, tasks=names, task_manager=manager, bootstrap_iters=0)


@pytest.fixture()
def base(parts: Path) -> HFLM:
    """lm-eval's own model of the tiny base LM."""
    return HFLM(pretrained=str(parts / "language_model"), device="cpu", batch_size=4)


# The tasks


@pytest.mark.parametrize("name", NAMES)
def test_the_tasks_give_our_own_items_in_every_wording(name: str, data: Path) -> None:
    manager = TaskManager(
        include_path=str(TASKS), include_defaults=False, metadata={"data": str(data)}
    )
    task = manager.load(f"vlmig_{name}")["tasks"][f"vlmig_{name}"]
    made = declaration(name).made()
    docs, items = list(task.eval_docs), made.load(data)
    expected = [(item, question) for item in items for question in item.questions]
    assert len(docs) == len(expected) and made.version == task.VERSION
    for doc, (item, question) in zip(docs, expected, strict=True):
        assert (doc["id"], doc["cluster"], doc["picture"]) == (item.id, item.cluster, item.picture)
        assert task.doc_to_text(doc) == doc["question"] == question.contexts[0]
        assert (task.doc_to_choice(doc), task.doc_to_target(doc)) == (
            list(question.continuations),
            question.answer,
        )


def test_there_is_a_file_for_each_task_and_one_group() -> None:
    objects = {"memory_color", "color_terms", "object_shape", "relative_size"}
    subsets = {
        f"imagenetvc_{kind}" for kind in ("color", "shape", "material", "component", "others")
    }
    assert set(NAMES) == objects | subsets
    group = yaml.safe_load((TASKS / "vlmig_imagenetvc.yaml").read_text())
    assert set(group["task"]) == {f"vlmig_{name}" for name in subsets}


def test_data_come_from_the_environment_too(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMIG_DATA", str(data))
    loaded = TaskManager(include_path=str(TASKS), include_defaults=False).load("vlmig_imagenetvc")
    assert len(loaded["tasks"]) == 5 and list(loaded["groups"]) == ["vlmig_imagenetvc"]


# The same numbers


@pytest.mark.parametrize("k", [0, 2])
def test_lm_eval_and_our_own_harness_agree_item_by_item(
    tiny: VLMIG, data: Path, tmp_path: Path, k: int
) -> None:
    tasks = ("memory_color", "relative_size", "imagenetvc_others")
    results = harness(VlmigLM(tiny, k=k), data, *tasks)
    evaluator = Evaluator(tiny, Settings(ks=(0, 2)), data, tmp_path)
    for name in tasks:
        task = declaration(name).made()
        _, items, records = zip(*evaluator.measure(task), strict=True)
        rescorer = Rescorer(task, items, records, tiny.config)
        found = rescorer.rescore(k, tiny.config.mix, tiny.config.weights)
        rows = sorted(results["samples"][f"vlmig_{name}"], key=lambda row: row["doc_id"])
        for row, own in zip(rows, found, strict=True):
            theirs = [response[0][0] for response in row["resps"]]
            assert theirs == pytest.approx(
                own, abs=1e-4
            )  # batches of other sizes: sums in another order
        for metric, normalized in (("acc", False), ("acc_norm", True)):
            differing = rescorer.correct(found, normalized) != [row[metric] for row in rows]
            assert differing.sum() == 0
            assert (
                results["results"][f"vlmig_{name}"][f"{metric},none"]
                == rescorer.correct(found, normalized).mean()
            )


def test_pictures_change_what_lm_eval_sees(tiny: VLMIG, data: Path) -> None:
    """Or the agreement above would say nothing."""
    alone, seen = (
        harness(VlmigLM(tiny, k=k), data, "memory_color")["samples"]["vlmig_memory_color"]
        for k in (0, 2)
    )
    for one, two in zip(alone, seen, strict=True):
        before, after = (np.array([r[0][0] for r in row["resps"]]) for row in (one, two))
        assert np.abs(before - after).max() > 1e-3
        assert np.logaddexp.reduce(before) == pytest.approx(np.logaddexp.reduce(after)), (
            "pictures only share it out"
        )


PAIRS = [
    ("What color is a brick?", " red"),
    ("What color is a brick?", " green"),
    ("Who is ", "red"),  # the space belongs to what follows
    ("", "A red brick"),
    ("One two three.\n\nFour", " five six"),
    ("<|endoftext|>Who is ", "red"),
    ("Who is it? " * 20, "red"),  # longer than the tiny LM's 96 positions
]


def test_text_only_equals_lm_evals_own_model(tiny: VLMIG, base: HFLM) -> None:
    requests = [r for i, pair in enumerate(PAIRS) for r in asked(pair, id=i)]
    ours, theirs = VlmigLM(tiny, k=0).loglikelihood(requests), base.loglikelihood(requests)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-5)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert tiny.loglikelihood(PAIRS, k=0) == pytest.approx([v for v, _ in theirs], abs=1e-5)
    together = VlmigLM(tiny, k=0).loglikelihood(asked(*PAIRS))
    assert [value for value, _ in together] == pytest.approx(
        [value for value, _ in theirs], abs=1e-5
    )


def test_whole_tasks_without_pictures_equal_lm_evals_own_model(
    tiny: VLMIG, base: HFLM, data: Path
) -> None:
    tasks = ("relative_size", "imagenetvc_others", "object_shape")
    ours, theirs = (harness(model, data, *tasks)["samples"] for model in (VlmigLM(tiny, k=0), base))
    for name, rows in ours.items():
        for own, other in zip(rows, theirs[name], strict=True):
            # A millionth of the sums, which reach -40: what fp32 keeps.
            assert [r[0][0] for r in own["resps"]] == pytest.approx(
                [r[0][0] for r in other["resps"]], rel=1e-6
            )
            assert [r[0][1] for r in own["resps"]] == [r[0][1] for r in other["resps"]]


def test_greedy_is_what_generation_writes(tiny: VLMIG) -> None:
    context = "What"
    texts = [tiny.generate([context], k, max_new_tokens=4, do_sample=False)[0] for k in (0, 2)]
    assert texts[0] != texts[1], "pictures change what is generated"
    for k, own, other in ((0, *texts), (2, *reversed(texts))):
        model = VlmigLM(tiny, k=k)
        verdicts = [model.loglikelihood(asked((context, text)))[0][1] for text in (own, other)]
        assert verdicts == [True, False]
    candidates = VlmigLM(tiny, k=2).loglikelihood(asked(*((context, text) for text in texts)))
    assert [greedy for _, greedy in candidates] == [True, False], (
        "candidates: what text alone would write"
    )


LONG = " ".join(f"{i} is not {i + 1}." for i in range(20))
"""Three times what the tiny LM takes at once. (lm-eval's own model mistakes windows of a text that
repeats itself.)"""


@pytest.mark.parametrize("text", ["A red brick.", "", LONG])
def test_rolling_equals_lm_evals_own_model(tiny: VLMIG, base: HFLM, text: str) -> None:
    requests = asked((text,), kind="loglikelihood_rolling")
    ours, theirs = (
        VlmigLM(tiny, k=0).loglikelihood_rolling(requests),
        base.loglikelihood_rolling(requests),
    )
    assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-6)


def test_rolling_mixes_at_every_token(tiny: VLMIG) -> None:
    text = "A red brick."
    (found,) = VlmigLM(tiny, k=2).loglikelihood_rolling(
        asked((text,), kind="loglikelihood_rolling")
    )
    visuals = tiny.imagine([text], 2, policy=None)
    (behind,) = tiny.token_log_probs(tiny.tokenizer.bos_token + text, visuals[0], [2])
    assert found == pytest.approx(behind.sum().item(), abs=1e-4)
    assert found != pytest.approx(
        VlmigLM(tiny, k=0).loglikelihood_rolling(asked((text,)))[0], abs=1e-2
    )


# Requests


def test_candidates_may_stand_apart_and_twice(tiny: VLMIG) -> None:
    """lm-eval repeats requests, and mixes documents and tasks."""
    model, pairs = VlmigLM(tiny, k=2), PAIRS[:2]
    one, two = asked(*pairs), asked(("A dog", " barks"), ("A dog", " sings"), id=1)
    plain = model.loglikelihood([*one, *two])
    turned = model.loglikelihood([two[1], one[0], one[0], two[0], one[1]])
    expected = [plain[3], plain[0], plain[0], plain[2], plain[1]]
    assert [value for value, _ in turned] == pytest.approx(
        [value for value, _ in expected], abs=1e-5
    )


def test_contexts_of_their_own_have_pictures_of_their_own(tiny: VLMIG) -> None:
    """As in lm-eval's winogrande: the candidates stand in the context."""
    pairs = [("The pie was too", " small."), ("The box was too", " small.")]
    found = VlmigLM(tiny, k=2).loglikelihood(asked(*pairs))
    contexts = [context for context, _ in pairs]
    visuals = tiny.imagine(contexts, 2, policy=None)
    parts = tiny.score(contexts, [[own] for _, own in pairs], visuals, verbatim=True)
    expected = Scores.joined(parts).loglikelihoods(2, Mixture.of(tiny.config))
    assert [value for value, _ in found] == pytest.approx(expected, abs=1e-5)


def test_a_documents_picture_is_shared_by_its_contexts(tiny: VLMIG) -> None:
    tiny.config.weights = "clip"  # a cosine for each picture, not for each candidate
    pairs = [("The pie was too", " small."), ("The box was too", " small.")]
    found = VlmigLM(tiny, k=2).loglikelihood(asked(*pairs, doc={"picture": "a pie"}))
    (seen,) = tiny.imagine(["a pie"], 2)
    parts = tiny.score(
        [context for context, _ in pairs], [[own] for _, own in pairs], [seen] * 2, verbatim=True
    )
    joined = Scores.joined(parts)
    joined.alignment = seen.alignment.numpy()
    assert [v for v, _ in found] == pytest.approx(
        joined.loglikelihoods(2, Mixture.of(tiny.config)), abs=1e-5
    )


def test_learned_weights_and_generic_pictures_decide_between_candidates(tiny: VLMIG) -> None:
    torch.manual_seed(0)
    tiny.model.generic_features = torch.randn(3, *tiny.model.blank_features.shape)
    learned = {"features": dict.fromkeys(FEATURES, [0.1, 0.5, -0.7]), "intercept": 0.2}
    tiny.config.learned, tiny.config.mix, tiny.config.weights = learned, "contrast", "learned"
    model, context = VlmigLM(tiny, k=2), "The color of a cat is"
    found = model.loglikelihood(asked((context, " red"), (context, " dark blue")))
    seen = tiny.imagine([context], 2, policy=None)
    (scores,) = tiny.score([context], [[" red", " dark blue"]], seen, verbatim=True, generic=True)
    expected = scores.loglikelihoods(2, Mixture.of(tiny.config))
    assert [value for value, _ in found] == pytest.approx(expected, abs=1e-5)
    lone = model.loglikelihood(asked((context, " red")))[0][0]
    (alone,) = tiny.score([context], [[" red"]], seen, verbatim=True, generic=True)
    by_entropy = alone.sequences(2, Mixture.of(tiny.config, "contrast", "entropy"))
    assert lone == pytest.approx(by_entropy[0], abs=1e-5), "it has none to be compared with"


def test_a_lone_text_is_mixed_as_a_whole(tiny: VLMIG) -> None:
    pairs = [("The color of a cat is", " dark red"), ("A dog", " and a cat")]
    found = VlmigLM(tiny, k=2, seed=1).loglikelihood(
        [r for i, pair in enumerate(pairs) for r in asked(pair, id=i)]
    )
    assert [v for v, _ in found] == pytest.approx(
        tiny.loglikelihood(pairs, 2, seed=1, per="sequence"), abs=1e-5
    )


def test_unconditional_candidates_are_a_question_of_their_own(tiny: VLMIG) -> None:
    """lm-eval's acc_mutual_info asks for every choice with and without the context."""
    own, alone = [("A brick is", " red"), ("A brick is", " green")], [("", " red"), ("", " green")]
    doc = {"picture": "a brick"}
    together = VlmigLM(tiny, k=2).loglikelihood(asked(*own, *alone, doc=doc))
    apart = VlmigLM(tiny, k=2).loglikelihood(asked(*own, doc=doc)) + VlmigLM(
        tiny, k=0
    ).loglikelihood(asked(*alone))
    assert [v for v, _ in together] == pytest.approx([v for v, _ in apart], abs=1e-5)


def test_what_is_imagined(tiny: VLMIG) -> None:
    shots = "Answer briefly.\n\nQuestion: What color is tar?\nAnswer: black\n\nQuestion: What color is a brick?\n\nAnswer:"
    assert last_paragraph(shots) == "Question: What color is a brick?"
    drawn = VlmigLM(tiny, k=1)
    drawn.loglikelihood(asked((shots, " red"), (shots, " blue")))
    assert tiny.imagination.tally.drawn == 1
    tiny.imagine(["a brick"], 1)
    assert tiny.imagination.tally.drawn == 1, "that picture is there: the last question's subject"
    questions, _ = gathered(asked(("A brick is", " red"), ("A brick is", " blue")), "option")
    assert [group.prompt for group in questions[0].groups] == [
        ("A brick is red", "question"),
        ("A brick is blue", "question"),
    ]
    questions, _ = gathered(asked(("x", "y"), doc={"picture": b"pixels"}), "question")
    assert questions[0].groups[0].prompt == ("x", "question"), (
        "a field of that name may hold anything"
    )


def test_pictures_come_first_and_each_context_is_read_once(tiny: VLMIG, data: Path) -> None:
    order: list[str] = []
    tiny.model.language_model.get_decoder().register_forward_hook(lambda *_: order.append("read"))
    fill = tiny.imagination.fill
    tiny.imagination.fill = lambda *a, **b: (order.append("imagine"), fill(*a, **b))[1]  # type: ignore[method-assign]
    model = VlmigLM(tiny, k=2, batch_size=1)
    requests = [
        r
        for i in range(3)
        for r in asked((f"Question {i} is", " b"), (f"Question {i} is", " c"), id=i)
    ]
    model.loglikelihood(requests)
    assert order == ["imagine"] + ["read"] * 3


def test_answers_do_not_depend_on_the_number_of_threads(tiny: VLMIG) -> None:
    pairs = [
        (f"The number {i} is" + " very" * (i % 5), own) for i in range(9) for own in (" red", " b")
    ]
    requests = [r for i in range(9) for r in asked(*pairs[2 * i : 2 * i + 2], id=i)]
    found, threads = [], torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        try:
            found.append(VlmigLM(tiny, k=2, batch_size=2).loglikelihood(requests))
        finally:
            torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]


def test_generation_stops(tiny: VLMIG) -> None:
    contexts = ["The color of a brick is", "A dog\n"]
    whole = tiny.generate(contexts, 2, max_new_tokens=20, do_sample=False)
    until = whole[0][4:6]
    rules = {"until": [until], "max_gen_toks": 20, "do_sample": False}
    requests = [
        r
        for i, context in enumerate(contexts)
        for r in asked((context, rules), kind="generate_until", id=i)
    ]
    steps: list[int] = []
    tiny.model.language_model.get_decoder().register_forward_hook(lambda *_: steps.append(1))
    first = VlmigLM(tiny, k=2).generate_until(requests[:1])
    assert first == [whole[0].split(until)[0]] and len(steps) < 10, (
        "it went on behind the stop text"
    )
    both = VlmigLM(tiny, k=2).generate_until(requests)
    assert both == [text.split(until)[0] for text in whole]
    assert before_stop("a b c", ["c", "b"]) == "a "


def test_generation_equals_lm_evals_own_model(tiny: VLMIG, base: HFLM) -> None:
    rules = {"until": ["\n\n"], "max_gen_toks": 12}
    contexts = ["The color of a brick is", "A dog\n"]
    requests = [
        r
        for i, c in enumerate(contexts)
        for r in asked((c, dict(rules)), kind="generate_until", id=i)
    ]
    assert VlmigLM(tiny, k=0).generate_until(requests) == base.generate_until(requests)


# Around it


def test_results_say_what_decided_them(tiny: VLMIG, data: Path) -> None:
    config = harness(VlmigLM(tiny, k=2, seed=3), data, "color_terms")["config"]
    assert (config["k"], config["seed"], config["policy"]) == (2, 3, "subject")
    assert (config["mix"], config["weights"]) == (tiny.config.mix, tiny.config.weights)
    assert config["identity"] == tiny.imagination.identity


def test_our_results_are_readable_as_lm_evals(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    evaluator = Evaluator(tiny, Settings(ks=(0, 2)), data, tmp_path)
    measure_tasks(evaluator, [declaration("memory_color").made()])
    written = json.loads((tmp_path / "results.json").read_text())
    shown = make_table(written)
    assert f"{written['results']['memory_color']['acc,none']:.4f}" in shown and "acc_norm" in shown
    theirs = harness(VlmigLM(tiny, k=2), data, "memory_color")
    row = json.loads((tmp_path / "samples_memory_color.jsonl").read_text().splitlines()[0])
    assert set(theirs["samples"]["vlmig_memory_color"][0]) - {"acc_norm"} <= set(row)
    assert {
        "results",
        "configs",
        "versions",
        "n-shot",
        "n-samples",
        "config",
        "git_hash",
        "date",
    } <= set(written)


def test_the_command_runs_lm_eval(
    tiny: VLMIG, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.model.save_pretrained(tmp_path / "checkpoint")
    model = f"pretrained={tmp_path / 'checkpoint'},k=1,store={tmp_path / 'store'},batch_size=2"
    task = ["--tasks", "vlmig_relative_size", "--metadata", f"data={data}", "--limit", "3"]
    status = main(
        [
            "lm-eval",
            *task,
            "--model_args",
            model,
            "--output_path",
            str(tmp_path / "out"),
            "--log_samples",
        ]
    )
    assert status == 0
    assert "vlmig_relative_size" in capsys.readouterr().out
    (results,) = (tmp_path / "out").rglob("results_*.json")
    config = json.loads(results.read_text())["config"]
    assert (config["model"], config["k"], config["limit"]) == ("vlmig", 1, 3.0)
    (samples,) = (tmp_path / "out").rglob("samples_vlmig_relative_size_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    doc = rows[0]["doc"]
    found = tiny.score([doc["question"]], [doc["choices"]], tiny.imagine([doc["picture"]], 1))[0]
    expected = found.loglikelihoods(1, Mixture.of(tiny.config))
    assert [float(response[0]) for response in rows[0]["filtered_resps"]] == pytest.approx(
        expected, abs=1e-4
    )


def test_without_lm_eval_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("vlmig.integrations.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["lm-eval", "--tasks", "x"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and 'pip install "vlmig[lm-eval]"' in error


def test_what_lm_eval_says_of_its_arguments_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong, said in (
        (["--log_samples"], "Specify --output_path"),
        (["--config", "gone.yaml"], "Config file not found"),
    ):
        assert main(["lm-eval", "--tasks", "x", *wrong]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(f"vlmig: lm-eval: {said}")


def test_other_models_and_folders_keep_their_place(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("include_path: mine\nbatch_size: 5\n")
    chosen = Namespace(model=None, include_path=None, config=str(tmp_path / "run.yaml"))
    complete(chosen)
    assert (chosen.model, chosen.include_path) == (
        "vlmig",
        [str(TASKS), "mine"],
    ) and "batch_size" not in chosen
    chosen = Namespace(model="hf", include_path="theirs", config=None)
    complete(chosen)
    assert (chosen.model, chosen.include_path) == (
        "hf",
        [str(TASKS), "theirs"],
    ) and "batch_size" not in chosen
    chosen = Namespace(model=None, include_path=None)
    complete(chosen)
    assert (chosen.model, chosen.batch_size) == ("vlmig", "32")


def test_vlmig_itself_never_imports_lm_eval() -> None:
    code = "import sys, vlmig.cli.main; vlmig.cli.main.build_parser(); sys.exit('lm_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": -1}, "k=-1; expected 0"),
        ({"k": "six"}, "k='six'; expected 0"),
        ({"policy": "all"}, "policy='all'; expected one of subject"),
        ({"batch_size": "many"}, "batch_size='many'; expected a positive number"),
        ({"mix": "prob"}, "mix beside a loaded model"),
    ],
)
def test_wrong_settings_are_said_in_one_line(
    tiny: VLMIG, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(VLMIGError, match=message):
        VlmigLM(tiny, **fields)


def test_what_cannot_be_done_is_said_in_one_line(
    tiny: VLMIG, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VLMIGError, match="policy=option draws each answer"):
        VlmigLM(tiny, k=1, policy="option").loglikelihood(asked(PAIRS[0]))
    VlmigLM(tiny, k=0, policy="option").loglikelihood(asked(PAIRS[0]))  # nothing is drawn
    with pytest.raises(VLMIGError, match="--use_cache keeps answers by their text"):
        VlmigLM(tiny, k=1).set_cache_hook(None)  # type: ignore[arg-type]
    VlmigLM(tiny, k=0).set_cache_hook(None)  # type: ignore[arg-type]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(VLMIGError, match="WORLD_SIZE=2, but lm-eval runs in one process"):
        VlmigLM(tiny)
    monkeypatch.delenv("WORLD_SIZE")
    tiny.config.trained = False
    with pytest.raises(VLMIGError, match="the model's adapter is untrained"):
        VlmigLM(tiny, k=1)
    VlmigLM(tiny, k=0)


def test_model_args_go_before_lm_evals_own_options(tiny: VLMIG) -> None:
    made = VlmigLM.create_from_arg_obj(
        {"pretrained": tiny, "k": 1}, {"batch_size": "4", "device": "cuda:0"}
    )
    assert (made.batch, made.k) == (4, 1)
    made = VlmigLM.create_from_arg_obj(
        {"pretrained": tiny, "batch_size": 8}, {"batch_size": 1, "max_batch_size": None}
    )
    assert made.batch == 8
    assert VlmigLM(tiny, batch_size="auto:4").batch == 32


def test_a_cache_of_answers_belongs_to_one_model(tiny: VLMIG, tmp_path: Path) -> None:
    """lm-eval finds an answer by its text alone: another model would be given the first one's."""
    path = str(tmp_path / "answers.db")
    request = asked(("The color of a banana is", " yellow"))
    first = CachingLM(VlmigLM(tiny, k=0), path).loglikelihood(request)
    assert CachingLM(VlmigLM(tiny, k=0), path).loglikelihood(request) == first
    other = copy.copy(tiny)
    other.model = copy.deepcopy(tiny.model)
    with torch.no_grad():
        other.model.get_input_embeddings().weight += 1
    with pytest.raises(VLMIGError, match="a file with another model's answers"):
        CachingLM(VlmigLM(other, k=0), path)
