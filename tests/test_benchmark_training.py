"""The benchmark of training runs, its parts add up, and its sides do the same work."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import training
from benchmarks.training_sides import Clock
from vlmig.pocket.scenes import FONT


@pytest.fixture()
def one_thread() -> Iterator[None]:
    """Several threads wait for each other where other work runs beside this."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(
    not FONT.exists(), reason="the recipe's font fonts-noto-color-emoji is not installed"
)
def test_the_pocket_sides_take_turns(
    tmp_path: Path, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    sizes = "--rounds 1 --steps 2 --batch 2 --pictures 4".split()
    training.main(["--size", "pocket", *sizes, "--json", str(figures)])
    assert re.search(r"median( +[\d.]+){7}", capsys.readouterr().out)
    told = json.loads(figures.read_text())["pocket"]
    # The same samples, the same features, the same steps.
    assert told["filling"]["losses_apart"] < 1e-6
    turns = {side: turns[0] for side, turns in told["seconds_per_step"].items()}
    assert set(turns) == {"stored", "live", "photos", "imagined"}
    assert "imagine" in turns["imagined"] and "encode" in turns["live"]
    assert not {"imagine", "encode"} & set(turns["stored"])


def test_the_share_of_the_model_is_told(
    tmp_path: Path,
    one_thread: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(training, "GPT2", {"n_layer": 2, "n_embd": 64, "n_head": 2})
    figures = tmp_path / "figures.json"
    sizes = "--rounds 2 --steps 1 --batch 4 --pictures 8".split()
    training.main(["--size", "gpt2", *sizes, "--json", str(figures)])
    assert re.search(r"LM, fusion and head: [\d.]+% of a step", capsys.readouterr().out)
    told = json.loads(figures.read_text())["gpt2"]
    for turn, share in zip(told["seconds_per_step"]["stored"], told["model_share"], strict=True):
        assert {*training.GROUPS["model"], "features"} <= set(turn)
        assert 0 < share < 1


def test_a_clock_counts_nothing_twice() -> None:
    clock = Clock()
    started = time.perf_counter()
    with clock("outer"):
        time.sleep(0.02)
        with clock("inner"):
            time.sleep(0.02)
            clock.switch("later")
            time.sleep(0.02)
    assert set(clock.seconds) == {"outer", "inner", "later"}
    assert sum(clock.seconds.values()) <= time.perf_counter() - started
