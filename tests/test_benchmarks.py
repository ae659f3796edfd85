"""The benchmarks run, and compare sides that do the same; how fast they are is never tested."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks import curves, end_to_end, scoring
from benchmarks.side_by_side import in_turns, ratios


def test_sides_take_turns_and_are_compared_round_by_round() -> None:
    order: list[str] = []
    found = in_turns({name: lambda name=name: order.append(name) for name in ("a", "b")}, 4)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab" + "ba", (
        "once unmeasured, then every other round backwards"
    )
    assert len(found["a"]) == len(found["b"]) == 4
    assert ratios({"a": [2.0, 9.0, 4.0, 6.0], "b": [1.0, 3.0, 2.0, 3.0]}, "a", "b") == (
        2.0,
        2.0,
        2.0,
    )


@torch.no_grad()
def test_the_sides_of_scoring_predict_the_same() -> None:
    bench = scoring.Bench("pocket", 9, torch.device("cpu"))
    pixels, features = bench.pictures(3)
    states = bench.model.encode_with_blank(features)
    assert torch.allclose(bench.text(), bench.all(states)[0][:, -1], atol=1e-5)
    for kept, new in zip(bench.all(states), bench.all(features), strict=True):
        assert torch.allclose(kept, new, atol=1e-5)
    bench.model.config.mix, bench.model.config.weights = "evidence", "uniform"  # as the side does
    whole = bench.model(bench.ids, visual_features=features, logits_to_keep=1).logits
    assert torch.allclose(bench.mixed(states, "evidence"), whole, atol=1e-5)
    assert bench.plain(pixels).sum() == pytest.approx(1, abs=1e-4)


def test_scoring_tells_every_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    scoring.main(
        [
            "--size",
            "pocket",
            "--k",
            "2",
            "--rounds",
            "1",
            "--new-tokens",
            "2",
            "--json",
            str(figures),
        ]
    )
    told = json.loads(figures.read_text())
    assert (
        told["next_token"]["text"]["ratio"] == 1
        and told["next_token"]["k=2 plain"]["flop"] > told["next_token"]["k=2 all"]["flop"]
    )
    assert {"text", "k=2 evidence", "k=2 prob"} <= set(told["generation"])
    assert re.search(r"k=2 kept, prob +[\d.]+ +[\d.]+ ", capsys.readouterr().out)


def test_curves_have_a_slope_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, values in (("KS", (1, 3)), ("LENGTHS", (8, 16)), ("BATCHES", (1, 2))):
        monkeypatch.setattr(curves, name, values)
    figures, drawn = tmp_path / "figures.json", tmp_path / "curves.png"
    curves.main(["--size", "pocket", "--rounds", "1", "--json", str(figures), "--plot", str(drawn)])
    told = json.loads(figures.read_text())
    assert [point["k"] for point in told["k"][:2]] == [1, 3] and set(told["k"][2]["slope"]) == set(
        curves.SIDES
    )
    assert drawn.read_bytes().startswith(b"\x89PNG")


@pytest.mark.proof
def test_from_nothing_to_answers_the_plain_loop_says_the_same(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    end_to_end.main(
        [
            "--data",
            str(data),
            "--questions",
            "1",
            "--blocks",
            "1",
            "--k",
            "2",
            "--json",
            str(figures),
        ]
    )
    told = json.loads(figures.read_text())
    assert told["equal"] == 1 and set(told["seconds"]) == set(end_to_end.SIDES)
    assert "give the same answer to 100.00% of the wordings" in capsys.readouterr().out
