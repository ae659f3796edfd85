"""Pictures that show nothing are noticed, drawn again from a recorded seed, and reported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vlmig import VLMIG, VLMIGError
from vlmig.imagination import Request, next_seed, request
from vlmig.imagination.guards import REDRAWS, diversity, faulty, guarded
from vlmig.imagination.sources.diffusion import DiffusionSource, load_pipeline
from vlmig.imagination.sources.families import Sampling
from vlmig.vision import BLANK


class Censored:
    """A real imaginer some of whose pictures come out black, as a safety checker makes them."""

    embeds = False
    seeded = True

    def __init__(self, inner: DiffusionSource, black: set[int]) -> None:
        self.inner, self.black = inner, black

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        drawn = self.inner.imagine(requests)
        return [p * 0 if r.seed in self.black else p for p, r in zip(drawn, requests, strict=True)]

    def fits(self, prompt: str) -> bool:
        return True

    def identity(self) -> dict[str, str | int | float]:
        return self.inner.identity()


@pytest.fixture()
def imaginer(parts: Path) -> DiffusionSource:
    return DiffusionSource(parts / "generator", Sampling(steps=1, guidance=0.0, size=32, batch=3))


def test_what_counts_as_faulty() -> None:
    noise = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    assert not faulty(noise)
    assert faulty(noise * 0) and faulty(torch.full((3, 8, 8), 255, dtype=torch.uint8))
    assert faulty(torch.tensor([9, 200, 30], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)), (
        "one colour is nothing"
    )
    spot = torch.zeros(3, 8, 8, dtype=torch.uint8)
    spot[0, 3, 3] = 100
    assert not faulty(spot)


def test_a_faulty_picture_is_drawn_again_from_the_next_seed(imaginer: DiffusionSource) -> None:
    asked = [request("a cat", i) for i in range(4)]
    twice = {asked[1].seed, next_seed(asked[1].seed)}
    never = [asked[2].seed]
    for _ in range(REDRAWS):
        never.append(next_seed(never[-1]))
    pictures, redraws = guarded(Censored(imaginer, twice | set(never)), asked)
    assert redraws == [0, 2, -1, 0]
    again = imaginer.imagine([Request("a cat", 1, next_seed(next_seed(asked[1].seed)))])[0]
    assert torch.equal(pictures[1], again)
    assert (pictures[2] == torch.tensor(BLANK)[:, None, None]).all(), (
        "an empty picture stands for what stays faulty"
    )
    assert torch.equal(pictures[0], imaginer.imagine(asked)[0])


def test_redraws_are_stored_and_reported(tiny: VLMIG, tmp_path: Path) -> None:
    inner = tiny.imagination.source
    assert isinstance(inner, DiffusionSource)
    tiny.imagination.source = Censored(inner, {request("a cat", 1).seed})
    assert tiny.imagine(["a cat"], k=3)[0].described()["redraws"] == [0, 1, 0]
    assert tiny.imagination.tally.redrawn == 1
    assert tiny.imagine(["a cat"], k=3)[0].described()["redraws"] == [0, 1, 0]
    assert tiny.imagination.store.statistics()[0]["redrawn"] == 1
    tiny.imagination.fill(["a cat", "a dog"], k=3, report=tmp_path / "report.jsonl")
    lines = (tmp_path / "report.jsonl").read_text().splitlines()
    assert len(lines) == 2 and '"redraws": [0, 1, 0]' in lines[0] and '"diversity": ' in lines[1]


def test_a_generator_that_draws_nothing_at_all_is_an_error(tiny: VLMIG) -> None:
    """NaN from a decoder in half precision comes out black."""
    imaginer = tiny.imagination.source
    assert isinstance(imaginer, DiffusionSource)
    imaginer.pipeline.vae.decoder.conv_out.bias.data.fill_(torch.nan)
    with pytest.raises(
        VLMIGError, match="all 4 images of a batch are black.*imaginer_dtype=float32"
    ) as caught:
        tiny.imagine(["a cat", "a dog"], k=2)
    assert "\n" not in str(caught.value)
    assert len(tiny.imagination.store) == 0


def test_a_prompt_for_nothing_stops_no_run(tiny: VLMIG) -> None:
    """ "A plain black square" may well be black: it counts as empty, alone or after others."""
    inner = tiny.imagination.source
    assert isinstance(inner, DiffusionSource)
    seeds = [request("a black square", i).seed for i in range(2)]
    for _ in range(REDRAWS):
        seeds += [next_seed(seed) for seed in seeds]
    tiny.imagination.source = Censored(inner, set(seeds))
    alone = tiny.imagine(["a black square"], k=2)[0]
    assert alone.described()["redraws"] == [-1, -1]
    assert torch.equal(alone.features[0], tiny.model.blank_features.float())
    assert tiny.imagination.tally.faulty == 2


def test_a_batch_without_memory_is_halved(
    parts: Path, imaginer: DiffusionSource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="vlmig")
    asked = [request("a cat", i) for i in range(5)]
    whole = imaginer.imagine(asked)
    poor = DiffusionSource(parts / "generator", Sampling(steps=1, guidance=0.0, size=32, batch=3))
    draw = poor._draw

    def scarce(batch: list[Request]) -> list[Tensor]:
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return draw(batch)

    poor._draw = scarce  # type: ignore[method-assign]
    for one, other in zip(whole, poor.imagine(asked), strict=True):
        # Another batch size may round another way: at most one of 255 levels.
        assert (one.int() - other.int()).abs().max() <= 1
    assert "no memory for a batch of 3 images; continuing with 1" in caplog.text
    assert poor.identity() == imaginer.identity(), "what is stored stays found"
    poor._draw = lambda batch: (_ for _ in ()).throw(RuntimeError("can't allocate memory"))  # type: ignore[method-assign]
    with pytest.raises(
        VLMIGError,
        match="no memory for even one image of 32 pixels; choose a smaller imaginer_size",
    ):
        poor.imagine(asked)
    poor._draw = lambda batch: (_ for _ in ()).throw(RuntimeError("shape mismatch"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shape mismatch"):
        poor.imagine(asked)


def test_a_safety_checker_does_not_paint_pictures_black(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = load_pipeline(str(parts / "generator"), None, torch.float32)
    checked.safety_checker = torch.nn.Identity()
    monkeypatch.setattr("vlmig.imagination.sources.diffusion.load_pipeline", lambda *_: checked)
    assert DiffusionSource(parts / "generator").pipeline.safety_checker is None


def test_diversity() -> None:
    one = torch.eye(3)
    assert diversity(one) == pytest.approx(1.0)
    assert diversity(one[:1].expand(4, 3)) == pytest.approx(0.0)
    assert diversity(one[:1]) == 0.0
