"""A score depends on its text and its images alone: not on the batch, the order, the threads, the
process, or on whether the images were in the store."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import open_gates
from test_lm_eval import asked
from test_shown import built

from vlmig import VLMIG
from vlmig.imagination.visuals import Visuals
from vlmig.integrations.lm_eval import VlmigLM

BATCHES = (1, 3, 32, 64)
SAME = 1e-6
"""What is asked for. On a CPU the very same sums are computed, so that it is 0."""
NAMES = ["a cat", "a dog", "the sea"]
WORDS = "what color is a cat ? dark red sea answer the of".split()
Pair = tuple[str, str]


def pairs_of(seed: int, count: int) -> list[Pair]:
    """Contexts of 2 to 14 words with continuations of 1 to 4."""
    rng = random.Random(seed)
    pairs = []
    for i in range(count):
        context = " ".join(rng.choices(WORDS, k=2 + (5 * i) % 13))
        pairs.append((context, " " + " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))))
    return pairs


def visuals_of(model: VLMIG, count: int) -> list[Visuals]:
    """Two images, three or none for each of ``count`` texts."""
    seen = [model.imagine([name], k)[0] for name, k in zip(NAMES, (2, 3, 0), strict=True)]
    return [seen[i % 3] for i in range(count)]


def orders(seed: int, count: int) -> list[list[int]]:
    """As many random orders as batches, the first as it is."""
    rng = random.Random(seed)
    return [list(range(count)), *(rng.sample(range(count), count) for _ in BATCHES[1:])]


@pytest.fixture(params=["late", "masked", "early"])
def model(
    request: pytest.FixtureRequest, tiny: VLMIG, parts: Path, bert: Path, tmp_path: Path
) -> VLMIG:
    if request.param == "late":
        return tiny
    if request.param == "early":
        return built(parts, tmp_path / "early", fusion="prefix", projector="pooled")
    names = {"vision": str(parts / "vision_encoder"), "generator": str(parts / "generator")}
    settings = {"fusion_heads": 4, "imaginer_size": 32, "imaginer_steps": 1}
    made = VLMIG.from_base(str(bert), **names, store=tmp_path / "masked", **settings)
    open_gates(made)
    return made


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_log_likelihoods(model: VLMIG, per: str) -> None:
    pairs = pairs_of(0, 16)
    visuals = visuals_of(model, len(pairs))
    expected: np.ndarray | None = None
    for batch, order in zip(BATCHES, orders(1, len(pairs)), strict=True):
        own, seen = [pairs[i] for i in order], [visuals[i] for i in order]
        found = np.zeros(len(pairs))
        found[order] = model.loglikelihood(own, per=per, batch=batch, visuals=seen)
        expected = found if expected is None else expected
        assert np.abs(found - expected).max() <= SAME
    alone = [model.loglikelihood([pairs[i]], per=per, visuals=[visuals[i]])[0] for i in (3, 7)]
    assert expected is not None and np.abs(alone - expected[[3, 7]]).max() <= SAME
    assert len(set(expected.round(3))) > 12, "texts differ"


def test_candidates_and_threads(tiny: VLMIG) -> None:
    """Candidates in another order too, in as many threads as there may be."""
    contexts = [context for context, _ in pairs_of(2, 12)]
    choices = [[own for _, own in pairs_of(10 + i, 5)] for i in range(12)]
    visuals, threads = visuals_of(tiny, 12), torch.get_num_threads()
    expected = tiny.score(contexts, choices, visuals)
    try:
        for batch, order in zip(BATCHES, orders(3, 12), strict=True):
            torch.set_num_threads(1 + batch % 3)
            turned = [[*reversed(choices[i])] for i in order]
            found = tiny.score(
                [contexts[i] for i in order], turned, [visuals[i] for i in order], batch
            )
            for i, scores in zip(order, found, strict=True):
                for name in ("text", "per_image", "blank"):
                    values = getattr(scores, name)[..., ::-1]
                    assert np.abs(values - getattr(expected[i], name)).max(initial=0) <= SAME
    finally:
        torch.set_num_threads(threads)


def test_in_lm_eval(tiny: VLMIG) -> None:
    questions = []
    for i in range(8):
        context = pairs_of(4, 8)[i][0]
        questions.append(asked(*((context, own) for _, own in pairs_of(20 + i, 3)), id=i))
    expected: np.ndarray | None = None
    for batch, order in zip(BATCHES, orders(5, len(questions)), strict=True):
        model = VlmigLM(tiny, k=2, batch_size=batch)
        answers = model.loglikelihood([r for i in order for r in questions[i]])
        found = np.zeros((len(questions), 3))
        found[order] = np.reshape([value for value, _ in answers], (-1, 3))
        expected = found if expected is None else expected
        assert np.abs(found - expected).max() <= SAME


def test_images_stored_or_new(tiny: VLMIG, tmp_path: Path) -> None:
    """Drawn one by one, found in the store, and drawn together with more, in another order."""
    pairs = [(f"the color of {name} is", " dark red") for name in NAMES]
    drawn = [tiny.loglikelihood([pair], k=2)[0] for pair in pairs]
    assert tiny.imagination.tally.drawn == 6
    stored = tiny.loglikelihood(pairs, k=2)
    assert tiny.imagination.tally.drawn == 6
    other = VLMIG(tiny.model, tiny.tokenizer, tiny.folder, tmp_path / "other")
    other.loglikelihood(pairs[::-1], k=3)
    again = other.loglikelihood(pairs[::-1], k=2)[::-1]
    assert np.abs(np.array([stored, again]) - drawn).max() <= SAME


CODE = """
import json, sys
from vlmig import VLMIG
folder, store, pairs = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
print(json.dumps(VLMIG.from_pretrained(folder, store=store).loglikelihood(pairs, k=2)))
"""


@pytest.mark.proof
def test_in_one_process_or_two(checkpoint: Path, tmp_path: Path) -> None:
    pairs = pairs_of(6, 12)
    expected = VLMIG.from_pretrained(checkpoint, store=tmp_path / "own").loglikelihood(pairs, k=2)
    running = []
    for i, share in enumerate((pairs[::2], pairs[1::2])):  # with threads of their own number
        command = [sys.executable, "-c", CODE, str(checkpoint), str(tmp_path / f"{i}")]
        settings = {**os.environ, "OMP_NUM_THREADS": str(1 + i)}
        running.append(
            subprocess.Popen([*command, json.dumps(share)], env=settings, stdout=subprocess.PIPE)
        )
    found = np.zeros(len(pairs))
    for i, process in enumerate(running):
        output, _ = process.communicate()
        found[i::2] = json.loads(output.splitlines()[-1])
    assert np.abs(found - expected).max() <= SAME
