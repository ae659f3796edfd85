"""What eval.grounding and eval.belief count: silhouettes, shares, doses."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from eval.belief import Belief, answers, half_dose
from eval.grounding import interval, on_patches, share_inside
from vlmig.models.mixture import Mixture
from vlmig.pocket.scenes import SIZE, scene, scene_with_mask
from vlmig.predict.scores import Scores


def test_the_mask_is_where_the_drawing_is() -> None:
    ink = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0))
    ImageDraw.Draw(ink).ellipse((10, 10, 80, 60), fill=(255, 0, 0, 255))
    image, mask = scene_with_mask(ink, np.random.default_rng(3))
    plain = scene(ink, np.random.default_rng(3))
    assert np.array_equal(np.asarray(image), np.asarray(plain)), "the scene is what it was"
    empty = scene(Image.new("RGBA", ink.size, (0, 0, 0, 0)), np.random.default_rng(3))
    pixels = np.asarray(image)
    assert (pixels[mask == 1] == (255, 0, 0)).all() and (mask == 1).sum() > 500
    assert np.array_equal(pixels[mask == 0], np.asarray(empty)[mask == 0])


def test_shares_are_of_what_speaks_for_the_answer() -> None:
    mask = np.zeros((SIZE, SIZE))
    mask[:, : SIZE // 2] = 1
    inside = on_patches(mask, 64)
    assert inside.shape == (64,) and inside.mean() == 0.5 and inside[0] == 1 and inside[-1] == 0
    effects = np.where(inside > 0, 3.0, 1.0)
    assert share_inside(effects, inside) == pytest.approx(0.75)
    assert share_inside(np.where(inside > 0, 3.0, -9.0), inside) == 1, (
        "what speaks against does not count"
    )
    assert share_inside(-effects, inside) == 0.5, "nothing speaks for it: as large as its area"
    low, high = interval(np.array([[2.0, 1.0], [4.0, 2.0]] * 10), ["a", "b"] * 10)
    assert low == high == 2.0, "every concept has one ratio"


def test_half_is_where_the_line_crosses_it() -> None:
    follows = np.array([[0.0, 0.0, 0.6], [0.25, 0.1, 0.7], [0.75, 0.2, 0.8]])
    assert half_dose(follows).tolist() == [75.0, np.inf, 0.0]


def test_a_dose_replaces_natural_images_by_others() -> None:
    rows = np.full((18, 1, 3), np.log(0.1))
    for start, color in ((0, 0), (6, 1), (12, 2)):  # natural, other and imagined images
        rows[start : start + 6, 0, color] = np.log(0.8)
    flat = np.log(np.full((1, 3), 1 / 3))
    scores = Scores(flat, rows, flat, np.zeros((18, 1)))
    belief = Belief(scores, np.array([0]), np.array([1]), np.array([True]))
    given = answers(belief, Mixture("logit"), "given")[:, 0]
    assert given[:3].tolist() == [0, 0, 0] and given[4:].tolist() == [1, 1, 1]
    imagined = answers(belief, Mixture("logit"), "imagined")[:, 0]
    assert imagined[:3].tolist() == [2, 2, 2] and imagined[4:].tolist() == [1, 1, 1]
    # as imagined, with a likeness of 0, no image is trusted; given ones are
    unlike = answers(belief, Mixture("logit", "clip"), "scenes")[:, 0]
    assert (unlike == 0).all(), "the text's first candidate"
    assert answers(belief, Mixture("logit", "clip"), "given")[6, 0] == 1
