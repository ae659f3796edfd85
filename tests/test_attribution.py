"""Attribution: each number against another way to compute it, and what is drawn of it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_learned import fitted
from test_report import Page, lines, measured, named

from vlmig import VLMIG, VLMIGError
from vlmig.cli.main import main
from vlmig.evaluation.journal import Journal
from vlmig.imagination.visuals import Visuals
from vlmig.models.config import MIX_RULES, WEIGHT_KINDS
from vlmig.models.mixture import Mixture
from vlmig.predict.attribution import (
    Attribution,
    by_attention,
    by_occlusion,
    explain,
    left_out,
    log_odds,
    place_of,
    silenced,
)
from vlmig.predict.scores import Scores
from vlmig.report.answer import write_answer
from vlmig.report.overlay import encoded, layer, overlay
from vlmig.report.run_page import write_report

CONTEXT, CANDIDATES = "The color of a cat is", (" red", " dark red", " blue")
RULES = [rule for rule in MIX_RULES if rule != "contrast"]


def asked(model: VLMIG, k: int = 3) -> tuple[Visuals, Scores]:
    visuals = model.imagine(["a cat"], k=k)[0]
    return visuals, model.score([CONTEXT], [CANDIDATES], [visuals], verbatim=True)[0]


def test_one_softmax_over_image_and_text_is_the_layer(tiny: VLMIG) -> None:
    visuals, _ = asked(tiny)
    fusion = tiny.model.fusion
    with torch.no_grad():
        keys, values = fusion.encode_images(tiny.model, visuals.features[None])
        for batch in tiny.scorer.batches([CONTEXT], [CANDIDATES], [visuals]):
            reading, rows = batch.reading, len(batch.reading.hidden)
            images = (keys.expand(rows, *keys.shape[1:]), values.expand(rows, *values.shape[1:]))
            on_images, on_text = fusion.attention(
                reading.hidden, images, reading.text, reading.mask
            )
            assert torch.allclose(on_images.sum(-1) + on_text.sum(-1), torch.ones(()), atol=1e-6)
            attended = on_images @ images[1] + on_text @ reading.text[1][:, None]
            expected = fusion(reading.hidden, images, reading.text, reading.mask, reading.positions)
            assert torch.allclose(fusion.finish(reading.hidden, attended), expected, atol=1e-5)


def test_a_patch_counts_as_the_answer_changes_with_its_term(
    tiny: VLMIG, monkeypatch: pytest.MonkeyPatch
) -> None:
    visuals, scores = asked(tiny, 2)
    mixture = Mixture.of(tiny.config, "prob")
    question = (CONTEXT, CANDIDATES)
    patches, text = by_attention(tiny.scorer, question, visuals, scores, mixture, 1)
    assert patches.shape == (2, 16) and text.shape == (2,)
    encode = type(tiny.model.fusion).encode_images

    def with_term(image: int, patch: int, factor: float) -> float:
        """Scale one patch's value and leave its weight: scored anew by the ordinary pass."""

        def scaled(fusion, model, features):  # type: ignore[no-untyped-def]
            keys, values = encode(fusion, model, features)
            values = values.clone()
            values[:, image + 1, :, patch] *= factor  # the blank image is the first
            return keys, values

        with monkeypatch.context() as patched:
            patched.setattr(type(tiny.model.fusion), "encode_images", scaled)
            changed = replace(visuals, keys=["", ""])  # past the cache
            (moved,) = tiny.score([CONTEXT], [CANDIDATES], [changed], verbatim=True)
        return log_odds(moved, mixture, 1)

    for image, patch in ((0, 0), (0, 7), (1, 15)):
        # a step this wide drowns the rounding of fp32 and is still nearly straight
        step = 0.5
        slope = (with_term(image, patch, 1 + step) - with_term(image, patch, 1 - step)) / (2 * step)
        assert patches[image, patch] == pytest.approx(slope, rel=0.05, abs=2e-5)
    assert np.abs(patches).max() > 1e-3, "the test can fail"


