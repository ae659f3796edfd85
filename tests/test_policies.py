"""What is imagined for a text, and what happens to prompts that no text encoder reads whole."""

from __future__ import annotations

import numpy as np
import pytest

from vlmig import VLMIG, VLMIGError
from vlmig.imagination.prompts import fitted, prompts_for, sentences
from vlmig.models.config import POLICIES
from vlmig.models.mixture import Mixture

TEXT = "Bananas grow in bunches. They hang high! What is the color of a banana?"


@pytest.mark.parametrize("policy", POLICIES)
def test_fewer_pictures_are_the_first_of_more(policy: str) -> None:
    for k in range(6):
        assert prompts_for(policy, TEXT, 6, "yellow")[:k] == prompts_for(policy, TEXT, k, "yellow")


def test_the_policies() -> None:
    assert prompts_for("question", TEXT, 2) == [TEXT, TEXT]
    assert prompts_for("subject", "What is the color of a banana?", 1) == ["a banana"]
    assert prompts_for("option", TEXT, 1, " yellow") == [f"{TEXT} yellow"]
    last, middle, first = sentences(TEXT)[::-1]
    assert prompts_for("sentences", TEXT, 6) == [TEXT, last, middle, first, last, middle]
    assert prompts_for("sentences", "word " * 100, 1) == [("word " * 70).strip()]
    with pytest.raises(VLMIGError, match="policy 'guess'; expected one of subject"):
        prompts_for("guess", TEXT, 1)


def test_only_the_policy_that_says_so_shows_an_answer() -> None:
    for policy in set(POLICIES) - {"option"}:
        assert not any("yellow" in prompt for prompt in prompts_for(policy, TEXT, 6, "yellow"))


def short(prompt: str) -> bool:
    return len(prompt) <= 20


def test_long_prompts_are_cut_split_or_refused() -> None:
    words = " ".join(f"word{i}" for i in range(20))
    assert fitted(["a cat", words], short, "cut") == ["a cat", "word17 word18 word19"]
    parts = fitted([words] * 30, short, "split")
    assert all(map(short, parts))
    assert parts[0] == "word17 word18 word19", (
        "pictures before any others show the end, where a question stands"
    )
    assert sorted(set(" ".join(parts).split())) == sorted(words.split()), "a word got lost"
    with pytest.raises(VLMIGError, match="longer than the text encoders read"):
        fitted([words], short, "refuse")
    with pytest.raises(VLMIGError, match="long_prompts='squeeze'; expected one of cut"):
        fitted([words], short, "squeeze")
    assert all(map(short, fitted(["x" * 300] * 9, short, "split")))


def test_long_prompts_are_counted_and_never_reach_a_text_encoder(tiny: VLMIG) -> None:
    long = "a very long prompt about nothing " * 10  # 77 tokens fit, which are letters here
    seen = tiny.imagine([long, "a cat"], k=2)
    assert tiny.imagination.tally.cut == 1
    assert long.strip().endswith(seen[0].prompts[0])
    fits = tiny.imagination.source.fits
    assert fits(seen[0].prompts[0]) and not fits("nothing " + seen[0].prompts[0]), (
        "as much as fits stays"
    )
    tiny.config.long_prompts = "split"
    first, second = tiny.imagine([long], k=2)[0].prompts
    assert first == seen[0].prompts[0] and first != second


def test_every_option_has_its_own_pictures(tiny: VLMIG) -> None:
    """Candidates scored apart and joined equal candidates scored together, where their pictures
    are the same."""
    context, options = "The color of a cat is", ["red", "dark blue"]
    same = tiny.imagine([context], k=3)
    together = tiny.score([context], [options], same)[0]
    apart = type(together).joined(
        tiny.score([context] * 2, [[option] for option in options], same * 2)
    )
    for name in ("text", "per_image", "blank"):
        assert np.allclose(getattr(together, name), getattr(apart, name), atol=2e-5)
    assert apart.alignment.shape == (3, 2)
    for rule in ("prob", "logit", "evidence"):
        for weights in ("uniform", "clip", "entropy"):
            mixture = Mixture.of(tiny.config, rule, weights)
            assert together.mixed(2, mixture) == pytest.approx(apart.mixed(2, mixture), abs=2e-5)
    own = tiny.imagine([context] * 2, k=3, policy="option", options=options)
    assert own[0].prompts[0] == f"{context} red" and own[1].prompts[0] == f"{context} dark blue"
