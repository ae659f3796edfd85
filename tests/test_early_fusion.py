"""Early fusion: however it is computed, a picture in the text or before it is what the base LM
makes of its visual tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import build
from scipy.special import erf
from torch import Tensor, nn

from vlmig import VLMIGConfig, VLMIGError, VLMIGForCausalLM, VLMIGForMaskedLM
from vlmig.models.cache import cache_argument, text_cache
from vlmig.models.projector import PooledProjector, Resampler, build_projector

# Two orders of the same fp32 sums, of numbers around 10: padding, caches and copies change the
# order. A picture in another
# place, or another picture, moves these logits by more than 1e-2 (test_pictures_matter).
SAME = 1e-5
PATCHES, WIDTH, SHOWN, IMAGINED = 9, 12, 2, 3
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gpt2": ({}, {"projector": "mlp"}),
    "llama": ({}, {"projector": "linear", "mix": "prob"}),
    "opt": ({}, {"projector": "pooled"}),  # input and output narrower than the states
    "gemma2": (
        {"sliding_window": 8},
        {"projector": "resampler", "projector_queries": 3, "projector_width": 16},
    ),
    "qwen2": ({"tie_word_embeddings": True}, {"projector": "mlp"}),
    "bloom": ({}, {"projector": "pooled", "mix": "logit"}),
}


def make(kind: str, **fields: Any) -> VLMIGForCausalLM:
    changes, own = FAMILIES[kind]
    base = build(kind, **changes)
    shape = {"vision_patches": PATCHES, "vision_width": WIDTH}
    config = VLMIGConfig(
        text_config=base.config.to_dict(), **shape, **{"fusion": "prefix", **own, **fields}
    )
    torch.manual_seed(1)
    model = VLMIGForCausalLM(config, base).eval()
    model.blank_features.normal_()
    model.generation_config.pad_token_id = 0
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> VLMIGForCausalLM:
    return make(request.param)


def rows_of(model: VLMIGForCausalLM) -> tuple[list[list[int]], list[int]]:
    """Texts with pictures in the middle, two, none, at the start and at the end, and how many each
    has."""
    picture = [model.config.placeholder_id] * model.config.visual_tokens
    rows = [
        [1, 5, *picture, 7, 8],
        [1, *picture, 9, 10, *picture, 11],
        [1, 6, 7],
        [*picture, 12],
        [1, 5, 6, *picture],
    ]
    return rows, [1, 2, 0, 1, 1]


def padded(rows: list[list[int]]) -> dict[str, Tensor]:
    length = max(map(len, rows))
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp_min(0),
    }


def pictures(rows: int, count: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, count, PATCHES, WIDTH, generator=torch.Generator().manual_seed(seed))


def both(rows: int = 5) -> dict[str, Tensor]:
    return {"shown_features": pictures(rows, SHOWN), "visual_features": pictures(rows, IMAGINED, 1)}


def spelled_out(model: VLMIGForCausalLM, row: list[int], shown: Tensor) -> Tensor:
    """Put visual tokens (M, N, E) among the words' embeddings one position after another: (1, T,
    E)."""
    words, tokens = model.language_model.get_input_embeddings(), iter(shown.flatten(0, 1))
    place = model.config.placeholder_id
    return torch.stack(
        [next(tokens) if token == place else words(torch.tensor(token)) for token in row]
    )[None]


@torch.no_grad()
def test_a_batch_of_shown_pictures_is_each_row_by_hand(model: VLMIGForCausalLM) -> None:
    rows, counts = rows_of(model)
    shown = pictures(len(rows), SHOWN)
    together = model(**padded(rows), shown_features=shown).logits
    for row, count, own, logits in zip(rows, counts, shown, together, strict=True):
        embeddings = spelled_out(model, row, model.projector(own[:count]))
        expected = model.language_model(inputs_embeds=embeddings).logits[0]
        assert torch.allclose(logits[-len(row) :], expected, atol=SAME)
        alone = model(input_ids=torch.tensor([row]), shown_features=own[None, :count]).logits[0]
        assert torch.allclose(alone, expected, atol=SAME)


@torch.no_grad()
def test_a_batch_beside_imagined_pictures_is_its_rows(model: VLMIGForCausalLM) -> None:
    rows, counts = rows_of(model)
    together = model(**padded(rows), **both()).logits
    for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
        shown, imagined = (features[i : i + 1] for features in both().values())
        alone = model(
            input_ids=torch.tensor([row]), shown_features=shown[:, :count], visual_features=imagined
        )
        assert torch.allclose(together[i, -len(row) :], alone.logits[0], atol=SAME)


@pytest.mark.parametrize("begin", [[1], []], ids=["bos", "no_bos"])
@torch.no_grad()
def test_imagined_pictures_are_mixed_over_separate_runs_of_the_base_lm(
    model: VLMIGForCausalLM, begin: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run for each picture: BOS if there is one, the picture, the text with a shown picture in
    it."""
    row = [*begin, 5, *[model.config.placeholder_id] * model.config.visual_tokens, 7, 8]
    shown, imagined = pictures(1, 1), pictures(1, IMAGINED, 1)
    text = spelled_out(model, row, model.projector(shown[0]))
    runs = []
    for picture in imagined[0]:
        visual = model.projector(picture[None])
        embeddings = torch.cat([text[:, : len(begin)], visual, text[:, len(begin) :]], 1)
        runs.append(
            model.language_model(inputs_embeds=embeddings).logits[:, -len(row) :].softmax(-1)
        )
    monkeypatch.setattr(model.config, "mix", "prob")
    monkeypatch.setattr(model.config, "weights", "uniform")
    mixed = model(
        input_ids=torch.tensor([row]), shown_features=shown, visual_features=imagined
    ).logits
    assert torch.allclose(mixed.exp(), torch.stack(runs).mean(0), atol=SAME)


