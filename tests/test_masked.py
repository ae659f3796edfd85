"""Masked LMs with imagined pictures: gaps filled and texts scored, against the model masked by
hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WORDS

from vlmig import VLMIG, VLMIGError, VLMIGForMaskedLM
from vlmig.models.checkpoint import load_adapter


@pytest.fixture(params=["cross_attention", "decoder_layer"])
def masked(request: pytest.FixtureRequest, bert: Path, parts: Path, tmp_path: Path) -> VLMIG:
    names = {"vision": str(parts / "vision_encoder"), "generator": str(parts / "generator")}
    settings = {
        "fusion": request.param,
        "fusion_heads": 4,
        "mix": "prob",
        "imaginer_size": 32,
        "imaginer_steps": 1,
    }
    model = VLMIG.from_base(str(bert), **names, store=tmp_path / "store", **settings)
    torch.manual_seed(1)
    noisy = {
        name: torch.randn_like(value) * 0.3 for name, value in model.model.adapter_state().items()
    }
    load_adapter(model.model, noisy, bert)
    model.config.trained = True
    return model


def by_hand(model: VLMIG, ids: list[int], gap: int, features: torch.Tensor | None) -> torch.Tensor:
    row = torch.tensor([ids])
    row[0, gap] = model.tokenizer.mask_token_id
    with torch.no_grad():
        return model.model(row, visual_features=features).logits[0, gap].log_softmax(-1)


def test_a_gap_is_filled_as_the_model_predicts_it(masked: VLMIG) -> None:
    assert isinstance(masked.model, VLMIGForMaskedLM)
    text = "the color of a cat is [MASK] ."
    filled = masked.fill(text, k=2, prompt="a cat")
    ids = masked.tokenizer(text).input_ids
    features = masked.imagine(["a cat"], k=2)[0].features[None]
    expected = by_hand(masked, ids, ids.index(3), features)
    assert list(filled.values()) == pytest.approx(expected.exp().topk(5).values.tolist(), abs=1e-5)
    assert filled != pytest.approx(masked.fill(text, k=0))


@pytest.mark.parametrize("k", [0, 2])
def test_pseudo_log_likelihood_masks_each_token_in_turn(masked: VLMIG, k: int) -> None:
    context, continuation = "the color of a cat is", " dark red sea"
    ids = masked.tokenizer(context + continuation).input_ids
    features = masked.imagine(["a cat"], k)[0].features[None] if k else None
    first = len(masked.tokenizer(context).input_ids) - 1
    expected = sum(
        by_hand(masked, ids, gap, features)[ids[gap]].item() for gap in range(first, len(ids) - 1)
    )
    assert masked.loglikelihood([(context, continuation)], k=k)[0] == pytest.approx(
        expected, abs=5e-5
    )


def test_batched_equals_single_and_candidates_share_gaps(masked: VLMIG) -> None:
    pairs = [("the color of a cat is", " red"), ("a", " dark blue cat"), ("what is", " the sea ?")]
    together = masked.loglikelihood(pairs, k=2)
    assert together == pytest.approx(
        [masked.loglikelihood([pair], k=2)[0] for pair in pairs], abs=5e-5
    )
    answer = masked.ask("what is the color of a cat ?", choices=["red", "blue", "dark red"], k=2)
    assert sum(answer.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    assert masked.ask("a cat is [MASK] .", k=1).answer in WORDS
    assert np.isfinite(
        masked.loglikelihood([("a cat " * 80, " red")], k=1)[0]
    )  # a long text loses its left end


def test_where_the_candidate_goes(masked: VLMIG) -> None:
    gaps = list(masked.scorer.texts.gaps("a [MASK] cat", " dark red", None))
    assert [masked.tokenizer.decode(ids) for ids, _, _ in gaps] == [
        "[CLS] a [MASK] red cat [SEP]",
        "[CLS] a dark [MASK] cat [SEP]",
    ]
    long = list(masked.scorer.texts.gaps("a " * 50 + "[MASK]" + " cat" * 50, "dark red", 40))
    assert len(long) == 2 and {len(ids) for ids, _, _ in long} == {40}
    with pytest.raises(VLMIGError, match="a candidate of 50 tokens; at most 40"):
        list(masked.scorer.texts.gaps("a cat is", " red" * 50, 40))
    with pytest.raises(VLMIGError, match="2 gaps in"):
        list(masked.scorer.texts.gaps("[MASK] [MASK]", "red", None))


def test_special_tokens_that_a_text_already_holds_are_not_added_again(masked: VLMIG) -> None:
    texts, tokenizer = masked.scorer.texts, masked.tokenizer
    text = "a cat is [MASK] ."
    for given in (text, f"[CLS] {text}", f"{text} [SEP]", f"[CLS] {text} [SEP]"):
        gaps = list(texts.gaps(given, "dark red", None))
        assert gaps == list(texts.gaps(text, "dark red", None))
        assert [ids[:1] + ids[-1:] for ids, _, _ in gaps] == [[1, 2]] * 2
        ids, gap = texts.gap(given, None)
        assert ids == tokenizer(text).input_ids and ids[gap] == tokenizer.mask_token_id
    long = "[CLS] " + "a " * 60 + "[MASK]" + " cat" * 60
    ids, gap = texts.gap(long, 40)
    assert len(ids) == 40 and ids[gap] == 3 and ids[0] == 1 and ids[-1] == 2
    assert masked.ask(long, k=0).answer


def test_words_that_a_masked_lm_lacks_are_told_or_refused(
    masked: VLMIG, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [("the color of a cat is", " red"), ("the color of a cat is", " turquoise")]
    masked.loglikelihood(pairs, k=0)
    assert [r.getMessage() for r in caplog.records if "does not know" in r.getMessage()] == [
        "the candidate 'turquoise' holds a word that this LM does not know and reads as [UNK], so "
        "its score says nothing; there may be others, and this is said once"
    ]
    with pytest.raises(VLMIGError, match="the choice 'turquoise' holds a word that this LM does"):
        masked.ask("what is the color of a cat ?", choices=["red", "turquoise"], k=0)
    with pytest.raises(VLMIGError, match="the continuation ' ' has no token of its own"):
        masked.loglikelihood([("a cat is", " ")], k=0)


def test_what_a_masked_lm_cannot_do_is_said(masked: VLMIG, tiny: VLMIG) -> None:
    with pytest.raises(VLMIGError, match="generate needs a causal LM"):
        masked.generate(["a cat"], k=1)
    with pytest.raises(
        VLMIGError, match="cannot fill 'a cat'; expected a masked LM and a text with one"
    ):
        masked.fill("a cat", k=1)
    with pytest.raises(VLMIGError, match="expected a masked LM"):
        tiny.fill("a [MASK]", k=1)


def test_saved_and_loaded_as_a_masked_lm(masked: VLMIG, tmp_path: Path) -> None:
    masked.model.save_pretrained(tmp_path / "saved", save_base=True)
    loaded = VLMIG.from_pretrained(tmp_path / "saved", store=tmp_path / "store")
    assert isinstance(loaded.model, VLMIGForMaskedLM)
    pairs = [("a cat is", " dark red")]
    assert loaded.loglikelihood(pairs, k=1) == masked.loglikelihood(
        pairs, k=1
    )  # its tokenizer came with it
