"""What is minimised and in which order: against the same computed one caption at a time, and by
hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import visual_genome
from PIL import Image

from vlmig import VLMIG, VLMIGError
from vlmig.cli.main import main
from vlmig.data.index import index
from vlmig.data.pairs import Pair
from vlmig.data.sources.table import Table
from vlmig.data.sources.visual_genome import VisualGenome
from vlmig.imagination.store import FeatureStore
from vlmig.training import load_recipe, train
from vlmig.training.batches import Order, Share
from vlmig.training.objective import Objective
from vlmig.training.texts import IGNORED, Texts, Tokens

CAPTIONS = [
    Pair(text)
    for text in (
        "the color of a cat is red .",
        "a",
        "what is the color ? the answer is blue .",
        "dark",
    )
]


def rngs(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, i)) for i in range(count)]


@pytest.fixture(params=["causal", "masked"])
def model(
    request: pytest.FixtureRequest, tiny: VLMIG, bert: Path, parts: Path, tmp_path: Path
) -> VLMIG:
    if request.param == "causal":
        return tiny
    names = {"vision": str(parts / "vision_encoder"), "generator": str(parts / "generator")}
    masked = VLMIG.from_base(str(bert), **names, store=tmp_path / "masked", fusion_heads=4)
    for gate in (masked.model.fusion.attention_gate, masked.model.fusion.feed_gate):
        torch.nn.init.constant_(gate, 1.0)
    return masked


def test_padding_changes_no_loss_and_never_trains(model: VLMIG) -> None:
    tokens = Tokens(model.tokenizer, model.model, 100, 0.5)
    objective = Objective(model.model)
    model.model.freeze_base()
    features = torch.randn(
        len(CAPTIONS),
        1,
        *model.model.blank_features.shape,
        generator=torch.Generator().manual_seed(0),
    )
    batch = tokens.batch(CAPTIONS, rngs(4))
    assert (batch.labels[batch.attention_mask == 0] == IGNORED).all()
    together = objective(batch, features)["own"]
    together.backward()
    padded = {
        name: p.grad.clone() for name, p in model.model.named_parameters() if p.grad is not None
    }
    model.model.zero_grad()
    alone = sum(
        objective(tokens.batch([caption], [rng]), features[i : i + 1])["own"]
        for i, (caption, rng) in enumerate(zip(CAPTIONS, rngs(4), strict=True))
    )
    alone.backward()  # type: ignore[union-attr]
    # Sums in another order; about 30 tokens of a few nats each.
    assert together.item() == pytest.approx(alone.item(), rel=1e-5)  # type: ignore[union-attr]
    for name, own in model.model.named_parameters():
        if own.grad is not None:
            assert torch.allclose(own.grad, padded[name], atol=1e-3, rtol=1e-3), name


def test_the_loss_is_the_models_own_prediction(tiny: VLMIG) -> None:
    """Beside one picture, the drop-in class that mixes by probability with full trust predicts
    what is trained."""
    tiny.config.mix = "prob"
    batch = Tokens(tiny.tokenizer, tiny.model, 100, 0).batch(CAPTIONS[:1], rngs(1))
    features = torch.randn(
        1, 1, *tiny.model.blank_features.shape, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        log_probs = tiny.model(
            batch.input_ids, batch.attention_mask, visual_features=features
        ).logits
        expected = -log_probs[0, :-1].gather(1, batch.input_ids[0, 1:, None]).sum()
        assert Objective(tiny.model)(batch, features)["own"].item() == pytest.approx(
            expected.item(), rel=1e-5
        )
        measured = Objective(tiny.model)(batch, features, features)
        text = tiny.model.language_model(batch.input_ids, labels=batch.input_ids).loss * batch.count
    assert measured["own"] == measured["shuffled"] == pytest.approx(expected.item(), rel=1e-5)
    assert (
        measured["text"].item() == pytest.approx(text.item(), rel=1e-5)
        and measured["blank"] != measured["own"]
    )


def test_many_logits_are_made_again_a_few_rows_at_a_time(
    tiny: VLMIG, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.model.freeze_base()
    batch = Tokens(tiny.tokenizer, tiny.model, 100, 0).batch(CAPTIONS, rngs(4))
    features = torch.randn(
        4, 1, *tiny.model.blank_features.shape, generator=torch.Generator().manual_seed(0)
    )
    found = []
    for budget in (2**26, 1000):
        monkeypatch.setattr("vlmig.training.objective.LOGITS_BUDGET", budget)
        tiny.model.zero_grad()
        loss = Objective(tiny.model)(batch, features)["own"]
        loss.backward()
        found.append((loss.item(), tiny.model.projector.layers[0].weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4)


def test_hidden_tokens_of_a_masked_lm(bert: Path, parts: Path, tmp_path: Path) -> None:
    names = {"vision": str(parts / "vision_encoder"), "generator": str(parts / "generator")}
    model = VLMIG.from_base(str(bert), **names, store=tmp_path / "store")
    tokens = Tokens(model.tokenizer, model.model, 100, 0.2)
    batch = tokens.batch(
        [Pair("the color of a cat is red . what is the answer ?")] * 400, rngs(400)
    )
    original = torch.tensor(
        model.tokenizer("the color of a cat is red . what is the answer ?").input_ids
    )
    hidden = batch.labels != IGNORED
    assert (batch.labels[hidden] == original.expand(400, -1)[hidden]).all(), (
        "a label is the token that was there"
    )
    assert (batch.input_ids[~hidden] == original.expand(400, -1)[~hidden]).all(), "all else stays"
    assert not hidden[:, [0, -1]].any(), "special tokens are never guessed"
    masked = hidden & (batch.input_ids == model.tokenizer.mask_token_id)
    assert masked.any(1).all(), "every caption has a gap"
    share = hidden.float().mean().item() * len(original) / (len(original) - 2)
    assert 0.18 < share < 0.26  # a fifth, and a little more where there would be none
    assert 0.78 < masked.sum().item() / hidden.sum().item() < 0.88


def test_an_order_is_shuffled_epochs_mixed_by_weight(colored: Path, tmp_path: Path) -> None:
    read = index(Table(colored / "pairs.jsonl"), tmp_path / "index")
    one, two = np.arange(0, 30), np.arange(30, 48)
    order = Order([Share(read, one), Share(read, two)], 96, (0, 0))
    for source, rows in enumerate((one, two)):
        drawn = order.row[order.source == source]
        epochs = [drawn[i : i + len(rows)] for i in range(0, len(drawn), len(rows))]
        assert all(sorted(epoch) == list(rows) for epoch in epochs if len(epoch) == len(rows))
        assert len(epochs) < 2 or list(epochs[0]) != list(epochs[1][: len(epochs[0])])
    again, longer = (Order([Share(read, one), Share(read, two)], n, (0, 0)) for n in (96, 96))
    assert (order.row == again.row).all() and (order.source == longer.source).all()
    for weights in ((0.25, 0.75), (None, 0.75), (1.0, 3.0)):
        weighted = Order([Share(read, one, weights[0]), Share(read, two, weights[1])], 4000, (0, 0))
        assert 0.72 < (weighted.source == 1).mean() < 0.78


def test_visual_genome_as_it_comes(recipe: Path, tmp_path: Path) -> None:
    """Boxes outside, a truncated image, a grey one, a missing file, an empty phrase: skipped,
    counted, listed, trained."""
    folder = visual_genome(tmp_path / "vg")
    data = f"stages.0.data=[{{source: visual_genome, path: {folder}}}]"
    small = ["stages.0.batch=4", "stages.0.steps=4", "validation.share=0"]
    with pytest.raises(
        VLMIGError, match=r"records of visual_genome .* are bad .*at most 10 %"
    ) as caught:
        train(
            load_recipe(recipe, [data, *small]),
            tmp_path / "strict",
            store=FeatureStore(tmp_path / "store"),
        )
    assert "bad.jsonl" in str(caught.value) and "\n" not in str(caught.value)
    told = {}
    for features in ("stored", "live"):
        chosen = load_recipe(recipe, [data, *small, "max_bad=0.9", f"features={features}"])
        model = train(chosen, tmp_path / features, store=FeatureStore(tmp_path / "store"))
        (told[features],) = model.config.training["stages"][0]["data"]  # type: ignore[index]
        listed = (tmp_path / features / "training" / "bad_pictures_0.jsonl").read_text()
        assert listed.count("truncated") == 1
    expected = read_faults(folder)
    assert told["stored"].pop("unreadable") > 0
    assert {reason: told["stored"][reason] for reason in expected} == expected and told[
        "stored"
    ] == told["live"]
    logs = [(tmp_path / f / "training/colors/log.jsonl").read_text() for f in ("stored", "live")]
    assert logs[0] == logs[1]


def read_faults(folder: Path) -> dict[str, int]:
    from data_files import read, reasons

    return reasons(read(VisualGenome(folder))[1])


def test_texts_without_pictures_are_no_empty_batch(tiny: VLMIG) -> None:
    """The published loop cut such rows to nothing; here they are read beside the empty picture."""
    batch: Texts = Tokens(tiny.tokenizer, tiny.model, 100, 0).batch([Pair("a text alone")], rngs(1))
    assert batch.count == len(tiny.tokenizer("a text alone").input_ids), (
        "all but the first, and the end"
    )
    long = Tokens(tiny.tokenizer, tiny.model, 8, 0).batch(
        [Pair("a text alone that is cut")], rngs(1)
    )
    assert long.input_ids.shape == (1, 8)


def test_alignment_is_told_before_a_threshold_is_chosen(
    tiny: VLMIG, checkpoint: Path, colored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "data",
        "check",
        str(colored / "pairs.jsonl"),
        "--model",
        str(checkpoint),
        "--store",
        str(tmp_path / "s"),
    ]
    assert main([*command, "--curate", "min_alignment=0.05"]) == 0
    told = capsys.readouterr().out
    pairs = [json.loads(line) for line in (colored / "pairs.jsonl").read_text().splitlines()]
    encoder = tiny.imagination.encoder
    pictures = encoder.encode([Image.open(colored / pair["image"]) for pair in pairs])[1]
    cosines = (pictures * encoder.encode_text([pair["caption"] for pair in pairs])).sum(-1)
    assert re.search(rf"min_alignment +{int((cosines < 0.05).sum())}  would be dropped", told)
    assert f"{cosines.min():.3f}".rstrip("0") in told and f"{cosines.max():.3f}".rstrip("0") in told
    assert "cosine" not in (main(command), capsys.readouterr().out)[1]
