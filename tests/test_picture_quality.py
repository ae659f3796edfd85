"""The measure of pictures: drawings are named right, blank ones are not, and numbers mean what
they say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from eval import picture_quality
from vlmig.imagination import Request
from vlmig.models.checkpoint import POCKET
from vlmig.pocket.concepts import find_concept, load_concepts
from vlmig.pocket.scenes import glyph, recolored

CONCEPTS = load_concepts()[:24]


@pytest.fixture(scope="module")
def judge() -> picture_quality.Judge:
    return picture_quality.Judge(str(POCKET / "vision_encoder"))


class Painter:
    """Draws the drawing itself on grey."""

    def imagine(self, requests: Sequence[Request]) -> list[Tensor]:
        return [torch.from_numpy(self.paint(request)).permute(2, 0, 1) for request in requests]

    def paint(self, request: Request) -> np.ndarray:
        picture = Image.new("RGB", (64, 64), (128, 128, 128 + request.seed % 6))
        if concept := find_concept(request.prompt):
            ink = glyph(concept.glyph).resize((56, 56))
            picture.paste(ink, (4, 4), ink)
        return np.array(picture)


class Blank(Painter):
    """Draws nothing."""

    def paint(self, request: Request) -> np.ndarray:
        return np.full((64, 64, 3), 128, np.uint8)


def test_drawings_are_named_and_blanks_are_not(judge: picture_quality.Judge) -> None:
    good = picture_quality.measure(Painter(), judge, CONCEPTS, range(24), 2)
    bad = picture_quality.measure(Blank(), judge, CONCEPTS, range(24), 2)
    top1 = [float(lines[0].split("top-1 ")[1].split(" %")[0]) for lines in (good, bad)]
    assert top1[0] > 90
    assert top1[1] < 15
    assert good[2].startswith("drawn scenes")
    assert "n = 24" in good[0]


def test_scenes_of_each_set_are_named(judge: picture_quality.Judge, tmp_path: Path) -> None:
    drawn = [Painter().paint(Request(concept.name, 0, 0)) for concept in CONCEPTS]
    np.save(
        tmp_path / "scenes.npy",
        np.stack([drawn, [Blank().paint(Request("", 0, 0))] * 24])[:, :, None],
    )
    first, second = picture_quality.name_scenes(tmp_path / "scenes.npy", judge, CONCEPTS, range(24))
    assert float(first.split("top-1 ")[1].split(" %")[0]) > 90
    assert float(second.split("top-1 ")[1].split(" %")[0]) < 15


def test_a_rank_counts_nearer_names() -> None:
    names = torch.eye(3)
    pictures = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.3, 0.2]])
    assert picture_quality.ranks(pictures, names, [0, 2]).tolist() == [0, 2]


def test_a_share_has_its_wilson_interval() -> None:
    assert picture_quality.share(np.array([True] * 9 + [False])) == "90.0 % [59.6, 98.2]"


def test_same_pictures_have_no_diversity() -> None:
    same = torch.ones(2, 6, 1)
    assert picture_quality.diversity(same) == pytest.approx(0)
    assert picture_quality.diversity(torch.eye(6)[None]) == pytest.approx(1)


def test_the_wrong_colour_is_far() -> None:
    concept = find_concept("banana")
    assert concept is not None
    right = Image.fromarray(Painter().paint(Request("banana", 0, 0)))
    ink = recolored(glyph(concept.glyph), np.random.default_rng(3)).resize((56, 56))
    wrong = Image.new("RGB", (64, 64), (128, 128, 128))
    wrong.paste(ink, (4, 4), ink)
    near, far = (picture_quality.color_distance(picture, concept) for picture in (right, wrong))
    assert near < 3 < far


def test_a_contact_sheet_holds_every_picture() -> None:
    assert picture_quality.contact_sheet([Image.new("RGB", (8, 6))] * 7, columns=3).size == (24, 18)
