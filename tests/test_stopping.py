"""``k="auto"``: the gate, the sequential test, and that no picture is imagined which it does not
need."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from proof import PROOF
from scipy.special import log_softmax
from scipy.stats import binomtest

from eval import stopping
from vlmig import VLMIG
from vlmig.cli.main import main
from vlmig.errors import VLMIGError
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.fit_auto_k import (
    NEVER,
    THRESHOLDS,
    fit,
    in_random_orders,
    path,
    risks,
    shrinkage,
)
from vlmig.evaluation.fit_learned import examples
from vlmig.evaluation.fit_learned import fit as fit_learned
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.settings import Settings
from vlmig.evaluation.tasks.items import Item, Question, Task
from vlmig.models.config import VLMIGConfig
from vlmig.models.learned import Learned
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import Stopping, parse_k
from vlmig.predict.scores import Scores

RULES = [
    Mixture("evidence", strength=1.5),
    Mixture("logit", strength=1.0),
    Mixture("prob", strength=1.0),
]
ALWAYS = Stopping(sure=NEVER, spread=1.0, freedom=4.0, group=2, level=0.05)


def questions(
    rng: np.random.Generator, count: int, spread: float, pictures: int = 10, sure: float = 1.0
) -> list[Scores]:
    """Simulate questions of four candidates: pictures scatter around a truth of the question's
    own."""
    made = []
    for _ in range(count):
        text = log_softmax(sure * rng.normal(size=4))
        own = spread * np.sqrt(rng.chisquare(8) / 8)
        images = log_softmax(text + rng.normal(0, 1, 4) + rng.normal(0, own, (pictures, 4)), -1)
        made.append(Scores(text, images, text, np.ones(pictures)))
    return made


def test_variances_of_few_pictures_are_shrunk_as_far_as_they_deserve() -> None:
    """Smyth's estimates find the prior that the variances were drawn from."""
    rng = np.random.default_rng(0)
    for spread, freedom in ((0.5, 4.0), (2.0, 20.0)):
        own = spread**2 * freedom / rng.chisquare(freedom, 20_000)
        found = shrinkage(own * rng.chisquare(9, 20_000) / 9, 9)
        assert found == pytest.approx((spread, freedom), rel=0.1)
    assert shrinkage(np.array([]), 9) == (1.0, 1.0), "nothing is known"


@pytest.mark.scaled
@pytest.mark.parametrize("mixture", RULES, ids=lambda mixture: mixture.mix)
def test_if_pictures_scatter_normally_answers_change_at_most_twice_as_often_as_at_a_look(
    mixture: Mixture,
) -> None:
    rng, count = np.random.default_rng(1), 2000 if PROOF else 300
    rule = fit(questions(rng, 80, 0.7), mixture)
    asked = questions(rng, count, 0.7)
    for level in (0.05, 0.2):
        own = Stopping(NEVER, rule.spread, rule.freedom, group=2, level=level)
        used = np.array([own.used([one], mixture) for one in asked])
        early = [one.mixed(n, mixture).argmax() for one, n in zip(asked, used, strict=True)]
        changed = sum(
            a != one.mixed(10, mixture).argmax() for a, one in zip(early, asked, strict=True)
        )
        # Each of four looks may err; they look at the same pictures, so that together they err
        # hardly more often than one.
        assert binomtest(changed, count, 2 * level, alternative="greater").pvalue > 0.001, (
            changed,
            level,
        )
        assert used.mean() < 8 and used.min() == 2, "many stop early"
    assert {2, 10} <= set(used.tolist()) <= {2, 4, 6, 8, 10}