def test_leaving_out_is_a_run_without_the_image(tiny: VLMIG) -> None:
    tiny.config.learned = fitted().described()
    visuals, scores = asked(tiny)
    for image in range(3):
        others = [i for i in range(3) if i != image]
        without = Visuals(
            [visuals.prompts[i] for i in others],
            visuals.features[others],
            visuals.alignment[others],
            [visuals.items[i] for i in others],
            [visuals.keys[i] for i in others],
        )
        (again,) = tiny.score([CONTEXT], [CANDIDATES], [without], verbatim=True)
        for mix, weights in product(RULES, WEIGHT_KINDS):
            mixture = Mixture.of(tiny.config, mix, weights)
            expected = log_odds(scores, mixture, 0) - log_odds(again, mixture, 0)
            gained = left_out(scores, mixture, 0)[image]
            assert gained == pytest.approx(expected, abs=1e-5), (mix, weights)


def test_a_silenced_image_says_what_no_image_says(tiny: VLMIG) -> None:
    _, scores = asked(tiny)
    for mix, nothing in (("prob", scores.text), ("logit", scores.text), ("evidence", scores.blank)):
        mixture = Mixture(mix)
        whole = log_odds(scores, mixture, 2)
        for image, gained in enumerate(silenced(scores, mixture, 2)):
            rows = scores.per_image.copy()
            rows[image] = nothing
            expected = whole - log_odds(replace(scores, per_image=rows), mixture, 2)
            assert gained == pytest.approx(expected, abs=1e-6)


def test_occlusion_misses_the_patch_that_is_made_blank(tiny: VLMIG) -> None:
    visuals, scores = asked(tiny, 2)
    mixture, question = Mixture("logit"), (CONTEXT, CANDIDATES)
    effects = by_occlusion(tiny.scorer, question, visuals, scores, mixture, 0)
    assert effects.shape == (2, 16)
    features = visuals.features.clone()
    features[1, 5] = tiny.model.blank_features[5]
    changed = replace(visuals, features=features, keys=["", ""])
    (again,) = tiny.score([CONTEXT], [CANDIDATES], [changed], verbatim=True)
    expected = log_odds(scores, mixture, 0) - log_odds(again, mixture, 0)
    assert effects[1, 5] == pytest.approx(expected, abs=1e-5)
    assert abs(expected) > 1e-4, "the test can fail"


def test_an_answer_explains_itself_when_it_is_asked_to(tiny: VLMIG) -> None:
    question, choices = "What is the color of a cat?", ["red", "blue"]
    assert tiny.ask(question, choices, k=2).attribution is None
    answer = tiny.ask(question, choices, k=2, why=True)
    why = answer.attribution
    assert why is not None and (why.target, why.method) == (answer.answer, "attention")
    assert len(why.images) == len(why.left_out) == len(why.text) == 2
    assert [effects.shape for effects in why.patches] == [(4, 4), (4, 4)]
    assert why.scale == max(np.abs(effects).max() for effects in why.patches)
    alone = tiny.ask(question, choices, k=1, why=True).attribution
    assert alone is not None
    assert alone.images == pytest.approx(alone.left_out, abs=1e-9), "only the text is left"
    none = tiny.ask(question, choices, k=0, why=True).attribution
    assert none is not None and not none.images and not none.patches


def test_other_kinds_of_fusion_are_occluded(tiny: VLMIG, parts: Path, tmp_path: Path) -> None:
    early = VLMIG.from_base(
        str(parts / "language_model"),
        vision=str(parts / "vision_encoder"),
        generator=str(parts / "generator"),
        store=tmp_path / "early",
        fusion="prefix",
        imaginer_size=32,
        imaginer_steps=2,
    )
    answer = early.ask("What is it?", ["red", "blue"], k=1, why=True)
    assert answer.attribution is not None and answer.attribution.method == "occlusion"
    assert answer.attribution.patches[0].shape == (4, 4) and not answer.attribution.text
    visuals, scores = asked(early, 1)
    arguments = (early.scorer, (CONTEXT, CANDIDATES), visuals, scores, Mixture("prob"), CANDIDATES)
    with pytest.raises(VLMIGError, match="method='attention' for fusion='prefix'; expected"):
        explain(*arguments, "attention")
    given = Image.new("RGB", (32, 32))
    with pytest.raises(VLMIGError, match="why=True with images inside the text"):
        early.ask("What is it?", ["red", "blue"], images=given, why=True)


