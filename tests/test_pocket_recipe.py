"""The recipe of the embedded generator: it resumes exactly and trains what the pipeline will
compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from diffusers import LuminaPipeline
from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina
from PIL import Image
from test_learned import questions
from torch import Tensor, nn

from tools.pocket import (
    calibration,
    distillation,
    encoder,
    looks,
    loop,
    several,
    transformer,
)
from vlmig.models.checkpoint import POCKET
from vlmig.models.learned import Learned
from vlmig.models.mixture import Mixture
from vlmig.pocket.concepts import load_concepts
from vlmig.predict.images import DEFAULT_K
from vlmig.predict.scores import Scores
from vlmig.vision import VisionEncoder


def run(path: Path, steps: int, until: int | None = None) -> dict[str, Tensor]:
    """Train a line for ``steps``, or be interrupted at step ``until`` after a checkpoint."""
    torch.manual_seed(0)
    module = nn.Linear(3, 1)

    def loss_at(step: int) -> Tensor:
        if step == until:
            raise KeyboardInterrupt
        return (module(torch.randn(8, 3)) - 1).square().mean()

    optimizers = [torch.optim.AdamW(module.parameters(), lr=0.05)]
    return loop.train(module, loss_at, optimizers, loop.Schedule(steps), path)


def test_an_interrupted_run_ends_where_a_whole_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole.pt", 40)
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part.pt", 40, until=23)
    resumed = run(tmp_path / "part.pt", 40)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_rate_is_constant_then_falls_to_zero() -> None:
    rate = loop.Schedule(1000).rate
    assert rate(0) < 0.1
    assert rate(100) == rate(500) == 1
    assert rate(750) == pytest.approx(0.5)
    assert rate(1000) == 0


def test_training_computes_what_the_pipeline_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "COMPILE", False)
    torch.manual_seed(0)
    model = transformer.build_transformer(width=64, layers=2, heads=2)
    for value in model.parameters():
        value.data += 0.1 * torch.randn_like(value)
    side, width = transformer.SIDE, transformer.TEXT_WIDTH
    noisy, times, states = torch.randn(2, 8, side, side), torch.rand(2), torch.randn(2, 7, width)
    mask = torch.tensor([[1] * 7, [1] * 3 + [0] * 4])
    rope = get_2d_rotary_pos_embed_lumina(model.head_dim, 384, 384)
    settings = {
        "cross_attention_kwargs": {"base_sequence_length": (side // 2) ** 2},
        "return_dict": False,
    }
    with torch.no_grad():
        expected = model(noisy, times, states, mask, rope, **settings)[0][:, :8]
        computed = transformer.velocity_of(model)(noisy, times, states, mask)
    assert expected.abs().mean() > 0.1
    assert torch.allclose(expected, computed, atol=1e-4)


def test_looks_are_learned_from_the_patches_that_the_package_encodes() -> None:
    """Weights in half precision and resized by another library: a hundredth of their spread."""
    folder = POCKET / "vision_encoder"
    scenes = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    clip, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    with torch.no_grad():
        patches, embeddings = looks.read_images(clip, encoder.normalized(scenes))
    images = [Image.fromarray(scene) for scene in scenes]
    expected, pooled = VisionEncoder(folder, looks.LAYER).encode(images)
    wrong = (patches - expected.float()).abs().max()
    assert wrong < 0.01 * expected.float().std()
    assert torch.allclose(torch.nn.functional.normalize(embeddings, dim=-1), pooled, atol=1e-3)


def test_the_student_learns_the_teachers_guided_walk() -> None:
    """A quarter at a time by mean velocities, and all eight guided Euler steps of a plain loop."""
    torch.manual_seed(0)
    told, untold = (torch.tensor([0.7]), torch.ones(1)), (torch.tensor([-0.2]), torch.ones(1))

    def velocity(noisy: Tensor, times: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        return states * noisy + times.view(-1, 1, 1, 1)

    start = torch.randn(3, 8, 4, 4)
    walked = start
    for quarter in range(distillation.STEPS):
        begin = torch.full((3,), quarter / distillation.STEPS)
        mean = distillation.guided_velocity(velocity, walked, begin, told, untold)
        walked = walked + mean / distillation.STEPS

    plain = start
    for step in range(8):
        full, empty = 0.7 * plain + step / 8, -0.2 * plain + step / 8
        plain = plain + (empty + distillation.GUIDANCE * (full - empty)) / 8
    assert torch.allclose(walked, plain, atol=1e-5)
    assert not torch.allclose(walked, start, atol=0.1)


def test_a_student_of_several_things_keeps_what_the_old_one_does_with_one() -> None:
    """Velocities that tell their model, time and text, in numbers."""

    def old(noisy: Tensor, times: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        return noisy + times.view(-1, 1, 1, 1) + states.sum((1, 2)).view(-1, 1, 1, 1)

    def guided(noisy: Tensor, times: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        return 10 * old(noisy, 0 * times, states, mask)

    noisy, begin = torch.randn(5, 8, 4, 4), torch.tensor([0.0, 0.25, 0.5, 0.75, 0.5])
    states, mask = torch.arange(5.0).view(5, 1, 1), torch.ones(5, 1)
    empty, again = (torch.zeros(2, 1, 1), mask[:2]), (7 + states[2:], mask[2:])
    target = several.both_targets(old, guided, noisy, begin, (states, mask), empty, again)
    first = distillation.guided_velocity(
        guided, noisy[:2], begin[:2], (states[:2], mask[:2]), empty
    )
    assert torch.equal(target[:2], first)
    assert torch.equal(target[2:], old(noisy[2:], begin[2:], *again))


def test_the_shipped_pipeline_takes_the_steps_that_its_student_was_taught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pipeline beside a plain walk from quarter to quarter by the same weights."""
    monkeypatch.setattr(transformer, "COMPILE", False)
    pipeline = LuminaPipeline.from_pretrained(POCKET / "generator", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    here = noise = torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(0))
    fields = {
        "num_inference_steps": distillation.STEPS,
        "guidance_scale": 1.0,
        "output_type": "latent",
    }
    drawn = pipeline("a lemon", latents=noise, height=96, width=96, clean_caption=False, **fields)
    tokenizer = pipeline.tokenizer
    with torch.no_grad():
        told = transformer.read_texts(pipeline.text_encoder, tokenizer, ["a lemon"])
        velocity = transformer.velocity_of(pipeline.transformer)
        for quarter in range(distillation.STEPS):
            begin = torch.full((1,), quarter / distillation.STEPS)
            here = here + velocity(here, begin, *told) / distillation.STEPS
    assert (drawn.images - noise).abs().mean() > 0.5
    assert torch.allclose(drawn.images, here, atol=1e-3)