@pytest.mark.scaled
@pytest.mark.parametrize("name", stopping.SCATTERS)
def test_answers_change_no_more_often_than_the_level_whatever_the_pictures(name: str) -> None:
    """Of questions like those of the calibration; the level speaks of the mean over calibrations."""
    scatter, calibrations = stopping.SCATTERS[name], 60 if PROOF else 8
    rng = np.random.default_rng(0)
    shares: list[float] = []
    drawn: list[float] = []
    uncalibrated: list[float] = []
    for _ in range(calibrations):
        known, asked = scatter(rng, 60), scatter(rng, 200)
        rule = fit([known.at(i) for i in range(60)], stopping.MIXTURE)
        doubts, changed = path(asked, rule, stopping.MIXTURE)
        for threshold, found in ((rule.threshold, shares), (rule.level, uncalibrated)):
            stop = (doubts <= threshold).argmax(0)
            found.append(changed[stop, np.arange(200)].mean())
            drawn.append(stop.mean())
    # What a calibration allows varies with the 40 questions that chose it.
    error = np.std(shares, ddof=1) / np.sqrt(calibrations)
    assert np.mean(shares) < rule.level + 2 * error, (shares, error)
    assert np.mean(shares) > 0.02 and np.mean(drawn) < 8, "it stops early"
    if name != "normal":
        assert np.mean(uncalibrated) > 1.1 * rule.level, "the estimate alone promises too much"


@pytest.mark.parametrize("mixture", RULES, ids=lambda mixture: mixture.mix)
def test_stacked_questions_stop_where_each_would_by_itself(mixture: Mixture) -> None:
    rng = np.random.default_rng(3)
    asked = questions(rng, 12, 0.7)
    rule = Stopping(
        0.7, 0.7, 8.0, group=3, slope=1.3, risks=[[0.2, 0.4], [0.1, 0.05], [0.05, 0.04]]
    )
    assert rule.threshold == 0.1, "the greatest one that keeps the level"
    stacked = in_random_orders(asked, 4, rng)
    doubts, changed = path(stacked, rule, mixture)
    looks = [0, 3, 6, 9, 10]
    for i in range(48):
        single = stacked.at(i)
        n = rule.used([single], mixture)
        assert looks[(doubts[:, i] <= 0.1).argmax()] == n
        differs = single.mixed(n, mixture).argmax() != single.mixed(10, mixture).argmax()
        assert changed[looks.index(n), i] == differs
        own = asked[i // 4].per_image
        assert sorted(map(tuple, single.per_image)) == sorted(map(tuple, own)), "its own pictures"


def test_the_bound_of_a_threshold_by_hand() -> None:
    """Identical pictures have no order, so that each item's loss is that of a single path."""
    text = log_softmax(np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]), -1)
    alike = [Scores(t, np.tile(t[::-1], (10, 1)), t, np.ones(10)) for t in text]
    rule = Stopping(0.8, 0.5, 4.0, slope=1.0)
    # All pictures change every answer: text alone errs where the threshold ends it there. The
    # estimate is CHANGED where the odds are sure's, and falls by the slope.
    doubts = [1 / (1 + 9 * np.exp(odds - np.log(4))) for odds in (1, 2, 3)]
    one_kind, two_kinds = np.array([[0, 0], [0, 0], [0, 1]]), np.array([[0, 0], [0, 0], [1, 1]])
    for units in (one_kind, two_kinds):
        random = np.random.default_rng(0)
        found = dict(risks(alike, units, rule, Mixture("logit"), random))
        for threshold in THRESHOLDS:
            ends = [float(doubt <= threshold) for doubt in doubts]
            first, second = (ends[0] + ends[1]) / 2, ends[2]
            bound = (first + second + 1) / 3
            if units is two_kinds:
                bound = max((first + 1) / 2, (second + 1) / 2)
            assert found.get(threshold, 0.5) == pytest.approx(min(bound, 0.5), abs=1e-4)


def test_wordings_of_an_item_are_no_further_witnesses() -> None:
    asked = questions(np.random.default_rng(4), 30, 0.3)
    names = [f"{i:02}" for i in range(30)]
    once = fit(asked, RULES[0], items=names)
    thrice = fit(asked * 3, RULES[0], items=names * 3)
    least = [min(risk for _, risk in rule.risks) for rule in (once, thrice)]
    assert least[0] == pytest.approx(1 / 21, abs=2e-4), "twenty items choose the threshold"
    assert least[1] == pytest.approx(least[0], abs=0.01)
    assert (thrice.sure, thrice.spread) == pytest.approx((once.sure, once.spread), rel=0.1)
    strict = replace(once, level=0.03)
    assert strict.threshold < 0 and strict.used(asked[:1], RULES[0]) == 10, "nothing vouches for it"


