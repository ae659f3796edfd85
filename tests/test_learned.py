"""Learned weights: the features written out plainly, the regression beside scikit-learn's own, and
where they can be used."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vlmig import VLMIG
from vlmig.errors import VLMIGError
from vlmig.evaluation.fit_learned import cross_fitted, described, examples, fit, quality
from vlmig.models.config import VLMIGConfig
from vlmig.models.learned import Learned
from vlmig.models.mixture import Mixture
from vlmig.predict.scores import Scores

PAIRS = [("A cat is", " red"), ("A cat is", " dark blue"), ("A dog is", " red"), ("A dog is", " r")]


def questions(rng: np.random.Generator, count: int = 40) -> list[tuple[Scores, int, str]]:
    """Questions of four candidates beside three pictures, two about each object."""
    made = []
    for i in range(count):
        text, blank = log_softmax(rng.normal(0, 2, (2, 4)), -1)
        images = log_softmax(rng.normal(0, 2, (3, 4)), -1)
        scores = Scores(text, images, blank, rng.uniform(0, 1, 3))
        made.append((scores, int(rng.integers(4)), f"object {i // 2}"))
    return made


def fitted(seed: int = 0) -> Learned:
    found = examples(questions(np.random.default_rng(seed)), 3)
    return fit(found.features, found.helped)


def test_features_are_what_they_are_called(rng: np.random.Generator) -> None:
    scores, right, _ = questions(rng, 1)[0]
    found = examples([(scores, right, "")], 3)
    best = scores.per_image.argmax(-1)
    for i, image in enumerate(scores.per_image):
        others = [best[j] == best[i] for j in range(3) if j != i]
        moved = entropy(np.exp(image), np.exp(scores.blank))  # scipy's relative entropy
        ordered = np.sort(scores.text)
        plain = [
            scores.alignment[i],
            entropy(np.exp(image), base=4),
            entropy(np.exp(scores.text), base=4),
            (sum(others) + 0.5) / 3,
            np.log1p(moved),
            ordered[-1] - ordered[-2],
        ]
        assert found.features[0, i] == pytest.approx(plain)
        assert found.helped[0, i] == (image[right] > scores.text[right])


def test_stacked_questions_are_described_as_one_by_one(rng: np.random.Generator) -> None:
    made = questions(rng, 5)
    parts = [scores for scores, _, _ in made]
    stacked = Scores.stacked(parts)
    for number, part in enumerate(parts):
        assert np.array_equal(stacked.at(number).per_image, part.per_image)
        assert np.array_equal(stacked.at(np.array([0, number])).alignment[:, 1], part.alignment)
    right = np.array([answer for _, answer, _ in made])
    features, helped = described(stacked, right, 3)
    found = examples(made, 3)
    assert np.allclose(features, found.features) and np.array_equal(helped, found.helped)


def test_the_trust_is_that_of_scikit_learn_and_survives_the_checkpoint() -> None:
    found = examples(questions(np.random.default_rng(0)), 3)
    rows, helped = found.features.reshape(-1, 6), found.helped.ravel()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, helped)
    expected = pipeline.predict_proba(rows)[:, 1]
    learned = fit(found.features, found.helped)
    stored = json.loads(VLMIGConfig(learned=learned.described()).to_json_string())["learned"]
    assert list(stored["features"]) != list(learned.described()["features"]), "sorted by name"
    for kept in (learned, Learned.of(stored)):  # six digits are kept
        trust = kept.trust(torch.from_numpy(found.features)).numpy().ravel()
        assert trust == pytest.approx(expected, abs=1e-4)
    # An unknown similarity counts as a typical one.
    typical = np.array([learned.mean[0], *rows[0, 1:]])
    unknown = np.array([np.nan, *rows[0, 1:]])
    assert torch.equal(*(learned.trust(torch.from_numpy(row)) for row in (typical, unknown)))
    every = fit(found.features, np.ones_like(found.helped))
    assert set(every.slope) == {0.0} and every.intercept == pytest.approx(np.log(121))


def test_noise_is_not_told_apart_on_other_objects_and_a_signal_is() -> None:
    made = questions(np.random.default_rng(1), 200)
    noise = quality(examples(made, 3))
    # 600 pictures: three standard errors of an AUROC without signal are 0.07; but the right
    # answer's rank in the text's own distribution is a little of a signal.
    assert noise.brier <= noise.helped * (1 - noise.helped) + 0.02
    told = [(replaced(s, right), right, name) for s, right, name in made]
    signal = quality(examples(told, 3))
    assert signal.auroc > max(0.9, noise.auroc + 0.1)


def replaced(scores: Scores, right: int) -> Scores:
    """Make pictures that raise the right answer fit their prompt."""
    helped = scores.per_image[:, right] > scores.text[right]
    return Scores(scores.text, scores.per_image, scores.blank, helped.astype(float))


def test_cross_fitting_never_sees_the_object(rng: np.random.Generator) -> None:
    made = questions(rng, 20)
    before = cross_fitted(examples(made, 3))
    turned = [(s, (right + (i < 2)) % 4, name) for i, (s, right, name) in enumerate(made)]
    after = cross_fitted(examples(turned, 3))
    assert np.array_equal(before[:2], after[:2]) and not np.array_equal(before, after)


def by_the_paper(trust: np.ndarray, images: np.ndarray, text: float) -> float:
    """Equation 2 for one outcome, by log-probabilities beside each image and from text alone."""
    return float(np.log(np.mean(trust * np.exp(images) + (1 - trust) * np.exp(text))))


def test_learned_weights_answer_and_score_continuations(tiny: VLMIG) -> None:
    tiny.config.learned = fitted().described()
    tiny.config.mix, tiny.config.weights = "prob", "learned"
    visuals = tiny.imagine(["A cat is"], 3, policy=None)
    contexts, choices = [context for context, _ in PAIRS[:2]], [[PAIRS[0][1]], [PAIRS[1][1]]]
    scores = tiny.score(contexts, choices, visuals * 2, verbatim=True)
    cat = Scores.joined(scores)
    cat.alignment = scores[0].alignment
    trust = Learned.of(tiny.config.learned).trust(
        torch.from_numpy(examples([(cat, 0, "")], 3).features[0])
    )
    plain = [by_the_paper(trust.numpy(), s.per_image[:, 0], s.text[0]) for s in scores]
    found = tiny.loglikelihood(PAIRS, k=3, per="sequence")
    assert found[:2] == pytest.approx(plain, abs=1e-5)
    answer = tiny.ask("What is the color of a cat?", ["red", "blue"], k=3)
    text, images = list(answer.text_only.values()), [list(p.values()) for p in answer.per_image]
    # Nearly all falls on one answer here, so the differences are in the logarithms.
    low, high = np.minimum(text, np.min(images, 0)), np.maximum(text, np.max(images, 0))
    shown = np.array(list(answer.probabilities.values()))
    assert ((low * (1 - 1e-6) <= shown) & (shown <= high * (1 + 1e-6))).all()
    assert np.log(shown) != pytest.approx(np.log(text), abs=1e-2)


def test_where_learned_weights_cannot_be_used_one_line_says_so(tiny: VLMIG) -> None:
    with pytest.raises(VLMIGError, match="this checkpoint has none; expected vlmig calibrate RUN"):
        tiny.ask("What is the color of a cat?", ["red", "blue"], k=1, weights="learned")
    with pytest.raises(VLMIGError, match="none; expected vlmig calibrate RUN"):
        Mixture("prob", "learned")
    tiny.config.learned, tiny.config.weights = {"features": {"size": [0, 1, 1]}}, "learned"
    with pytest.raises(VLMIGError, match="learned weights of size in the configuration"):
        tiny.loglikelihood(PAIRS, k=1)


@pytest.mark.parametrize("mix", ["evidence", "prob"])
def test_a_text_that_is_continued_is_mixed_with_entropy_weights(tiny: VLMIG, mix: str) -> None:
    tiny.config.learned, tiny.config.mix = fitted().described(), mix

    def read(weights: str) -> list[object]:
        tiny.config.weights = weights
        return [
            tiny.loglikelihood(PAIRS, k=3),
            tiny.loglikelihood(PAIRS[:1], k=3, per="sequence"),
            tiny.generate(["A cat is", "A dog"], k=3, max_new_tokens=4),
            tiny.token_log_probs("A cat is red", tiny.imagine(["a cat"], 3)[0], [3])[0].tolist(),
        ]

    assert read("learned") == read("entropy") != read("uniform")
    with pytest.raises(ValueError, match="learned weights compare candidates"):
        Mixture.of(tiny.config, mix, "learned").trust(torch.ones(3))
