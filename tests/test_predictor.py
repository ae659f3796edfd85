"""The predictor: scores agree with the model's own predictions, batched or one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlmig import VLMIG, VLMIGError
from vlmig.models.config import REFERENCE
from vlmig.models.mixture import Mixture
from vlmig.predict.scores import Scores
from vlmig.processing.pairs import score_requests

CONTEXTS = ["The color of a cat is", "Q: dog? A:", "x"]
CHOICES = [("red", "blue", "dark red"), ("red", "no"), ("red", "blue")]


def test_text_scores_equal_the_base_lms_log_probabilities(tiny: VLMIG) -> None:
    visuals = tiny.imagine(["a cat"], k=0) * 3
    for context, options, scores in zip(
        CONTEXTS, CHOICES, tiny.score(CONTEXTS, CHOICES, visuals), strict=True
    ):
        for option, value in zip(options, scores.text, strict=True):
            ids, split = tiny.scorer.texts.pair(context, " " + option, None)
            with torch.no_grad():
                plain = tiny.model.language_model(torch.tensor([ids])).logits[0].log_softmax(-1)
            expected = sum(plain[i - 1, ids[i]].item() for i in range(split, len(ids)))
            assert value == pytest.approx(expected, abs=2e-5)


def test_batched_scores_equal_single_ones_and_k_is_a_prefix(tiny: VLMIG) -> None:
    visuals = tiny.imagine(["a cat", "a dog", "the sea"], k=3)
    together = tiny.score(CONTEXTS, CHOICES, visuals)
    for i, scores in enumerate(together):
        alone = tiny.score(CONTEXTS[i : i + 1], CHOICES[i : i + 1], visuals[i : i + 1], batch=1)[0]
        fewer = tiny.score(
            CONTEXTS[i : i + 1], CHOICES[i : i + 1], tiny.imagine([visuals[i].prompt], k=2)
        )[0]
        for name in ("text", "per_image", "blank"):
            assert np.allclose(getattr(scores, name), getattr(alone, name), atol=2e-5)
        assert np.allclose(scores.per_image[:2], fewer.per_image, atol=2e-5)


def test_loglikelihood_is_the_model_s_mixture_token_by_token(tiny: VLMIG) -> None:
    context, continuation = "The color of a cat is", " dark red"
    visuals = tiny.imagine(["a cat"], k=2)[0]
    ids, split = tiny.scorer.texts.pair(context, continuation, None)
    with torch.no_grad():
        log_probs = tiny.model(torch.tensor([ids]), visual_features=visuals.features[None]).logits[
            0
        ]
    expected = sum(log_probs[i - 1, ids[i]].item() for i in range(split, len(ids)))
    assert tiny.loglikelihood([(context, continuation)], k=2)[0] == pytest.approx(
        expected, abs=2e-5
    )


def test_candidates_of_one_token_share_their_reading(tiny: VLMIG) -> None:
    requests = score_requests(tiny.scorer.texts, ["The color is"], [(" x", " b", " g")], [None])
    assert [len(request.targets) for request in requests] == [3]


def test_a_token_that_spans_the_join_belongs_to_the_continuation(tiny: VLMIG) -> None:
    # " r" is one token of the tiny vocabulary, so a context ending in a space loses that space to
    # the continuation.
    ids, split = tiny.scorer.texts.pair("a ", "red", None)
    assert ids == tiny.tokenizer("a red").input_ids
    assert tiny.tokenizer.decode(ids[split:]) == " red"


def test_long_texts_lose_their_left_end(tiny: VLMIG) -> None:
    ids, split = tiny.scorer.texts.pair("a" * 200, " red", limit=50)
    assert len(ids) == 51, "50 are read, the last is only predicted"
    assert tiny.tokenizer.decode(ids[split:]) == " red"
    assert np.isfinite(tiny.loglikelihood([("a" * 200, " red")], k=1)[0])


def test_an_answer_shows_what_it_rests_on(tiny: VLMIG) -> None:
    answer = tiny.ask("What is the color of a cat?", choices=["red", "blue"], k=3)
    assert answer.answer in ("red", "blue")
    assert len(answer.images) == len(answer.per_image) == len(answer.weights) == 3
    for distribution in (answer.probabilities, answer.text_only, *answer.per_image):
        assert sum(distribution.values()) == pytest.approx(1.0, abs=1e-5)
    assert answer.prompt == "a cat"
    assert answer.seconds["imagine"] > 0 and answer.alignment == answer.weights
    assert repr(answer).startswith(f"Answer({answer.answer!r}, p=") and "3 images" in repr(answer)
    assert "cross_attention" in repr(tiny) and max(map(len, (repr(answer), repr(tiny)))) < 250
    shown = answer._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and 'sandbox="allow-scripts"' in shown
    assert shown.count("<") == 2, "all of the page is inside the attribute"


def test_asking_without_pictures_or_choices_works(tiny: VLMIG) -> None:
    text_only = tiny.ask("What is the color of a cat?", choices=["red", "blue"], k=0)
    assert text_only.probabilities == pytest.approx(text_only.text_only, abs=1e-6)
    assert tiny.ask("A cat is", k=1).answer


def test_generation_in_a_batch_equals_one_by_one(tiny: VLMIG) -> None:
    prompts = ["A cat is", "Some other dogs are", "x"]
    together = tiny.generate(prompts, k=2, max_new_tokens=4, do_sample=False)
    assert together == [
        tiny.generate([prompt], k=2, max_new_tokens=4, do_sample=False)[0] for prompt in prompts
    ]


def test_the_text_edge(tiny: VLMIG) -> None:
    assert tiny.loglikelihood([("A cat is", ""), ("", "")], k=1) == [0.0, 0.0]
    with pytest.raises(VLMIGError, match="a continuation of 300 tokens; at most 96"):
        tiny.loglikelihood([("A cat", "b" * 300)], k=1)
    tiny.tokenizer.bos_token = "b"  # a text that is cut keeps its BOS
    ids, _ = tiny.scorer.texts.pair("b" + "a" * 200, " red", limit=50)
    assert tiny.tokenizer.decode(ids).startswith("ba") and len(ids) == 51
    assert len(tiny.generate(["a" * 200], k=1, max_new_tokens=4)) == 1
    with pytest.raises(VLMIGError, match="max_new_tokens=96; this model has 96 places"):
        tiny.generate(["a"], k=1, max_new_tokens=96)
    with pytest.raises(VLMIGError, match="an empty candidate among the choices"):
        tiny.ask("What?", choices=["", "red"], k=1)


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_reference_scores_do_not_depend_on_the_batch(parts: Path, tmp_path: Path, per: str) -> None:
    """The published GPT-2 layer numbers padding, and ran prompt by prompt: so do we under its
    protocol."""
    names = {"vision": str(parts / "vision_encoder"), "generator": str(parts / "generator")}
    settings = {
        **REFERENCE,
        "weights": "uniform",
        "fusion": "decoder_layer",
        "imaginer_size": 32,
        "imaginer_steps": 1,
    }
    model = VLMIG.from_base(str(parts / "language_model"), **names, store=tmp_path, **settings)
    for value in model.model.adapter_state().values():
        value.normal_(0, 0.3)
    pairs = [("The color of a cat is", " dark red"), ("x", ".")]
    together = model.loglikelihood(pairs, k=2, per=per)
    assert together == pytest.approx(
        [model.loglikelihood([pair], k=2, per=per)[0] for pair in pairs], abs=2e-5
    )
    texts = model.generate(["A cat is dark", "x"], k=2, max_new_tokens=3, do_sample=False)
    assert texts[1] == model.generate(["x"], k=2, max_new_tokens=3, do_sample=False)[0]


def test_settings_of_the_base_lm_and_of_the_adapter(parts: Path, tmp_path: Path) -> None:
    names = {
        "vision": str(parts / "vision_encoder"),
        "generator": str(parts / "generator"),
        "store": tmp_path,
    }
    model = VLMIG.from_base(
        str(parts / "language_model"), **names, dtype=torch.bfloat16, fusion_heads=2
    )
    assert (
        model.model.language_model.dtype
        == model.model.projector.layers[0].weight.dtype
        == torch.bfloat16
    )
    assert model.config.fusion_heads == 2
    with pytest.raises(VLMIGError, match="fuson"):
        VLMIG.from_base(str(parts / "language_model"), **names, fuson="decoder_layer")
    with pytest.raises(VLMIGError, match="expected a vlmig checkpoint"):
        VLMIG.from_pretrained(parts / "language_model")


PAIRS = [
    ("The color of a cat is", " dark red"),
    ("", "red"),
    ("A dog ", "red"),
    ("a" * 200, " blue sea"),
    ("x", "."),
]


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_batched_loglikelihoods_equal_single_ones(tiny: VLMIG, per: str) -> None:
    together = tiny.loglikelihood(PAIRS, k=2, per=per)
    assert together == pytest.approx(
        [tiny.loglikelihood([pair], k=2, per=per)[0] for pair in PAIRS], abs=2e-5
    )


def test_mixtures_per_token_and_per_sequence(tiny: VLMIG) -> None:
    """Of one token they are the same; of several, the mixture of products is not the product of
    mixtures."""
    tiny.config.mix, tiny.config.weights = "prob", "uniform"
    pair = ("The color of a cat is", " dark red")
    visuals = tiny.imagine(["a cat"], k=2)[0]
    ids, split = tiny.scorer.texts.pair(*pair, None)
    each = []
    for i in range(2):
        with torch.no_grad():
            log_probs = tiny.model(
                torch.tensor([ids]), visual_features=visuals.features[None, i : i + 1]
            ).logits[0]
        each.append([log_probs[j - 1, ids[j]].item() for j in range(split, len(ids))])
    by_sequence = np.logaddexp(*(sum(row) for row in each)) - np.log(2)
    by_token = sum(np.logaddexp(*column) - np.log(2) for column in zip(*each, strict=True))
    assert tiny.loglikelihood([pair], k=2, per="sequence")[0] == pytest.approx(
        by_sequence, abs=2e-5
    )
    assert tiny.loglikelihood([pair], k=2, per="token")[0] == pytest.approx(by_token, abs=2e-5)
    assert by_sequence != pytest.approx(by_token, abs=1e-5)
    one = [("The color is", "x")]
    assert tiny.loglikelihood(one, k=2)[0] == pytest.approx(
        tiny.loglikelihood(one, k=2, per="sequence")[0], abs=2e-5
    )


@pytest.mark.parametrize("rule", ["prob", "logit", "evidence"])
@pytest.mark.parametrize("weights", ["uniform", "clip", "entropy"])
def test_every_rule_mixes_sequences(rule: str, weights: str) -> None:
    """A sequence that every picture finds likelier than the text does becomes likelier, under
    every rule."""
    scores = Scores(
        np.array([-40.0, -3.0]),
        np.array([[-30.0, -4.0], [-32.0, -5.0]]),
        np.array([-39.0, -3.5]),
        np.ones(2),
    )
    mixed = scores.sequences(2, Mixture(rule, weights))
    assert -40.0 <= mixed[0] <= -30.0 and -5.0 <= mixed[1] < 0.0
    assert scores.sequences(0, Mixture(rule, weights)) == pytest.approx(scores.text, abs=1e-6)
    far = Scores(np.array([-800.0]), np.array([[-790.0]]), np.array([-799.0]), np.ones(1))
    assert np.isfinite(far.sequences(1, Mixture(rule, weights))).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": "  "}, "the question is empty"),
        ({"question": "What?", "k": -1}, "k=-1; expected 0"),
        ({"question": "What?", "choices": ["red"]}, "expected at least two different answers"),
        ({"question": "What?", "choices": "red,blue"}, r"expected a list .*\['red', 'blue'\]"),
        ({"question": "What?", "choices": ["red", 3]}, "choices holds 3, a int"),
        ({"question": "What?", "choices": ["red", "blue", " red"]}, "has 'red' twice"),
        ({"question": ["What?"], "choices": ["red", "blue"]}, "is a list; expected a text"),
        ({"question": "What?", "mix": "sum"}, "mix='sum'; expected one of prob"),
        ({"question": "What?", "weights": "loud"}, "weights='loud'; expected one of uniform"),
    ],
)
def test_wrong_arguments_are_said_in_one_line(tiny: VLMIG, arguments: dict, message: str) -> None:
    with pytest.raises(VLMIGError, match=message) as caught:
        tiny.ask(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.generate("A banana is", 0),
        lambda m: m.imagine("a banana", 1),
        lambda m: m.imagine(["a banana", 3], 1),
        lambda m: m.imagine(3, 1),
        lambda m: m.look([], "a banana"),
        lambda m: m.loglikelihood("A banana is", 0),
        lambda m: m.loglikelihood(["ab"], 0),
        lambda m: m.loglikelihood([("A banana is",)], 0),
    ],
)
def test_a_bare_text_is_no_list_of_letters(tiny: VLMIG, call: Any) -> None:
    with pytest.raises(VLMIGError, match=r"expected (a list|\(context)") as caught:
        call(tiny)
    assert "\n" not in str(caught.value)


def test_another_unit_of_mixture_is_an_error(tiny: VLMIG) -> None:
    with pytest.raises(VLMIGError, match="per='word'; expected token or sequence"):
        tiny.loglikelihood([("A", " b")], k=1, per="word")