def test_a_rule_of_before_reads_as_it_did() -> None:
    kept: dict[str, Any] = {
        "sure": 0.8,
        "spread": 0.7,
        "freedom": 3.5,
        "most": 10,
        "group": 1,
        "level": 0.1,
    }
    rule = Stopping(**kept)
    assert rule.described() == kept and rule.threshold == 0.1
    for probability, enough in ((0.79, False), (0.81, True)):
        text = np.log([probability, 1 - probability])
        one = Scores(text, np.tile(text, (10, 1)), text, np.ones(10))
        for level in (0.01, 0.1):
            assert replace(rule, level=level).enough(one, 0, RULES[0]) == enough


def test_pictures_that_agree_end_it_and_pictures_that_do_not_go_on() -> None:
    text = log_softmax(np.array([0.0, 0.1]))
    alike, torn = np.tile([[3.0, 0.0]], (10, 1)), np.resize([[3.0, 0.0], [0.0, 3.0]], (10, 2))
    mixture = RULES[0]
    for images, count in ((alike, 2), (torn, 10)):
        one = Scores(text, log_softmax(images, -1), text, np.ones(10))
        assert ALWAYS.used([one], mixture) == count
    both = [Scores(text, log_softmax(images, -1), text, np.ones(10)) for images in (alike, torn)]
    assert ALWAYS.used(both, mixture) == 10, "questions that share pictures wait for each other"


def test_the_gate_is_where_one_answer_in_ten_changes() -> None:
    rng = np.random.default_rng(2)
    told, untold = questions(rng, 400, 0.3, sure=8.0), questions(rng, 400, 0.3, sure=0.5)
    gate = fit([*told, *untold], RULES[0]).sure
    assert 0.6 < gate < 1
    rule = Stopping(gate, 0.3, 8.0)
    gated = [one for one in told + untold if rule.enough(one, 0, RULES[0])]
    changed = np.mean([one.text.argmax() != one.mixed(10, RULES[0]).argmax() for one in gated])
    assert len(gated) > 200 and changed < 0.1, "of those above it fewer change"
    doubtful = [Scores(one.text, one.per_image, one.text, one.alignment) for one in untold]
    for one in doubtful:  # the pictures always say something else
        one.per_image = np.tile(log_softmax(-8 * one.text)[None], (10, 1))
    assert fit(doubtful, RULES[0]).sure == NEVER


def test_what_cannot_be_calibrated_or_asked_is_said() -> None:
    with pytest.raises(
        VLMIGError, match=r"1 questions about 1 items beside 10 images; expected two"
    ):
        fit(questions(np.random.default_rng(0), 1, 1.0), RULES[0])
    with pytest.raises(
        VLMIGError, match=r"3 questions about 3 items beside 4 images; .* beside 10 images"
    ):
        fit(questions(np.random.default_rng(0), 3, 1.0, pictures=4), RULES[0])
    for k, said in (
        ("some", "expected a number of images, auto, or auto:LEVEL"),
        ("auto:much", "expected a number of images, auto, or auto:LEVEL"),
        ("auto:0.7", "expected an error level in"),
    ):
        with pytest.raises(VLMIGError, match=said):
            parse_k(k, ALWAYS.described())
    with pytest.raises(
        VLMIGError, match="was calibrated for it, and this one was not; expected vlmig calibrate"
    ):
        parse_k("auto", VLMIGConfig().auto)


@pytest.fixture()
def auto(tiny: VLMIG) -> VLMIG:
    """The tiny model with a rule under which some answers need few pictures and some all."""
    norm = tiny.model.language_model.transformer.ln_f
    for parameter in (norm.weight, norm.bias):
        parameter.data.mul_(
            0.02
        )  # a text model that is sure of nothing, so that random pictures have a say
    tiny.config.strength = 3.0
    tiny.config.auto = Stopping(
        sure=0.3495, spread=0.2, freedom=4.0, most=6, group=2, level=0.2
    ).described()
    return tiny


def colours(count: int) -> list[Item]:
    choices, wordings = ("a", "b", "c"), ("the color of {} is", "{} looks", "a picture of {}:")
    return [
        Item(
            str(i),
            f"thing{i}",
            f"thing {i}",
            choices,
            tuple(Question((w.format(f"thing {i}"),), choices, i % 3) for w in wordings),
        )
        for i in range(count)
    ]


