"""The predictor: scores agree with the model's own predictions, batched or one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlmig import VLMIG, VLMIGError
from vlmig.scoring import Scores, collect_jobs, encode_pair

CONTEXTS = ["The color of a cat is", "Q: dog? A:", "x"]
CHOICES = [("red", "blue", "dark red"), ("red", "no"), ("red", "blue")]


def test_text_scores_equal_the_base_lms_log_probabilities(tiny: VLMIG) -> None:
    visuals = tiny.imagine(["a cat"], k=0) * 3
    for context, options, scores in zip(CONTEXTS, CHOICES, tiny.score(CONTEXTS, CHOICES, visuals), strict=True):
        for option, value in zip(options, scores.text, strict=True):
            ids, split = encode_pair(tiny.tokenizer, context, " " + option, None)
            with torch.no_grad():
                plain = tiny.model.language_model(torch.tensor([ids])).logits[0].log_softmax(-1)
            expected = sum(plain[i - 1, ids[i]].item() for i in range(split, len(ids)))
            assert value == pytest.approx(expected, abs=2e-5)


def test_batched_scores_equal_single_ones_and_k_is_a_prefix(tiny: VLMIG) -> None:
    visuals = tiny.imagine(["a cat", "a dog", "the sea"], k=3)
    together = tiny.score(CONTEXTS, CHOICES, visuals)
    for i, scores in enumerate(together):
        alone = tiny.score(CONTEXTS[i : i + 1], CHOICES[i : i + 1], visuals[i : i + 1], batch=1)[0]
        fewer = tiny.score(CONTEXTS[i : i + 1], CHOICES[i : i + 1], tiny.imagine([visuals[i].prompt], k=2))[0]
        for name in ("text", "per_image", "blank"):
            assert np.allclose(getattr(scores, name), getattr(alone, name), atol=2e-5)
        assert np.allclose(scores.per_image[:2], fewer.per_image, atol=2e-5)


def test_loglikelihood_is_the_model_s_mixture_token_by_token(tiny: VLMIG) -> None:
    context, continuation = "The color of a cat is", " dark red"
    visuals = tiny.imagine(["a cat"], k=2)[0]
    ids, split = encode_pair(tiny.tokenizer, context, continuation, None)
    with torch.no_grad():
        log_probs = tiny.model(torch.tensor([ids]), visual_features=visuals.features[None]).logits[0]
    expected = sum(log_probs[i - 1, ids[i]].item() for i in range(split, len(ids)))
    assert tiny.loglikelihood([(context, continuation)], k=2)[0] == pytest.approx(expected, abs=2e-5)


def test_candidates_of_one_token_share_their_reading(tiny: VLMIG) -> None:
    jobs = collect_jobs(tiny.model, tiny.tokenizer, ["The color is"], [(" x", " b", " g")])
    assert [len(job.targets) for job in jobs] == [3]


def test_a_token_that_spans_the_join_belongs_to_the_continuation(tiny: VLMIG) -> None:
    # " r" is one token of the tiny vocabulary, so a context ending in a space loses that space to the continuation.
    ids, split = encode_pair(tiny.tokenizer, "a ", "red", None)
    assert ids == tiny.tokenizer("a red").input_ids
    assert tiny.tokenizer.decode(ids[split:]) == " red"


def test_long_texts_lose_their_left_end(tiny: VLMIG) -> None:
    ids, split = encode_pair(tiny.tokenizer, "a" * 200, " red", limit=50)
    assert len(ids) == 50 and tiny.tokenizer.decode(ids[split:]) == " red"
    assert np.isfinite(tiny.loglikelihood([("a" * 200, " red")], k=1)[0])


def test_an_answer_shows_what_it_rests_on(tiny: VLMIG) -> None:
    answer = tiny.ask("What is the color of a cat?", choices=["red", "blue"], k=3)
    assert answer.answer in ("red", "blue")
    assert len(answer.images) == len(answer.per_image) == len(answer.weights) == 3
    for distribution in (answer.probabilities, answer.text_only, *answer.per_image):
        assert sum(distribution.values()) == pytest.approx(1.0, abs=1e-5)
    assert answer.prompt == "a cat"
    assert answer.seconds["imagine"] > 0


def test_asking_without_pictures_or_choices_works(tiny: VLMIG) -> None:
    text_only = tiny.ask("What is the color of a cat?", choices=["red", "blue"], k=0)
    assert text_only.probabilities == pytest.approx(text_only.text_only, abs=1e-6)
    assert tiny.ask("A cat is", k=1).answer


def test_generation_in_a_batch_equals_one_by_one(tiny: VLMIG) -> None:
    prompts = ["A cat is", "Some other dogs are", "x"]
    together = tiny.generate(prompts, k=2, max_new_tokens=4, do_sample=False)
    assert together == [tiny.generate([prompt], k=2, max_new_tokens=4, do_sample=False)[0] for prompt in prompts]


PAIRS = [("The color of a cat is", " dark red"), ("", "red"), ("A dog ", "red"), ("a" * 200, " blue sea"), ("x", ".")]


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_batched_loglikelihoods_equal_single_ones(tiny: VLMIG, per: str) -> None:
    together = tiny.loglikelihood(PAIRS, k=2, per=per)
    assert together == pytest.approx([tiny.loglikelihood([pair], k=2, per=per)[0] for pair in PAIRS], abs=2e-5)


def test_mixtures_per_token_and_per_sequence(tiny: VLMIG) -> None:
    """Of one token they are the same; of several, the mixture of products is not the product of mixtures."""
    tiny.config.mix, tiny.config.weights = "prob", "uniform"
    pair = ("The color of a cat is", " dark red")
    visuals = tiny.imagine(["a cat"], k=2)[0]
    ids, split = encode_pair(tiny.tokenizer, *pair, None)
    each = []
    for i in range(2):
        with torch.no_grad():
            log_probs = tiny.model(torch.tensor([ids]), visual_features=visuals.features[None, i : i + 1]).logits[0]
        each.append([log_probs[j - 1, ids[j]].item() for j in range(split, len(ids))])
    by_sequence = np.logaddexp(*(sum(row) for row in each)) - np.log(2)
    by_token = sum(np.logaddexp(*column) - np.log(2) for column in zip(*each, strict=True))
    assert tiny.loglikelihood([pair], k=2, per="sequence")[0] == pytest.approx(by_sequence, abs=2e-5)
    assert tiny.loglikelihood([pair], k=2, per="token")[0] == pytest.approx(by_token, abs=2e-5)
    assert by_sequence != pytest.approx(by_token, abs=1e-5)
    one = [("The color is", "x")]
    assert tiny.loglikelihood(one, k=2)[0] == pytest.approx(tiny.loglikelihood(one, k=2, per="sequence")[0], abs=2e-5)


@pytest.mark.parametrize("rule", ["prob", "logit", "evidence"])
@pytest.mark.parametrize("weights", ["uniform", "clip", "entropy"])
def test_every_rule_mixes_sequences(rule: str, weights: str) -> None:
    """A sequence that every picture finds likelier than the text does becomes likelier, under every rule."""
    scores = Scores(
        np.array([-40.0, -3.0]), np.array([[-30.0, -4.0], [-32.0, -5.0]]), np.array([-39.0, -3.5]), np.ones(2)
    )
    mixed = scores.sequences(2, rule, weights, 1.0, 0.0, 0.0)
    assert -40.0 <= mixed[0] <= -30.0 and -5.0 <= mixed[1] < 0.0
    assert scores.sequences(0, rule, weights, 1.0, 0.0, 0.0) == pytest.approx(scores.text, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": "  "}, "the question is empty"),
        ({"question": "What?", "k": -1}, "k=-1; expected 0"),
        ({"question": "What?", "choices": ["red"]}, "expected at least two different answers"),
        ({"question": "What?", "mix": "sum"}, "mix='sum'; expected one of prob"),
        ({"question": "What?", "weights": "loud"}, "weights='loud'; expected one of uniform"),
    ],
)
def test_wrong_arguments_are_said_in_one_line(tiny: VLMIG, arguments: dict, message: str) -> None:
    with pytest.raises(VLMIGError, match=message) as caught:
        tiny.ask(**arguments)
    assert "\n" not in str(caught.value)


def test_another_unit_of_mixture_is_an_error(tiny: VLMIG) -> None:
    with pytest.raises(VLMIGError, match="per='word'; expected token or sequence"):
        tiny.loglikelihood([("A", " b")], k=1, per="word")
