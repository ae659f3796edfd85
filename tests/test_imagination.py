"""A picture depends on its prompt, its seed and the settings alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlmig import VLMIG, VLMIGError
from vlmig.imagination import request
from vlmig.imagination.prompts import subject_of
from vlmig.imagination.sources.diffusion import DiffusionSource
from vlmig.imagination.sources.families import Sampling
from vlmig.imagination.store import FeatureStore
from vlmig.io.rows import read_prompts, shard_of
from vlmig.vision import VisionEncoder

SETTINGS: dict[str, Any] = {"steps": 2, "guidance": 3.0, "size": 32, "batch": 4}


def pixels(picture: Image.Image | torch.Tensor) -> bytes:
    return np.asarray(picture).tobytes()


def imaginer(parts: Path, **settings: Any) -> DiffusionSource:
    return DiffusionSource(parts / "generator", Sampling(**{**SETTINGS, **settings}))


def test_a_picture_is_the_same_whatever_the_batch_the_order_and_the_number(parts: Path) -> None:
    draw = imaginer(parts).imagine
    requests = [request(prompt, i) for prompt in ("a cat", "the sea") for i in range(5)]
    together = dict(zip(requests, map(pixels, draw(requests)), strict=True))
    assert len(set(together.values())) == len(requests), "every picture should differ"
    order = np.random.default_rng(3).permutation(len(requests))
    turned = [requests[i] for i in order]
    assert dict(zip(turned, map(pixels, draw(turned)), strict=True)) == together
    for alone in requests[::3]:
        assert pixels(draw([alone])[0]) == together[alone]


def test_seeds_are_stable_across_processes() -> None:
    # Written down once: a change would orphan every stored picture.
    assert request("a banana", 0) == request("a banana", 0)
    assert request("a banana", 3, seed=1).seed == 41739212577958013
    assert len({request(p, i, s).seed for p in "ab" for i in range(9) for s in range(3)}) == 54


def test_settings_and_weights_are_part_of_the_identity(parts: Path) -> None:
    first = imaginer(parts).identity()
    others: list[dict[str, Any]] = [
        {"steps": 3},
        {"guidance": 4.0},
        {"size": 64},
        {"batch": 3},
        {"compile": True},
    ]
    described = [first, *(imaginer(parts, **other).identity() for other in others)]
    assert len({tuple(sorted(d.items())) for d in described}) == 6
    assert first == imaginer(parts).identity()


def test_a_missing_generator_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        VLMIGError, match="cannot load the generator .*expected the hub id or folder"
    ) as caught:
        DiffusionSource(tmp_path / "nothing").imagine([request("a cat", 0)])
    assert "\n" not in str(caught.value)


def test_predictor_imagines_nothing_twice(tiny: VLMIG) -> None:
    drawn: list[int] = []
    plain = tiny.imagination.source.imagine
    tiny.imagination.source.imagine = lambda requests: (
        drawn.append(len(requests)) or plain(requests)
    )  # type: ignore[method-assign]
    few = tiny.imagine(["a cat", "a dog", "a cat"], k=2)
    assert sum(drawn) == 4
    more = tiny.imagine(["a cat"], k=3)[0]
    assert sum(drawn) == 5
    assert [pixels(p) for p in more.images[:2]] == [pixels(p) for p in few[0].images]
    assert (more.features[:2] == few[0].features).all()


def test_a_prompt_is_embedded_once(tiny: VLMIG, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny.imagine(["a cat", "a dog"], k=2)
    encoder = tiny.imagination.encoder
    direct = encoder.encode_text(["a cat", "a dog"])
    monkeypatch.setattr(encoder, "encode_text", lambda _: pytest.fail("embedded again"))
    again = tiny.imagine(["a dog", "a cat"], k=2)[::-1]
    for before, after, text in zip(first, again, direct, strict=True):
        pooled = torch.stack([item.pooled for item in after.items])
        assert torch.equal(before.alignment, after.alignment)
        assert torch.equal(after.alignment, (pooled * text).sum(-1))


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("What is the color of a banana?", "a banana"),
        ("What's the color of a tench?", "a tench"),
        ("What color is the tiger shark?", "the tiger shark"),
        ("Q: What is the color of a sunflower? A: It is", "a sunflower"),
        ("The typical color of the ocean is", "the ocean"),
        ("Question: What is the shape of a wheel? Answer:", "a wheel"),
        ("A banana is", "A banana"),
        ("grass usually has the color of", "grass"),
        ("Tell me a story", "Tell me a story"),
    ],
)
def test_the_subject_of_a_question_is_imagined(question: str, subject: str) -> None:
    assert subject_of(question) == subject


def test_weights_trained_with_quick_gelu_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def create(source: str, **settings: Any) -> Any:
        asked.append(settings)
        raise OSError("offline")

    monkeypatch.setattr("open_clip.create_model_from_pretrained", create)
    for name in ("ViT-B-32/openai", "ViT-B-32/laion2b_s34b_b79k"):
        with pytest.raises(VLMIGError, match="offline"):
            VisionEncoder(name)
    assert [settings["force_quick_gelu"] for settings in asked] == [True, False]


def test_bulk_imagination_in_shards_equals_one_run_and_is_never_repeated(
    tiny: VLMIG, tmp_path: Path
) -> None:
    prompts = [f"thing {i}" for i in range(9)] + ["thing 3"]
    shards = [shard_of(prompts, i, 3) for i in range(3)]
    assert sorted(sum(shards, [])) == sorted(prompts)
    assert [shard_of(prompts[::-1], i, 3)[::-1] for i in range(3)] == shards, (
        "a shard depends on the order"
    )
    for shard in shards:
        tiny.imagination.fill(shard, k=2)
    tally = tiny.imagination.tally
    assert (tally.drawn, tally.stored) == (18, 0)
    tiny.imagination.fill(prompts, k=2)
    assert (tally.drawn, tally.stored) == (18, 18)
    whole = {v.prompt: v for v in tiny.imagine(prompts, k=2)}
    tiny.imagination.store = FeatureStore(tmp_path / "other")
    tiny.imagination.fill(prompts[::-1], k=3)
    assert tally.drawn == 18 + 27
    for visuals in tiny.imagine(prompts, k=2):
        assert torch.equal(visuals.features, whole[visuals.prompt].features)


def test_a_full_store_needs_no_generator(tiny: VLMIG) -> None:
    tiny.imagine(["a cat"], k=2)
    again = VLMIG(tiny.model, tiny.tokenizer, tiny.folder, tiny.imagination.store.path.parent)
    again.imagine(["a cat"], k=2)
    assert "pipeline" not in vars(again.imagination.source)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", '{"text": "a cat"}\n', "line 1 has no column prompt; it has text"),
        ("p.csv", "text\na cat\n", "line 2 has no column prompt; it has text"),
        ("p.jsonl", "{\n", "line 1: not JSON"),
        ("p.jsonl", '{"prompt": 1}\n', "line 1: prompt is 1; expected Unicode text"),
        (
            "p.csv",
            "prompt\na red, big apple\n",
            "line 2: wrong number of fields .got 2, expected 1",
        ),
        ("p.txt", "\n\n", "holds no prompts"),
    ],
)
def test_prompt_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(VLMIGError, match=message):
        read_prompts(tmp_path / name)
    with pytest.raises(VLMIGError, match="no file or folder .*expected a text file"):
        read_prompts(tmp_path / "nowhere")
    with pytest.raises(VLMIGError, match="no prompts at"):
        read_prompts(tmp_path / "nowhere.txt")
    for good, rows in (("g.txt", "a cat\n\na dog\na cat\n"), ("g.csv", "prompt\na cat\na dog\n")):
        (tmp_path / good).write_text(rows)
        assert read_prompts(tmp_path / good) == ["a cat", "a dog"]
