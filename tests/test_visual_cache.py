"""Pictures are read once: between questions, between decoding steps; and what is mixed before the
head equals what is mixed behind it."""

from __future__ import annotations

import pytest
import torch
from families import CAUSAL, build
from test_shared_prefix import model_of

from vlmig import VLMIG
from vlmig.models.cache import cache_argument, text_cache
from vlmig.models.heads import causal_logits, is_linear
from vlmig.models.modeling import VLMIGForCausalLM
from vlmig.models.text_states import LateReading


def count_calls(module: torch.nn.Module) -> list[int]:
    """Note how many images each call of a projector sees."""
    calls: list[int] = []
    module.register_forward_hook(lambda _, args, __: calls.append(args[0].shape[:-2].numel()))
    return calls


def reading_of(model: VLMIGForCausalLM, rows: int = 2, asked: int = 3) -> LateReading:
    ids = torch.randint(3, 97, (rows, 7), generator=torch.Generator().manual_seed(3))
    reading = model.read({"input_ids": ids, "attention_mask": None, "use_cache": False}, asked)
    assert isinstance(reading, LateReading)
    return reading


LINEAR = [
    family
    for family in ("gpt2", "llama", "phi", "gptj", "granite", "cohere", "opt")
    if family in CAUSAL
]
"""Plain heads, heads with a bias, scaled logits, a projection before the head."""


@torch.no_grad()
@pytest.mark.parametrize("family", LINEAR)
@pytest.mark.parametrize(
    ("rule", "strength", "doubt"),
    [("logit", 1.0, 0.0), ("evidence", 2.5, 0.0), ("evidence", 1.5, 0.7)],
)
def test_states_mixed_before_a_linear_head_predict_what_is_mixed_behind_it(
    family: str, rule: str, strength: float, doubt: float
) -> None:
    model = model_of(family, "cross_attention", mix=rule, strength=strength, doubt=doubt)
    assert model._can_mix_states
    states, trust = torch.randn(5, 6 + (rule == "evidence"), model.state_width()), torch.rand(5, 5)
    before, behind = model._mix_states(states, trust), model._mix_predictions(states, trust)
    # Log-probabilities down to some tens of nats; two orders of the same sums in float32.
    assert torch.allclose(before, behind, atol=2e-4, rtol=1e-5)
    assert torch.allclose(before.exp().sum(-1), torch.ones(5), atol=1e-5)


@torch.no_grad()
def test_only_linear_heads_and_weights_that_are_known_before_are_mixed_so() -> None:
    assert not is_linear(build("gemma2"), causal_logits), "its logits are capped"
    for fields, mixes in (
        ({"mix": "evidence"}, True),
        ({"mix": "evidence", "weights": "entropy"}, False),
        ({"mix": "prob"}, False),
        ({"mix": "geometric"}, False),
    ):
        assert model_of("gpt2", "cross_attention", **fields)._can_mix_states is mixes


@torch.no_grad()
@pytest.mark.parametrize("family", LINEAR)
def test_few_rows_from_the_other_side_are_the_heads_own(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmig.models.heads.FEW", 64)  # below the size of this vocabulary
    base = build(family)
    head = base.get_output_embeddings()
    for shape in ((1,), (2,), (3, 4), (2, 3, 5), (65,)):
        states = torch.randn(*shape, head.in_features)
        watched = head.register_forward_hook(lambda *_: None)  # then it is called as a module
        expected = causal_logits(base, states)
        watched.remove()
        assert torch.allclose(causal_logits(base, states), expected, atol=1e-4, rtol=1e-5), shape


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["cross_attention", "decoder_layer"])
def test_a_continuation_sees_its_pictures_once(fusion: str) -> None:
    model = model_of("gpt2", fusion)
    calls, features = count_calls(model.projector), torch.randn(1, 3, 5, 12)
    ids = torch.randint(3, 97, (1, 6))
    settings = {"do_sample": False, "min_new_tokens": 5, "max_new_tokens": 5, "pad_token_id": 0}
    kept = model.generate(input_ids=ids, visual_features=features, **settings)
    assert calls == [4], "three pictures and an empty one, in the first step only"
    again = model.generate(input_ids=ids, visual_features=features, use_cache=False, **settings)
    assert calls == [4] + [4] * 5 and torch.equal(kept, again)


