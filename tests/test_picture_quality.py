"""The measure of pictures: drawings are named right, blank ones are not, and numbers mean what
they say."""

from __future__ import annotations

from collections.abc import Sequence

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


def top1(line: str) -> float:
    return float(line.split("top-1 ")[1].split(" %")[0])


def test_drawings_are_named_and_blanks_are_not(judge: picture_quality.Judge) -> None:
    font = picture_quality.draw_scenes(CONCEPTS)
    scenes = np.concatenate([font, np.full_like(font, 128)])
    good, bad = (
        picture_quality.measure(painter, judge, CONCEPTS, list(range(24)), scenes, 2)
        for painter in (Painter(), Blank())
    )
    assert top1(good[0]) > 90
    assert top1(bad[0]) < 15
    first, second = (line for line in good if line.startswith("drawn scenes, set"))
    assert top1(first) > 90
    assert top1(second) < 15
    assert "n = 24" in good[0]
    shapes = [line for line in good if "shape read" in line]
    assert len(shapes) == 2 and all(
        float(line.split("read ")[1].split(" %")[0]) > 60 for line in shapes
    )
    assert any(line.startswith("like set 1, 2, ...: 100 %, 0 %") for line in good)


def test_silhouettes_are_those_of_the_drawing() -> None:
    """What colours tell, beside where the drawing's ink truly lies."""
    overlaps = []
    for concept in CONCEPTS:
        ink = glyph(concept.glyph).resize((56, 56))
        true = np.zeros((64, 64), bool)
        true[4:60, 4:60] = np.asarray(ink)[..., 3] > 128
        found = picture_quality.silhouette(
            Image.fromarray(Painter().paint(Request(concept.name, 0, 0)))
        )
        overlaps.append((found & true).sum() / (found | true).sum())
    # Thin parts and ink of the background's colour are missed.
    assert np.mean(overlaps) > 0.85


def test_an_outline_does_not_depend_on_place_and_size() -> None:
    mask = np.zeros((96, 96), bool)
    mask[10:34, 20:68] = True
    mask[10:22, 20:44] = False
    moved = np.zeros((96, 96), bool)
    moved[46:94, 0:96] = np.kron(mask[10:34, 20:68], np.ones((2, 2), bool))
    assert (picture_quality.outline(mask) == picture_quality.outline(moved)).mean() > 0.95
    assert not picture_quality.outline(np.zeros((8, 8), bool)).any()


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
    near, far = (picture_quality.nearest_looks([image], [[right]])[1] for image in (right, wrong))
    assert near < 3 < far


def test_a_contact_sheet_holds_every_picture() -> None:
    assert picture_quality.contact_sheet([Image.new("RGB", (8, 6))] * 7, columns=3).size == (24, 18)
