"""Guards: pictures that are none, and pictures that are all alike."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.imagination import Imaginer, Request, next_seed
from vlmig.vision import BLANK

logger = logging.getLogger(__name__)

REDRAWS = 3
"""How often a faulty picture is drawn again, each time from the next seed."""
FLAT = 2
"""Greatest difference between two pixels of a channel in a picture that shows nothing, of 255."""


def faulty(picture: Tensor) -> bool:
    """Tell whether a picture, uint8 (3, H, W), is black or of one colour: a failed decoder's or a safety checker's."""
    pixels = picture.flatten(1)
    return bool((pixels.amax(1).int() - pixels.amin(1).int() <= FLAT).all())


def guarded(imaginer: Imaginer, batch: list[Request], first: bool = False) -> tuple[list[Tensor], list[int]]:
    """Imagine pictures, and draw faulty ones again, each from its next seed.

    What stays faulty becomes the empty picture, which says nothing, and is logged.

    Args:
        first: whether the imaginer has not drawn anything good yet.

    Returns:
        The pictures, and how often each was drawn again: -1 where that did not help.

    Raises:
        VLMIGError: nothing good was drawn yet, and no picture of several prompts shows anything: the generator is broken.
    """
    pictures, redraws = imaginer.imagine(batch), [0] * len(batch)
    if not imaginer.seeded:  # another seed would give the same picture
        return pictures, redraws
    again = [(i, request.seed) for i, request in enumerate(batch) if faulty(pictures[i])]
    for attempt in range(1, REDRAWS + 1):
        again = [(i, next_seed(seed)) for i, seed in again]
        drawn = imaginer.imagine([replace(batch[i], seed=seed) for i, seed in again]) if again else []
        for (i, _), picture in zip(again, drawn, strict=True):
            pictures[i], redraws[i] = picture, attempt
        again = [(i, seed) for i, seed in again if faulty(pictures[i])]
    if first and len(again) == len(batch) and len({request.prompt for request in batch}) > 1:
        raise VLMIGError(
            f"all {len(batch)} pictures of a batch are black or of one colour after {REDRAWS} redraws (the first: {batch[0].prompt!r}); "
            "expected a generator that draws; a decoder that overflows in half precision needs imaginer_dtype=float32 or bfloat16"
        )
    for i, _ in again:
        logger.warning(
            "the pictures of %r stay black or of one colour; an empty picture takes the place", batch[i].prompt
        )
        pictures[i], redraws[i] = torch.tensor(BLANK, dtype=torch.uint8)[:, None, None].expand_as(pictures[i]), -1
    return pictures, redraws


def diversity(pooled: Tensor) -> float:
    """Return how different pictures are: 1 less the mean cosine of their unit embeddings, (K, E); 0 for fewer than two."""
    count = len(pooled)
    if count < 2:
        return 0.0
    cosines = pooled @ pooled.T
    return float(1 - (cosines.sum() - torch.trace(cosines)) / (count * (count - 1)))