@torch.no_grad()
def test_other_pictures_in_the_same_cache_are_seen_anew() -> None:
    model, ids = model_of("gpt2", "cross_attention"), torch.randint(3, 97, (1, 6))
    one, other = torch.randn(2, 1, 3, 5, 12)
    cache = text_cache(model(input_ids=ids, visual_features=one, use_cache=True))
    changed = model(input_ids=ids[:, -1:], visual_features=other, **cache_argument(cache)).logits
    whole = model(
        input_ids=torch.cat([ids, ids[:, -1:]], 1), visual_features=other, logits_to_keep=1
    ).logits
    assert torch.allclose(changed, whole, atol=1e-5)


def test_questions_about_the_same_pictures_see_them_once(tiny: VLMIG) -> None:
    calls, visuals = count_calls(tiny.model.projector), tiny.imagine(["a cat"], 3)
    first = tiny.score(["the cat is"], [["red", "blue"]], visuals)[0]
    assert calls == [4]
    tiny.score(["a cat looks", "the cat"], [["red", "blue"]] * 2, visuals * 2)
    tiny.score(["the cat is"], [["dark red", "blue"]], tiny.imagine(["a cat"], 3))
    assert calls == [4], "other questions, other wordings, and asked for again"
    tiny.score(["the cat is"], [["red", "blue"]], tiny.imagine(["a cat"], 2))
    assert calls == [4, 3], "another set"
    again = tiny.score(["the cat is"], [["red", "blue"]], visuals)[0]
    assert calls == [4, 3] and again.per_image == pytest.approx(first.per_image, abs=1e-6)


def test_a_changed_adapter_sees_them_anew(tiny: VLMIG) -> None:
    visuals = tiny.imagine(["a cat"], 3)
    before = tiny.score(["the cat is"], [["a", "b"]], visuals)[0]
    optimizer = torch.optim.AdamW(tiny.model.projector.parameters(), lr=0.1)
    tiny.model(input_ids=torch.tensor([[5, 6]]), visual_features=visuals[0].features[None]).logits[
        0, -1, 5
    ].backward()
    optimizer.step()
    after = tiny.score(["the cat is"], [["a", "b"]], visuals)[0]
    assert abs(after.per_image - before.per_image).max() > 1e-4
    fresh = torch.stack([*tiny.model.encode_with_blank(visuals[0].features[None])])
    assert torch.equal(torch.stack([*tiny.visual_cache(visuals)]), fresh)
    state = {name: value.clone() for name, value in tiny.model.projector.state_dict().items()}
    tiny.model.projector.load_state_dict({name: 0 * value for name, value in state.items()})
    assert not torch.equal(torch.stack([*tiny.visual_cache(visuals)]), fresh)


def test_the_oldest_go_when_there_is_no_room(tiny: VLMIG, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [tiny.imagine([text], 2)[0] for text in ("a cat", "a dog", "a cow")]
    size = sum(part.numel() * part.element_size() for part in tiny.visual_cache(sets[:1]) or ())
    monkeypatch.setattr("vlmig.predict.images.BYTES", 2 * size)
    calls = count_calls(tiny.model.projector)
    for own in (sets[0], sets[1], sets[0], sets[2], sets[0], sets[1]):
        tiny.visual_cache([own])
    assert calls == [3, 3, 3], "dog, cow, and dog again, which was used longest ago"


def test_given_pictures_are_not_kept(tiny: VLMIG) -> None:
    from PIL import Image

    calls, picture = count_calls(tiny.model.projector), Image.new("RGB", (32, 32), "red")
    for _ in range(2):
        tiny.ask("what is it?", ["a", "b"], images=picture)
    assert calls == [2, 2], "they have no place in the store, by which they would be known"
