"""A context that several candidates share is read once, and everything comes out as if each had
been read whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import build
from transformers.cache_utils import DynamicCache

from vlmig import VLMIG
from vlmig.models.config import VLMIGConfig
from vlmig.models.modeling import VLMIGForCausalLM
from vlmig.predict.batching import (
    Batch,
    add_scores,
    read_requests,
    read_shared,
    shared_length,
    split_shared,
)
from vlmig.predict.scores import Scores
from vlmig.processing.pairs import ScoreRequest

ATOL = 2e-5
"""Sums of another order, in float32, on log-probabilities of some ten nats."""
FAMILIES = ["gpt2", "llama", "mistral", "qwen3", "phi", "opt"]


def model_of(family: str, fusion: str, **fields: Any) -> VLMIGForCausalLM:
    base = build(family)
    shape = {"vision_patches": 5, "vision_width": 12, "fusion_heads": 4}
    torch.manual_seed(1)
    model = VLMIGForCausalLM(
        VLMIGConfig(text_config=base.config, fusion=fusion, **shape, **fields), base
    ).eval()
    if fusion == "cross_attention":
        torch.nn.init.constant_(model.fusion.attention_gate, 1.0)
    return model


def requests_of(rng: torch.Generator) -> list[ScoreRequest]:
    """Three contexts of different lengths with three candidates of one to four tokens each."""
    requests = []
    for context, length in enumerate((30, 41, 25)):
        begin = torch.randint(3, 97, (length,), generator=rng).tolist()
        for candidate, size in enumerate((4, 1, 3)):
            own = torch.randint(3, 97, (size,), generator=rng).tolist()
            requests.append(ScoreRequest(context, [*begin, *own[:-1]], [(candidate, own)]))
    return requests


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["cross_attention", "decoder_layer"])
@pytest.mark.parametrize("family", FAMILIES)
def test_read_once_equals_read_whole(family: str, fusion: str) -> None:
    model, requests = model_of(family, fusion), requests_of(torch.Generator().manual_seed(0))
    visual = model.encode_with_blank(torch.randn(1, 2, 5, 12).expand(len(requests), -1, -1, -1))
    _, families = split_shared(model, requests)
    assert sum(map(len, families)) == len(requests) and [
        shared_length(own) for own in families
    ] == [29, 40, 24]
    rows: list[int] = []
    model.trunk.register_forward_hook(
        lambda _, args, kwargs, __: rows.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    results = [[Scores.zero(3, torch.ones(2).numpy()) for _ in range(3)] for _ in range(2)]
    whole = read_requests(model, requests, 0)
    shared = read_shared(model, families, 0)
    assert shared is not None and rows[1] + rows[2] < 0.45 * rows[0], "the LM sees far fewer tokens"
    for reading, own in zip((whole, shared), results, strict=True):
        add_scores(model, Batch(requests, [], reading), visual, own)
    for one, other in zip(*results, strict=True):
        for name in ("text", "blank", "per_image"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=ATOL), name


def test_what_is_asked_is_read_behind_the_shared_tokens() -> None:
    """The last token of a context predicts its candidates' first, so it is not among what is
    shared."""
    assert (
        shared_length(
            [ScoreRequest(0, [1, 2, 3], [(0, [9])]), ScoreRequest(0, [1, 2, 3, 9], [(1, [9, 8])])]
        )
        == 2
    )
    assert (
        shared_length(
            [
                ScoreRequest(0, [1, 2, 3, 4], [(0, [4, 5])]),
                ScoreRequest(0, [1, 2, 7, 4], [(1, [4, 6])]),
            ]
        )
        == 2
    )
    assert shared_length([ScoreRequest(0, [1], [(0, [9])]), ScoreRequest(0, [2], [(1, [9])])]) == 0


def test_who_does_not_share() -> None:
    requests = requests_of(torch.Generator().manual_seed(0))
    for fields in ({"fusion": "prefix"}, {"fusion": "decoder_layer", "protocol": "reference"}):
        alone, shared = split_shared(model_of("gpt2", **fields), requests)
        assert alone == requests and not shared
    assert split_shared(model_of("gemma3_text", "cross_attention"), requests) == (requests, []), (
        "it has windows"
    )
    short = [ScoreRequest(0, [1, 2, 3, 4, own], [(0, [own, 5])]) for own in (7, 8)]
    assert split_shared(model_of("gpt2", "cross_attention"), short) == (short, [])


def test_scores_and_answers_are_the_same(tiny: VLMIG, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = [
        "the cat that sat on the mat is of the color",
        "a dog is",
        "something rather long that goes on and on, and is",
    ]
    choices = [
        ["dark red", "blue", "green as grass"],
        ["a", "b"],
        ["a cat", "the dark", "red cats", "x"],
    ]
    visuals = tiny.imagine(contexts, 2)
    shared = tiny.score(contexts, choices, visuals)
    together = tiny.loglikelihood(
        [(c, f" {o}") for c, own in zip(contexts, choices, strict=True) for o in own], k=2
    )
    monkeypatch.setattr("vlmig.predict.batching.LEAST", 10**9)
    whole = tiny.score(contexts, choices, visuals)
    apart = tiny.loglikelihood(
        [(c, f" {o}") for c, own in zip(contexts, choices, strict=True) for o in own], k=2
    )
    assert together == pytest.approx(apart, abs=1e-4)
    for one, other in zip(shared, whole, strict=True):
        for name in ("text", "blank", "per_image"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-4), name


def test_another_kind_of_cache_is_read_whole(tiny: VLMIG, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tiny.loglikelihood(
        [
            ("the cat that sat on the mat is", " dark red"),
            ("the cat that sat on the mat is", " blue"),
        ],
        k=0,
    )
    monkeypatch.setattr("vlmig.predict.batching.DynamicCache", type("Other", (DynamicCache,), {}))
    after = tiny.loglikelihood(
        [
            ("the cat that sat on the mat is", " dark red"),
            ("the cat that sat on the mat is", " blue"),
        ],
        k=0,
    )
    assert after == pytest.approx(before, abs=1e-4)