def test_places_are_ninths_of_the_image() -> None:
    for side in (3, 4, 8):
        effects = np.full((side, side), -1.0)
        effects[0, -1] = 2.0
        assert place_of(effects)[0] == "upper right"
        assert place_of(np.ones((side, side)))[1] == pytest.approx(1 / 9)
    assert place_of(np.array([[-1.0]])) == ("nowhere", 0.0)


def test_orange_speaks_for_and_blue_against(tmp_path: Path) -> None:
    effects = np.zeros((4, 4))
    effects[0, 0], effects[3, 3] = 2.0, -2.0
    drawn = overlay(Image.new("RGB", (64, 48), (90, 90, 90)), effects, 2.0)
    assert drawn.size == (64, 48)
    red, _, blue = drawn.getpixel((4, 4))
    assert red > blue + 100
    red, _, blue = drawn.getpixel((60, 44))
    assert blue > red + 100
    assert drawn.getpixel((32, 24)) == (90, 90, 90), "no effect leaves the image"
    assert layer(effects, 2.0).size == (4, 4)
    assert len(encoded(np.random.default_rng(0).normal(size=(24, 24)), 1.0)) < 1200


def test_why_is_printed_and_in_the_page(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "answer.html"
    command = ["ask", "What is the color of a cat?", "--choices", "red,blue", "--k", "2", "--why"]
    assert main([*command, "--model", str(checkpoint), "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "over text only" in printed and printed.count("\nimage 2") == 2
    (item,) = Page(page).data["items"]
    why = item["runs"][0]["why"]
    assert len(why["layers"]) == len(why["images"]) == len(why["left_out"]) == 2
    assert json.dumps(why).count("iVBOR") == 2, "PNGs"


def test_a_run_says_why_and_adds_it_to_what_was_measured(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    tasks = named("memory_color")
    measured(tiny, data, tmp_path, tasks, ks=(0, 2))
    assert all("why" not in line for line in lines(tmp_path, "memory_color"))
    before = len(Journal(tmp_path / "journal"))
    measured(tiny, data, tmp_path, tasks, ks=(0, 2), why=True)
    (line, *others) = lines(tmp_path, "memory_color")
    assert len(Journal(tmp_path / "journal")) == before + 1 + len(others), "nothing is scored again"
    item, found = line["doc"], []
    for question in item["questions"]:
        visuals = tiny.imagine([item["picture"]], 2)[0]
        asked = (question["contexts"][0], question["continuations"])
        (scores,) = tiny.score([asked[0]], [asked[1]], [visuals])
        mixture = Mixture.of(tiny.config)
        found.append(explain(tiny.scorer, asked, visuals, scores, mixture, asked[1]))
    expected = np.mean([why.patches for why in found], 0)
    assert np.allclose(line["why"]["patches"], expected, atol=1e-3), "rounded to thousandths"
    page = Page(write_report(tmp_path, tiny.imagination.store))
    assert len(page.data["items"][0]["runs"][0]["why"]["layers"]) == 2


def test_a_page_without_why_has_none(tiny: VLMIG, tmp_path: Path) -> None:
    write_answer(tiny.ask("What is it?", ["red", "blue"], k=1), tmp_path / "answer.html")
    assert Page(tmp_path / "answer.html").data["items"][0]["runs"][0]["why"] is None


def test_the_record_is_immutable() -> None:
    why = Attribution("red", (1.0,), (1.0,), (np.ones((2, 2)),), (), "occlusion")
    with pytest.raises(AttributeError):
        why.target = "blue"  # type: ignore[misc]