def measured(
    model: VLMIG, out: Path, policy: str = "item", scoring: str = "whole", **settings: Any
) -> tuple[Any, list[Any]]:
    items = colours(9)
    chosen = Settings(policy=policy, **{"controls": ("none",), **settings})
    results = measure_tasks(
        Evaluator(model, chosen, out, out), [Task("things", lambda _: items, scoring=scoring)]
    )
    return results, [
        json.loads(line) for line in (out / "samples_things.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize(
    ("policy", "scoring"), [("item", "whole"), ("question", "whole"), ("item", "first_token")]
)
def test_an_evaluation_imagines_what_it_needs_and_finds_what_all_pictures_would_have_told(
    auto: VLMIG, tmp_path: Path, policy: str, scoring: str
) -> None:
    results, lines = measured(auto, tmp_path / "few", policy, scoring, ks=("auto",))
    drawn = auto.imagination.tally.drawn
    counts = [len(keys) for line in lines for keys in line["pictures"]]
    assert drawn == sum(counts)
    # The first sub-tokens of these candidates are one and the same, so that nothing is ever safe.
    assert len(set(counts)) > 2 if scoring == "whole" else set(counts) == {6}, (
        "some need none or few pictures"
    )
    whole, all_lines = measured(auto, tmp_path / "all", policy, scoring, ks=(0, 6, "auto"))
    assert auto.imagination.tally.drawn == 6 * len(counts)
    for few, every in zip(lines, all_lines, strict=True):
        assert (
            few["used"]
            == every["used"]
            == [len(k) for k in few["pictures"]] * (3 if policy == "item" else 1)
        )
        for own, other, n in zip(few["per_image"], every["per_image"], few["used"], strict=True):
            # The head sees fewer rows at a time, which rounds otherwise in the last digits.
            assert np.array(own) == pytest.approx(np.array(other[:n]), abs=1e-5)
    rows = [[c for c in r["vlmig"]["conditions"] if c["k"] == "auto"] for r in (results, whole)]
    assert rows[0][0]["acc"] == rows[1][0]["acc"] and rows[0][0]["pictures"] == pytest.approx(
        np.mean(counts)
    )
    assert (
        rows[0][0]["share"] == pytest.approx(np.mean(counts) / 6)
        and results["config"]["model_args"]["k"] == "auto"
    )
    assert any(c["b"] == "k=auto" for c in whole["vlmig"]["comparisons"])


def test_a_run_that_was_measured_imagines_nothing_again(auto: VLMIG, tmp_path: Path) -> None:
    measured(auto, tmp_path, ks=("auto",))
    drawn = auto.imagination.tally.drawn
    measured(auto, tmp_path, ks=("auto",))
    assert auto.imagination.tally.drawn == drawn
    measured(auto, tmp_path, ks=("auto:0.01",))  # another level is another measurement
    assert auto.imagination.tally.drawn >= drawn


def test_ask_and_loglikelihood_stop_at_the_same_picture(auto: VLMIG) -> None:
    choices = ["a", "b", "c"]
    counts = set()
    for thing in ("cat", "dog", "leaf", "sky", "sea", "stone"):
        answer = auto.ask(f"what is the color of a {thing}?", choices, k="auto")
        n = len(answer.images)
        counts.add(n)
        assert answer.probabilities == pytest.approx(
            auto.ask(f"what is the color of a {thing}?", choices, k=n).probabilities, abs=1e-5
        )
        pairs = [(f"Question: what is the color of a {thing}? Answer:", f" {c}") for c in choices]
        found = auto.loglikelihood(pairs, k="auto")
        assert any(
            found == pytest.approx(auto.loglikelihood(pairs, k=k), abs=1e-5) for k in (0, 2, 4, 6)
        )
    assert len(counts) > 1
    with pytest.raises(
        VLMIGError, match="expected choices, and neither images nor steps, or a number"
    ):
        auto.ask("what is the color of a cat?", k="auto")
    with pytest.raises(VLMIGError, match="expected choices"):
        auto.loglikelihood([("the cat is", " red")], k="auto")


def test_texts_begin_with_as_many_images_as_their_first_word_needs(auto: VLMIG) -> None:
    """The text is the one with that many images given, and its first word that of the rule run
    over the whole vocabulary."""
    prompts = [f"the {thing} is" for thing in ("cat", "dog", "leaf", "sky", "sea", "stone")]
    auto.imagination.tally.drawn = 0
    texts = auto.generate(prompts, k="auto", max_new_tokens=3, do_sample=False)
    drawn = auto.imagination.tally.drawn
    assert 0 < drawn < 6 * len(prompts) or auto.config.auto["most"] != 6
    counts = []
    for prompt, text in zip(prompts, texts, strict=True):
        same = []
        for n in (0, 2, 4, 6):
            (with_n,) = auto.generate([prompt], k=n, max_new_tokens=3, do_sample=False)
            same += [n] if with_n == text else []
        assert same, "one of the numbers of images gives the text"
        counts.append(same[0])
    assert sum(counts) <= drawn
    with pytest.raises(VLMIGError, match="expected choices, and neither images nor steps"):
        auto.generate(prompts[:1], k="auto", visuals=auto.imagine(prompts[:1], 1))


def test_an_evaluation_says_where_auto_cannot_be(auto: VLMIG, tmp_path: Path) -> None:
    with pytest.raises(
        VLMIGError, match=r"the control shuffled with k='auto'.*expected --k auto,6"
    ):
        measured(auto, tmp_path, ks=("auto",), controls=("none", "shuffled"))
    with pytest.raises(VLMIGError, match="one auto among them"):
        Settings(ks=("auto", "auto:0.1"))
    with pytest.raises(VLMIGError, match="whose answers do not share images"):
        measured(auto, tmp_path, "option", ks=("auto",))


def test_a_checkpoint_is_calibrated_by_a_run(
    auto: VLMIG, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    auto.model.save_pretrained(tmp_path / "model")
    measured(auto, tmp_path / "run", ks=(0, 10))
    store = auto.imagination.store.path.parent
    command = ["calibrate", str(tmp_path / "run"), "--model", str(tmp_path / "model")]
    assert main([*command, "--store", str(store)]) == 0
    printed = capsys.readouterr().out
    assert "images change one answer in ten at a probability of" in printed
    assert "these items vouch for no level below 0.1" in printed, "six items are too few"
    assert "8 generic images kept" in printed and "learned weights: of 270 images" in printed
    config = VLMIGConfig.from_pretrained(tmp_path / "model")
    seen = auto.imagine([item.picture for item in colours(9)], 10)
    pairs = [(q, own) for item, own in zip(colours(9), seen, strict=True) for q in item.questions]
    scores = auto.score(
        [q.contexts[0] for q, _ in pairs],
        [q.continuations for q, _ in pairs],
        [own for _, own in pairs],
    )
    names = [item.cluster for item in colours(9) for _ in item.questions]
    kinds = ["things"] * len(names)
    expected = fit(scores, Mixture.of(auto.config), items=names, kinds=kinds).described()
    found = dict(config.auto or {})
    assert np.array(found.pop("risks")) == pytest.approx(np.array(expected.pop("risks")), abs=0.02)
    assert found == pytest.approx(expected, rel=1e-2)
    parse_k("auto", config.auto)
    answers = [(own, q.answer, "") for own, (q, _) in zip(scores, pairs, strict=True)]
    found = examples(answers, 10)
    trust = torch.from_numpy(found.features)
    expected = fit_learned(found.features, found.helped).trust(trust)
    # The samples have six decimals, some features hardly vary here.
    assert torch.allclose(Learned.of(config.learned).trust(trust), expected, atol=1e-3)
    loaded = VLMIG.from_pretrained(tmp_path / "model", store=store)
    shown = [own.features[0] for own in seen]
    for kept in loaded.model.generic_features:
        assert any(torch.equal(kept, own) for own in shown), "each is an object's first picture"
    measured(auto, tmp_path / "few", ks=(0, 2))
    for arguments, said in (
        (["calibrate", str(tmp_path / "run"), "--model", str(tmp_path)], "no checkpoint in"),
        (
            ["calibrate", str(tmp_path / "few"), "--model", str(tmp_path / "model")],
            "27 questions about 9 items beside 2 images; expected",
        ),
        (["calibrate", str(tmp_path / "none"), "--model", str(tmp_path / "model")], "results.json"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