@torch.no_grad()
def test_pictures_matter(model: VLMIGForCausalLM) -> None:
    inputs, features = padded(rows_of(model)[0]), both()
    logits = model(**inputs, **features).logits
    alone = model(**inputs, shown_features=features["shown_features"]).logits
    assert (logits - alone.log_softmax(-1)).abs().max() > 1e-2
    turned = {name: values.flip(1) for name, values in features.items()}
    other = model(**inputs, **features | {"shown_features": turned["shown_features"]}).logits
    assert (logits - other)[1].abs().max() > 1e-2, "the order of shown pictures says nothing"
    same = model(**inputs, **features | {"visual_features": turned["visual_features"]}).logits
    assert torch.allclose(logits, same, atol=SAME), "the order of imagined pictures counts"


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("given", ["shown_features", "visual_features", "both"])
@torch.no_grad()
def test_cached_generation_is_full_recomputation(
    model: VLMIGForCausalLM, given: str, beams: int
) -> None:
    """The cache keeps keys and values; without one every step reads everything anew."""
    rows = (
        rows_of(model)[0][:3] if given != "visual_features" else [[1, 5, 7, 8], [1, 6], [7, 8, 9]]
    )
    features = {name: value for name, value in both(3).items() if given in (name, "both")}
    inputs = {name: value for name, value in padded(rows).items() if name != "position_ids"}
    settings: dict[str, Any] = {
        "max_new_tokens": 3,
        "min_new_tokens": 3,
        "do_sample": False,
        "num_beams": beams,
    }
    settings |= {"return_dict_in_generate": True, "output_scores": True}
    cached, anew = (
        model.generate(**inputs, **features, **settings, use_cache=use) for use in (True, False)
    )
    assert torch.equal(cached.sequences, anew.sequences)
    for ours, theirs in zip(cached.scores, anew.scores, strict=True):
        assert torch.allclose(ours, theirs, atol=SAME)


@torch.no_grad()
def test_a_static_cache_generates_the_same() -> None:
    model = make("llama")
    inputs = {
        name: value for name, value in padded(rows_of(model)[0]).items() if name != "position_ids"
    }
    settings: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    plain = model.generate(**inputs, **both(), **settings)
    assert torch.equal(
        model.generate(**inputs, **both(), **settings, cache_implementation="static"), plain
    )


@pytest.mark.parametrize("place", [None, 40])
@torch.no_grad()
def test_generation_writes_no_places(place: int | None) -> None:
    """Places have an id beyond the vocabulary, which penalties cannot look up, or one within it,
    which could be written."""
    model = make("gpt2", image_token_id=place)
    inputs = {
        name: value for name, value in padded(rows_of(model)[0]).items() if name != "position_ids"
    }
    settings: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "repetition_penalty": 1.2}
    settings |= {"no_repeat_ngram_size": 2, "return_dict_in_generate": True, "output_scores": True}
    generated = model.generate(**inputs, shown_features=pictures(5, SHOWN), **settings)
    new = generated.sequences[:, inputs["input_ids"].shape[1] :]
    assert (new != model.config.placeholder_id).all()
    if place is not None:
        assert all((scores[:, place] == -torch.inf).all() for scores in generated.scores)


