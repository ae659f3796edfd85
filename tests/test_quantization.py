"""Weights of 8 and 4 bits: smaller, nearly the same answers, and a checkpoint of them is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import quantization as benchmark
from vlmig import VLMIG, VLMIGError
from vlmig.imagination.store import FeatureStore
from vlmig.models.quantization import config_for, weight_bytes

pytest.importorskip("bitsandbytes")
QUESTION, CHOICES = "What is the color of a banana?", ["yellow", "red", "green"]
# What rounding to 127 steps, or to 16 values, does to the probability of an answer here; about three
# and five times the largest seen (0.004, 0.007). Beside random features it does more (0.004, 0.032).
CLOSE = {"8bit": 0.01, "4bit": 0.03}
CLOSE_BESIDE_NOISE = {"8bit": 0.01, "4bit": 0.06}
PLAIN = {"strength": 1.0}
"""A mixture that does not multiply what rounding does to the images' evidence."""
SHARE = {"8bit": 0.5, "4bit": 0.4}
"""Of the whole model's bytes; its embeddings, over a quarter of it, stay whole."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Pictures are imagined once for all models."""
    return FeatureStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def whole(store: FeatureStore) -> VLMIG:
    return VLMIG.from_pretrained("pocket", store=store, **PLAIN)


def logits(model: VLMIG) -> torch.Tensor:
    ids = model.tokenizer("A banana is a yellow fruit.", return_tensors="pt").input_ids
    features = torch.randn(
        1, 2, *model.model.blank_features.shape, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        return model.model(ids, visual_features=features).logits.float()


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_the_pocket_model_is_smaller_and_answers(
    kind: str, whole: VLMIG, store: FeatureStore
) -> None:
    small = VLMIG.from_pretrained(
        "pocket", store=store, quantization_config=config_for(kind), **PLAIN
    )
    before, after = (weight_bytes(model.model.language_model) for model in (whole, small))
    assert after < SHARE[kind] * before
    assert (logits(small).exp() - logits(whole).exp()).abs().max() < CLOSE_BESIDE_NOISE[kind]
    assert not torch.equal(logits(small), logits(whole)), "nothing was rounded"
    answer, expected = (model.ask(QUESTION, CHOICES, k=1) for model in (small, whole))
    assert answer.answer == expected.answer == "yellow"
    for choice, probability in expected.text_only.items():
        assert answer.text_only[choice] == pytest.approx(probability, abs=CLOSE[kind])
    assert small.generate(["The color of a banana is"], k=1, max_new_tokens=2) == [" yellow."]
    assert weight_bytes(small.model.language_model) == after, "using it made it larger"


@pytest.mark.parametrize("settings", [{}, {"dtype": "bfloat16"}], ids=["float32", "bfloat16"])
def test_a_checkpoint_of_few_bits_is_loaded_as_it_is(
    settings: dict[str, Any], store: FeatureStore, tmp_path: Path
) -> None:
    model = VLMIG.from_pretrained(
        "pocket", store=store, quantization_config=config_for("4bit"), **settings
    )
    model.model.save_pretrained(tmp_path, save_base=True)
    loaded = VLMIG.from_pretrained(tmp_path, store=store)
    assert weight_bytes(loaded.model.language_model) == weight_bytes(model.model.language_model)
    assert (logits(loaded) - logits(model)).abs().max() < 1e-6  # the same bits


def test_what_cannot_be_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VLMIGError, match="quantize='2bit'; expected one of 8bit, 4bit"):
        config_for("2bit")
    monkeypatch.setattr("vlmig.models.quantization.find_spec", lambda name: None)
    with pytest.raises(
        VLMIGError, match=r"needs bitsandbytes; install it with pip install \"vlmig\[quantize\]\""
    ):
        config_for("8bit")


def test_the_benchmark_prints_a_row_for_each(
    tmp_path: Path,
    store: FeatureStore,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(benchmark.TASKS, "pocket_text")  # its corpus takes seconds to write
    monkeypatch.setattr(
        benchmark, "KINDS", {name: benchmark.KINDS[name] for name in ("whole", "4bit")}
    )
    places = ["--store", str(store.path.parent), "--out", str(tmp_path), "--data", str(tmp_path)]
    benchmark.main(["--limit", "1", "--k", "1", *places])
    head, _, *rows = [
        line.strip("| ").split(" | ")
        for line in capsys.readouterr().out.splitlines()
        if line[:1] == "|"
    ]
    assert head[3:] == ["pocket_known, text only", "pocket_known, k=1"], (
        "there is no file of memory_color"
    )
    assert [row[0] for row in rows] == ["whole", "4bit"] and float(rows[1][1]) < 0.4 * float(
        rows[0][1]
    )
    assert benchmark.cell({"acc": None, "perplexity": 3.5, "n": 7}) == "3.5000 (n = 7)"
