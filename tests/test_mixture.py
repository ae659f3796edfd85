"""The mixing rules against the equations written out plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax

from vlmig.errors import VLMIGError
from vlmig.models.mixture import Mixture, entropy
from vlmig.predict.scores import Scores


def distributions(
    seed: int = 0, k: int = 4, v: int = 7
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    text, blank = (
        torch.randn(3, v, generator=generator, dtype=torch.double).log_softmax(-1) for _ in range(2)
    )
    images = torch.randn(k, 3, v, generator=generator, dtype=torch.double).log_softmax(-1)
    return text, images, blank, torch.rand(3, k, generator=generator, dtype=torch.double)


@pytest.mark.parametrize("weights", ["uniform", "clip", "doubled", "entropy"])
def test_a_given_image_is_trusted_whatever_its_alignment(weights: str) -> None:
    fit = torch.tensor([-0.2, torch.inf])
    trust = Mixture("prob", weights, alignment_floor=0.2).trust(fit).tolist()
    assert trust[0] == (1.0 if weights == "uniform" else 0.0)
    text, images, blank, _ = distributions(k=1)
    for mix in ("prob", "logit", "geometric", "evidence"):
        given = Mixture(mix, weights).combine(text, images, torch.tensor(trust[1:]), blank)
        plain = Mixture(mix).combine(text, images, torch.ones(1), blank)
        assert torch.allclose(given, plain)


def test_prob_is_the_papers_equation_with_its_one_over_k() -> None:
    text, images, _, trust = distributions()
    f = trust.T[..., None]
    plain = (f * images.exp() + (1 - f) * text.exp()).mean(0)
    assert torch.allclose(Mixture("prob").combine(text, images, trust).exp(), plain, atol=1e-6)


def test_logit_is_the_published_codes_rule_on_raw_logits_too() -> None:
    text, images, _, trust = distributions()
    f = trust.T[..., None]
    # Adding a constant per distribution turns log-probabilities back into arbitrary logits; the
    # softmax drops it.
    plain = (f * (images + 3.0) + (1 - f) * (text - 2.0)).mean(0).softmax(-1)
    assert torch.allclose(Mixture("logit").combine(text, images, trust).exp(), plain, atol=1e-9)


def test_evidence_adds_what_a_picture_says_beyond_an_empty_one() -> None:
    text, images, blank, trust = distributions()
    plain = (text + 1.7 * (trust.T[..., None] * (images - blank)).mean(0)).softmax(-1)
    assert torch.allclose(
        Mixture("evidence", strength=1.7).combine(text, images, trust, blank).exp(),
        plain,
        atol=1e-9,
    )


@pytest.mark.parametrize("rule", ["prob", "logit", "evidence"])
@pytest.mark.parametrize("by_entropy", [False, True])
def test_every_rule_gives_a_distribution_whatever_the_order_of_images(
    rule: str, by_entropy: bool
) -> None:
    text, images, blank, trust = distributions()
    mixture = Mixture(rule, "entropy" if by_entropy else "uniform", strength=2.0, doubt=0.5)
    mixed = mixture.combine(text, images, trust, blank)
    assert torch.allclose(mixed.exp().sum(-1), torch.ones(3, dtype=torch.double), atol=1e-6)
    turned = mixture.combine(text, images.flip(0), trust.flip(-1), blank)
    assert torch.allclose(mixed, turned, atol=1e-6)


@pytest.mark.parametrize("rule", ["prob", "logit", "evidence"])
def test_copies_of_one_image_count_once(rule: str) -> None:
    text, images, blank, trust = distributions()
    one = Mixture(rule).combine(text, images[:1], trust[:, :1], blank)
    five = Mixture(rule).combine(
        text, images[:1].expand(5, -1, -1), trust[:, :1].expand(-1, 5), blank
    )
    assert torch.allclose(one, five, atol=1e-6)


def test_no_images_and_empty_evidence_leave_the_text_alone() -> None:
    text, _, blank, trust = distributions()
    assert torch.equal(Mixture("prob").combine(text, [], trust[:, :0]), text)
    assert torch.allclose(
        Mixture("evidence").combine(text, [blank, blank], trust[:, :2], blank), text, atol=1e-12
    )


def test_a_sure_text_is_left_alone_under_doubt() -> None:
    sure = torch.tensor([[0.0, -30.0, -30.0]])
    picture, blank = (
        torch.tensor([[-8.0, -0.1, -3.0]]).log_softmax(-1),
        torch.zeros(1, 3).log_softmax(-1),
    )
    moved = Mixture("evidence", strength=9.0, doubt=1.0).combine(
        sure, [picture], torch.ones(1, 1), blank
    )
    assert torch.allclose(moved.exp(), sure.exp(), atol=1e-6)


def test_the_less_certain_side_listens() -> None:
    flat, sure = (
        torch.zeros(1, 4).log_softmax(-1),
        torch.tensor([[9.0, 0.0, 0.0, 0.0]]).log_softmax(-1),
    )
    towards_picture = Mixture("prob", "entropy").combine(flat, [sure], torch.ones(1, 1))
    assert torch.allclose(towards_picture.exp(), sure.exp(), atol=0.02)
    assert torch.allclose(
        Mixture("prob", "entropy").combine(sure, [flat], torch.ones(1, 1)).exp(),
        sure.exp(),
        atol=0.02,
    )


def test_impossible_outcomes_stay_finite_in_entropy_and_mix() -> None:
    text = torch.tensor([[0.0, float("-inf")]])
    assert entropy(text).item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(
        Mixture("prob").combine(text, [torch.tensor([[0.5, 0.5]]).log()], torch.tensor([[0.4]]))
    ).all()


def test_wrong_rules_say_what_was_expected() -> None:
    text, images, _, trust = distributions()
    with pytest.raises(VLMIGError, match="expected one of prob, logit, geometric, evidence"):
        Mixture("sum")
    with pytest.raises(VLMIGError, match="expected one of uniform, clip, doubled, entropy"):
        Mixture("prob", "even")
    with pytest.raises(ValueError, match="pass blank="):
        Mixture("evidence").combine(text, images, trust)


def test_trust_before_any_text_is_read() -> None:
    cosines = torch.tensor([-0.3, 0.31, 1.2])
    assert Mixture("prob", "clip", alignment_floor=0.5).trust(cosines).tolist() == pytest.approx(
        [0.0, 0.31, 1.0]
    )
    assert Mixture("prob", "entropy", alignment_floor=0.5).trust(cosines).tolist() == [
        0.0,
        0.0,
        1.0,
    ]
    assert Mixture("prob", "uniform", alignment_floor=0.5).trust(cosines).tolist() == [
        1.0,
        1.0,
        1.0,
    ]


@pytest.mark.parametrize("weights", ["uniform", "clip", "entropy"])
def test_prob_mixes_the_lms_own_probabilities_of_candidates(weights: str) -> None:
    """Equation 2, by hand: beside the second picture the LM expects other words than the
    candidates, so it hardly counts; only the entropy is one among the candidates."""
    rng = np.random.default_rng(0)
    text = np.log(rng.dirichlet(np.ones(3)) * 0.6)
    images = np.log(rng.dirichlet(np.ones(3), 2) * [[0.9], [0.01]])
    alignment = np.array([0.3, 0.4])
    scores = Scores(text, images, text, alignment)
    among, alone = softmax(images, -1), softmax(text)
    trust = {
        "uniform": np.ones(2),
        "clip": alignment,
        "entropy": np.maximum(0, 1 - stats.entropy(among, axis=-1) / stats.entropy(alone)),
    }[weights][:, None]
    by_hand = (trust * np.exp(images) + (1 - trust) * np.exp(text)).mean(0)
    mixed = np.exp(scores.mixed(2, Mixture("prob", weights)))
    assert mixed == pytest.approx(by_hand / by_hand.sum(), rel=1e-6)
    normalized = (trust * among + (1 - trust) * alone).mean(0)
    assert weights == "entropy" or np.abs(mixed - normalized).max() > 0.01
