"""The rule ``contrast``: generic images in the blank one's place, in every path as the plain
reference computes it, and in the checkpoint."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from test_evaluation import evaluate, found, samples
from test_shared_prefix import model_of

from vlmig import VLMIG
from vlmig.errors import VLMIGError
from vlmig.imagination.visuals import Visuals
from vlmig.models.generic import FILE
from vlmig.models.learned import FEATURES
from vlmig.models.mixture import Mixture
from vlmig.models.modeling import VLMIGForCausalLM
from vlmig.predict.scores import Scores

GENERIC, OWN = 4, 3


def test_contrast_is_the_equation_written_out(rng: np.random.Generator) -> None:
    text = torch.from_numpy(log_softmax(rng.normal(size=(2, 7)), -1))
    images = torch.from_numpy(log_softmax(rng.normal(size=(OWN, 2, 7)), -1))
    others = torch.from_numpy(log_softmax(rng.normal(size=(GENERIC, 2, 7)), -1))
    trust = torch.from_numpy(rng.uniform(size=(2, OWN)))
    said = images - others.mean(0)
    plain = (text + 1.7 * (trust.T[..., None] * said).mean(0)).softmax(-1)
    mixture = Mixture("contrast", strength=1.7)
    mixed = mixture.combine(text, images, trust, others.mean(0)).exp()
    assert torch.allclose(mixed, plain, atol=1e-9)
    with pytest.raises(ValueError, match="compares with generic images; pass blank="):
        mixture.combine(text, images, trust)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
@pytest.mark.parametrize(("fusion", "doubt"), [("cross_attention", 0.0), ("prefix", 0.5)])
def test_the_model_computes_it_with_any_head_and_fusion(
    family: str, fusion: str, doubt: float
) -> None:
    """GPT-2's linear head mixes states, Gemma 2's capped one predictions."""
    settings = {"mix": "contrast", "weights": "uniform", "strength": 1.5, "doubt": doubt}
    model = model_of(family, fusion, **settings)
    assert model._can_mix_states == (family == "gpt2")
    torch.manual_seed(0)
    model.generic_features = torch.randn(GENERIC, 5, 12)
    ids, features, trust = (
        torch.randint(3, 90, (2, 6)),
        torch.randn(2, OWN, 5, 12),
        torch.rand(2, 3),
    )
    mixed = model(ids, visual_features=features, image_weights=trust).logits
    assert torch.allclose(mixed, plainly(model, ids, features, trust), atol=3e-4)


def plainly(
    model: VLMIGForCausalLM, ids: torch.Tensor, features: torch.Tensor, trust: torch.Tensor
) -> torch.Tensor:
    """The rule in double precision from one prediction beside each picture alone."""

    def beside(image: torch.Tensor) -> torch.Tensor:
        alone = image[:, None] if image.dim() == 3 else image.expand(len(ids), 1, -1, -1)
        reading = model.read({"input_ids": ids, "attention_mask": None, "use_cache": False})
        _, _, log_probs = model.predictions(reading, model.encode_with_blank(alone))
        return log_probs.double()

    text = model(ids).logits.double().log_softmax(-1)
    others = torch.stack([beside(image) for image in model.generic_features]).mean(0)
    said = [trust[:, i, None, None] * (beside(features[:, i]) - others) for i in range(OWN)]
    unsure = (1 - text.exp().amax(-1, keepdim=True)) ** model.config.doubt
    strength = model.config.strength
    return (text + strength * unsure * torch.stack(said).mean(0)).log_softmax(-1).float()


def test_generic_pictures_are_scored_like_any_others(tiny: VLMIG) -> None:
    torch.manual_seed(0)
    tiny.model.generic_features = torch.randn(GENERIC, *tiny.model.blank_features.shape)
    tiny.config.mix, tiny.config.weights, tiny.config.strength = "contrast", "uniform", 1.5
    given, question = tiny.imagine(["a cat"], OWN)[0], "What is the color of a cat?"
    contexts, choices = [f"Question: {question}\nAnswer:"], [["red", "dark blue"]]
    (scores,) = tiny.score(contexts, choices, [given], generic=True)
    others = Visuals([], tiny.model.generic_features, torch.ones(GENERIC), [], [""] * GENERIC)
    (alone,) = tiny.score(contexts, choices, [others])
    # One pass beside seven pictures against one beside four: sums in another order.
    assert scores.generic == pytest.approx(alone.per_image, abs=1e-4)
    text, images, beside = (
        log_softmax(part, -1) for part in (scores.text, scores.per_image, scores.generic)
    )
    plain = log_softmax(text + 1.5 * (images.mean(0) - beside.mean(0)))
    assert scores.mixed(OWN, Mixture.of(tiny.config)) == pytest.approx(plain, abs=1e-9)
    assert scores.mixed(0, Mixture.of(tiny.config)) == pytest.approx(text)
    answer = tiny.ask(question, ["red", "dark blue"], k=OWN)
    shown, told = ([*p.values()] for p in (answer.probabilities, answer.text_only))
    assert np.log(shown) != pytest.approx(np.log(told), abs=1e-2)


def test_decoding_with_a_cache_is_the_same_without(tiny: VLMIG) -> None:
    torch.manual_seed(0)
    tiny.model.generic_features = torch.randn(GENERIC, *tiny.model.blank_features.shape)
    tiny.config.mix = "contrast"
    seen: list[int] = []
    tiny.model.projector.register_forward_hook(
        lambda _, args, __: seen.append(args[0].shape[:-2].numel())
    )
    texts = [
        tiny.generate(["A cat is"], k=2, max_new_tokens=4, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert texts[0] == texts[1] and seen[0] == GENERIC + 2
    assert len(seen) == 5, "with a cache the pictures are read once, without at every token"
    (pair,) = tiny.loglikelihood([("A cat is", texts[0][0][:1])], k=2)
    assert np.isfinite(pair)


def test_a_checkpoint_keeps_them_in_a_file_of_their_own(tiny: VLMIG, tmp_path: Path) -> None:
    for call in (
        lambda: tiny.ask("What is a cat?", ["red", "blue"], k=1, mix="contrast"),
        lambda: VLMIG.from_pretrained(tmp_path / "plain", mix="contrast").generate(["A"], k=1),
    ):
        tiny.model.save_pretrained(tmp_path / "plain")
        assert not (tmp_path / "plain" / FILE).exists()
        with pytest.raises(VLMIGError, match="this checkpoint has none; expected vlmig calibrate"):
            call()
    kept = torch.randn(GENERIC, *tiny.model.blank_features.shape).half().float()
    tiny.model.generic_features = kept
    tiny.model.save_pretrained(tmp_path / "model")
    loaded = VLMIG.from_pretrained(tmp_path / "model", store=tmp_path / "store")
    assert torch.equal(loaded.model.generic_features, kept)
    pairs = [("A cat is", " red")]
    loaded.config.mix = tiny.config.mix = "contrast"
    assert loaded.loglikelihood(pairs, k=1) == pytest.approx(
        tiny.loglikelihood(pairs, k=1), abs=1e-5
    )


def test_joined_and_chosen_scores_keep_them(rng: np.random.Generator) -> None:
    whole = Scores(*(rng.normal(size=s) for s in ((5,), (3, 5), (5,), (3,), (GENERIC, 5))))
    halves = [
        Scores(
            whole.text[p],
            whole.per_image[:, p],
            whole.blank[p],
            whole.alignment,
            whole.generic[:, p],
        )
        for p in (slice(0, 2), slice(2, 5))
        if whole.generic is not None
    ]
    assert np.array_equal(Scores.joined(halves).generic, whole.generic)
    assert np.array_equal(whole.alone(3).mixed(1, Mixture("contrast"))[1], whole_of(whole, 1))
    own, other = whole.split(2)
    assert own.generic is other.generic is whole.generic


def whole_of(scores: Scores, image: int) -> np.ndarray:
    """Mix with one picture alone."""
    one = slice(image, image + 1)
    own = Scores(
        scores.text, scores.per_image[one], scores.blank, scores.alignment[one], scores.generic
    )
    return own.mixed(1, Mixture("contrast"))


def test_contrast_and_learned_weights_are_measured_as_they_answer(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    for asked, said in (
        ({"mixes": ("contrast",)}, "mix='contrast' compares with generic images"),
        ({"weights": ("learned",)}, "weights='learned' need weights that were fitted"),
    ):
        with pytest.raises(VLMIGError, match=said):
            evaluate(tiny, data, tmp_path, "memory_color", ks=(0, 2), **asked)
    torch.manual_seed(0)
    tiny.model.generic_features = torch.randn(3, *tiny.model.blank_features.shape)
    row = [0.1, 0.5, -0.7]
    tiny.config.learned = {"features": dict.fromkeys(FEATURES, row), "intercept": 0.2}
    asked = {"mixes": ("contrast", "prob"), "weights": ("uniform", "learned")}
    results = evaluate(tiny, data, tmp_path, "memory_color", ks=(0, 2), **asked)
    rows = samples(tmp_path, "memory_color")
    for mix, weights in product(*asked.values()):
        right = []
        for row in rows:
            visuals = tiny.imagine([row["doc"]["picture"]], 2)
            for question in row["doc"]["questions"]:
                (scores,) = tiny.score(
                    question["contexts"], [question["continuations"]], visuals, generic=True
                )
                mixture = Mixture.of(tiny.config, mix, weights)
                right.append(scores.mixed(2, mixture).argmax() == question["answer"])
        (condition,) = found(results, k=2, mix=mix, weights=weights, subset="all")
        assert condition["acc"] == np.mean(right)
    assert results["vlmig"]["learned"] == tiny.config.learned
