"""Today's generators: pipelines of their classes, tiny and random, drawn with by our engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import generators
import numpy as np
import pytest
import torch

from vlmig.imagination import request
from vlmig.imagination.sources.diffusion import DiffusionSource
from vlmig.imagination.sources.families import sampling_for
from vlmig.imagination.sources.prompts import EMBEDDED

USUAL = ("FLUX.2-klein-4B", "Z-Image-Turbo")
NAMES = [
    pytest.param(name, marks=() if name in USUAL else pytest.mark.proof)
    for name in generators.GENERATORS
]
SIDE = 32


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_draws_as_by_itself(parts: Path, tmp_path: Path, name: str) -> None:
    """The settings are the family's; images are the plain pipeline's for the same texts; a prompt
    is embedded once; and two threads draw what one draws."""
    folder = generators.save(name, parts, tmp_path)
    sampling = sampling_for(str(folder), size=SIDE, batch=2)
    assert sampling == sampling_for(f"someone/{name}", size=SIDE, batch=2)
    assert sampling.guidance == generators.GENERATORS[name][1]
    sampling = sampling_for(str(folder), size=SIDE, batch=2, steps=min(sampling.steps, 4))
    source = DiffusionSource(folder, sampling)
    assert type(source.pipeline).__name__ in EMBEDDED
    wanted = [request("a cat", 0), request("the sea at night", 4)]
    plain = draw(source, wanted)
    assert np.abs(plain[0] - plain[1]).max() > 1
    embedded = count_embedded(source.pipeline)
    drawn = source.imagine(wanted * 2)
    for picture, image in zip([*plain, *plain], drawn, strict=True):
        # Texts embedded two at a time or one by one may round another way.
        assert np.abs(picture - image.permute(1, 2, 0).numpy()).max() <= 1
    assert embedded == {"a cat": 1, "the sea at night": 1}
    torch.set_num_threads(2)
    try:
        again = source.imagine(wanted * 2)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))
    other = source.imagine([request("a dog", 0, 0)] + wanted[:1])
    moved = source._draw([type(wanted[0])("a dog", 0, wanted[0].seed)])[0]
    assert not torch.equal(moved, drawn[0]), "the prompt matters"
    assert torch.equal(other[1], drawn[0])


def draw(source: DiffusionSource, requests: list[Any]) -> list[np.ndarray]:
    """Draw with the plain pipeline, from texts."""
    taken: dict[str, bool] = {}
    if "Sana" in source.name or "PixArt" in source.name:
        taken = {"clean_caption": False, "use_resolution_binning": False}
    images = source.pipeline(
        prompt=[one.prompt for one in requests],
        generator=[torch.Generator().manual_seed(one.seed) for one in requests],
        num_inference_steps=source.sampling.steps,
        guidance_scale=source.sampling.guidance,
        height=SIDE,
        width=SIDE,
        **taken,
    ).images
    return [np.asarray(image).astype(int) for image in images]


def count_embedded(pipeline: Any) -> dict[str, int]:
    """Count, by text, how often a pipeline embeds one from now on."""
    counts: dict[str, int] = {}
    plain = pipeline.encode_prompt

    def counted(prompt: Any = None, *rest: Any, **settings: Any) -> Any:
        if prompt:  # a call with embeddings passes through here without a text
            counts[prompt] = counts.get(prompt, 0) + 1
        return plain(prompt, *rest, **settings)

    pipeline.encode_prompt = counted
    return counts