@torch.no_grad()
def test_without_pictures_it_is_the_base_lm_bit_for_bit(model: VLMIGForCausalLM) -> None:
    inputs, base = padded([[1, 5, 6, 7], [1, 8]]), model.language_model
    for none in (None, pictures(2, 0)):
        assert torch.equal(model(**inputs, visual_features=none).logits, base(**inputs).logits)
        assert torch.equal(model(**inputs, shown_features=none).logits, base(**inputs).logits)
    del inputs["position_ids"]
    settings: dict[str, Any] = {
        "max_new_tokens": 4,
        "min_new_tokens": 4,
        "pad_token_id": 0,
        "do_sample": False,
    }
    assert torch.equal(model.generate(**inputs, **settings), base.generate(**inputs, **settings))


@pytest.mark.parametrize("imagined", [False, True])
@torch.no_grad()
def test_labels_at_places_never_count(model: VLMIGForCausalLM, imagined: bool) -> None:
    """The loss is the mean over next tokens that are words; a picture's places stand among the
    labels all the same."""
    inputs, features = padded(rows_of(model)[0]), both()
    if not imagined:
        del features["visual_features"]
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    output = model(**inputs, **features, labels=labels)
    logits, targets = output.logits[:, :-1], labels[:, 1:]
    counted = (targets != -100) & (targets != model.config.placeholder_id)
    assert output.loss.item() == pytest.approx(
        F.cross_entropy(logits[counted], targets[counted]).item(), abs=SAME
    )


def test_only_the_projector_learns() -> None:
    model = make("qwen2")
    model.freeze_base()
    inputs = padded(rows_of(model)[0])
    model(**inputs, **both(), labels=inputs["input_ids"]).loss.backward()
    learnt = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learnt == {name for name in model.adapter_state() if name != "blank_features"}
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.projector.parameters())


@torch.no_grad()
def test_pictures_that_do_not_fit_the_text_are_refused() -> None:
    model, late = make("gpt2"), make("gpt2", fusion="cross_attention", fusion_heads=4)
    place, picture = (
        model.config.placeholder_id,
        [model.config.placeholder_id] * model.config.visual_tokens,
    )
    for built, row, count, message in (
        (model, [1, *picture], None, "9 placeholder tokens in the text and no image"),
        (model, [1, *picture], 0, "9 placeholder tokens in the text and no image"),
        (model, [1, 5], 1, "1 images and no placeholder in the text; put <image>"),
        (model, [1, *picture, *picture], 1, r"\[18\] placeholder tokens .* at most 1 images"),
        (model, [1, *picture], 2, r"\[9\] placeholder tokens .* at most 2 images of 9"),
        (model, [1, place, place], 1, r"\[2\] placeholder tokens"),
        (late, [1, 5], 1, "shown_features with fusion='cross_attention'"),
    ):
        with pytest.raises(VLMIGError, match=message):
            built(
                input_ids=torch.tensor([row]),
                shown_features=None if count is None else pictures(1, count),
            )
    with pytest.raises(
        VLMIGError, match=r"\[18, 0\] placeholder tokens"
    ):  # as many places as pictures, but all in one row
        model(**padded([[1, *picture, *picture], [1, 5]]), shown_features=pictures(2, 1))


@torch.no_grad()
def test_a_cache_of_another_start_is_refused() -> None:
    model, inputs, more = make("gpt2"), padded([[1, 5, 6]]), torch.tensor([[7]])
    for features, message in (
        (None, "read without images"),
        (pictures(1, 2), "with 3 images, 2 given"),
    ):
        cache = text_cache(
            model(**inputs, use_cache=True, visual_features=features)
        )  # a blank one is one more
        with pytest.raises(VLMIGError, match=message):
            model(input_ids=more, visual_features=pictures(1, 1), **cache_argument(cache))


def test_configurations_that_cannot_be() -> None:
    bert = build("bert", masked=True)
    with pytest.raises(VLMIGError, match="fusion='prefix' around a masked LM"):
        VLMIGForMaskedLM(VLMIGConfig(text_config=bert.config.to_dict(), fusion="prefix"), bert)
    with pytest.raises(VLMIGError, match="vision_patches=12; expected a square"):
        VLMIGConfig(projector="pooled", vision_patches=12)
    with pytest.raises(VLMIGError, match="projector_width=12; expected a multiple of 8"):
        VLMIGConfig(projector="resampler", projector_width=12)