def test_calibration_prefers_the_likeliest_of_those_as_accurate_as_the_best() -> None:
    """Two others of 12 concepts are within a standard error of the best. One loses a little of every
    concept, which is no chance, and one loses all."""
    best = np.tile([1.0, 1.0, 0.0], 4)
    one_lost, one_moved, each_worse = best.copy(), best.copy(), best - 0.1
    one_lost[0] = 0.0
    one_moved[[0, 2]] = 0.0, 1.0
    likelihoods = {"best": -3.0, "one lost": -2.0, "one moved": -1.0, "worse": -0.5, "none": 0.0}
    accuracies = [best, one_lost, one_moved, each_worse, np.zeros(12)]
    tried = []
    for likelihood, accuracy in zip(likelihoods.values(), accuracies, strict=True):
        tried.append(_tried(accuracy, np.full(12, likelihood)))
    chosen = [one.likelihood[0] for one in calibration._best_first(tried)]
    assert chosen == [likelihoods[name] for name in ("one moved", "one lost", "best")]


def test_calibration_ignores_as_few_images_as_the_likeliest_allow() -> None:
    """All are as accurate. The second loses on four of 12 concepts what it wins on four others, and
    a little more; the third loses on all."""
    likely, accuracy = np.full(12, -1.0), np.ones(12)
    about_as_likely = likely + np.array([-0.6, 0.5, 0.0] * 4)
    tried = [
        _tried(accuracy, likely, floor=0.8),
        _tried(accuracy, about_as_likely, floor=0.5),
        _tried(accuracy, likely - 0.1, floor=0.2),
    ]
    floors = [one.mixture.alignment_floor for one in calibration._best_first(tried)]
    assert floors == [0.5, 0.8, 0.2]


def _tried(accuracy: np.ndarray, likelihood: np.ndarray, floor: float = 0.0) -> calibration.Tried:
    mixture = Mixture("prob", alignment_floor=floor)
    return calibration.Tried(mixture, 1.0, 1.0, 1.0, accuracy, likelihood)


def test_calibration_answers_of_a_concept_by_weights_fitted_to_others(
    rng: np.random.Generator,
) -> None:
    """Ten concepts with two wordings each; a changed answer about one changes the weights of all
    others but those that share its fold."""
    concepts = load_concepts()[:10]
    scores = [scores for scores, _, _ in questions(rng, 20)]
    scores = [replace(one, per_image=one.per_image.repeat(2, 0)) for one in scores]
    for one in scores:
        one.alignment = rng.uniform(0, 1, 6)

    def fitted(answers: np.ndarray) -> tuple[calibration.Answered, dict[int, Learned]]:
        stacked = Scores.stacked(scores)
        asked = calibration.Answered(concepts, stacked, stacked, answers)
        calibration._fit_learned([asked])
        return asked, {i: learned for some, learned in asked.learned for i in some.tolist()}

    answers = rng.integers(0, 4, 20)
    asked, weights = fitted(answers)
    mixture = Mixture("prob", "learned", learned=weights[0])
    right, likely = asked.right(DEFAULT_K, mixture)
    assert sorted(weights) == list(range(20))
    for number, one in enumerate(scores):
        mixed = one.mixed(DEFAULT_K, replace(mixture, learned=weights[number]))
        assert likely[number] == pytest.approx(mixed[answers[number]])
        assert right[number] == (mixed.argmax() == answers[number])
    _, changed = fitted(np.append((answers[:1] + 1) % 4, answers[1:]))
    assert changed[0] == weights[0] == weights[1]
    assert {weights[i] == changed[i] for i in range(20)} == {True, False}