@torch.no_grad()
def test_round_trip(model: VLMIGForCausalLM, tmp_path: Path) -> None:
    model.config.language_model = "./language_model"
    model.save_pretrained(tmp_path, save_base=True)
    loaded, inputs = VLMIGForCausalLM.from_pretrained(tmp_path), padded(rows_of(model)[0])
    assert set(loaded.adapter_state()) == set(model.adapter_state())
    assert (loaded.config.fusion, loaded.config.visual_tokens) == (
        "prefix",
        model.config.visual_tokens,
    )
    assert torch.equal(loaded(**inputs, **both()).logits, model(**inputs, **both()).logits)


@pytest.mark.parametrize("side", [4, 3])
@torch.no_grad()
def test_a_pooled_token_is_two_by_two_patches(side: int) -> None:
    """By loops and numpy: blocks row by row, then LayerNorm and two layers; a missing patch is
    zeros."""
    torch.manual_seed(0)
    projector = PooledProjector(WIDTH, 20, 16).double()
    norm, first, second = (projector.layers[i] for i in (0, 1, 3))
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    features = torch.randn(side * side, WIDTH, dtype=torch.float64)
    found = projector(features[None, None])[0, 0]

    def patch(row: int, column: int) -> np.ndarray:
        return features[row * side + column].numpy() if max(row, column) < side else np.zeros(WIDTH)

    expected = []
    for row in range(0, side, 2):
        for column in range(0, side, 2):
            block = np.concatenate(
                [patch(row + i, column + j) for i, j in ((0, 0), (0, 1), (1, 0), (1, 1))]
            )
            block = (block - block.mean()) / np.sqrt(block.var() + norm.eps)
            inner = (
                first.weight.numpy() @ (block * norm.weight.numpy() + norm.bias.numpy())
                + first.bias.numpy()
            )
            inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
            expected.append(second.weight.numpy() @ inner + second.bias.numpy())
    assert found.shape == (4, 20)
    assert np.allclose(found.numpy(), np.stack(expected), atol=1e-12)  # float64 on both sides


@torch.no_grad()
def test_a_resampler_reads_patches_as_a_set() -> None:
    torch.manual_seed(0)
    resampler = Resampler(WIDTH, 20, queries=5, hidden=16).eval()
    nn.init.normal_(resampler.queries)
    features = pictures(2, 3)
    tokens = resampler(features)
    assert tokens.shape == (2, 3, 5, 20)
    assert torch.allclose(resampler(features[:, :, torch.randperm(PATCHES)]), tokens, atol=SAME)
    assert torch.allclose(resampler(features[1:, 2:])[0, 0], tokens[1, 2], atol=SAME), (
        "pictures mix"
    )
    assert (resampler(features.flip(-1)) - tokens).abs().max() > 1e-2
    assert resampler(features[:, :, :4]).shape == tokens.shape, "as many tokens of fewer patches"


@pytest.mark.parametrize("projector", ["pooled", "resampler"])
@pytest.mark.parametrize("fusion", ["cross_attention", "decoder_layer"])
@torch.no_grad()
def test_late_fusion_takes_fewer_tokens_than_patches(fusion: str, projector: str) -> None:
    """4 or 3 tokens of 9 patches: rows together and alone, with a cache and without."""
    fields = {
        "projector": projector,
        "projector_queries": 3,
        "projector_width": 16,
        "fusion_heads": 4,
    }
    model = make("llama", fusion=fusion, mix="evidence", **fields)
    for gate in ("attention_gate", "feed_gate") if fusion == "cross_attention" else ():
        nn.init.constant_(getattr(model.fusion, gate), 1.0)
    rows, features = [[1, 5, 6, 7, 8], [1, 9, 10]], pictures(2, IMAGINED)
    together = model(**padded(rows), visual_features=features).logits
    for row, own, logits in zip(rows, features, together, strict=True):
        alone = model(input_ids=torch.tensor([row]), visual_features=own[None]).logits[0]
        assert torch.allclose(logits[-len(row) :], alone, atol=SAME)
    assert (together.softmax(-1) - model(**padded(rows)).logits.softmax(-1)).abs().max() > 1e-3
    inputs = {name: value for name, value in padded(rows).items() if name != "position_ids"}
    settings: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    cached, anew = (
        model.generate(**inputs, visual_features=features, **settings, use_cache=u)
        for u in (True, False)
    )
    assert torch.equal(cached, anew)


def test_projectors_make_as_many_tokens_as_the_configuration_says() -> None:
    for projector in ("linear", "mlp", "pooled", "resampler"):
        for patches in (9, 16):
            config = VLMIGConfig(projector=projector, vision_patches=patches, vision_width=WIDTH)
            tokens = build_projector(config, 16)(torch.randn(2, 3, patches, WIDTH))
            assert tokens.shape == (2, 3, config.visual_tokens, 16)
