"""Guards against failed images, and a measure of how different images are."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.imagination import ImageSource, Request, next_seed
from vlmig.vision import BLANK

logger = logging.getLogger(__name__)

REDRAWS = 3
"""How often a faulty image is drawn again, each time from the next seed."""
FLAT = 2
"""Greatest difference, of 255, between two pixels of a channel in an image of one color."""


def faulty(image: Tensor) -> bool:
    """Tell whether an image, uint8 (3, H, W), has one color, as after a failed decoder."""
    pixels = image.flatten(1)
    return bool((pixels.amax(1).int() - pixels.amin(1).int() <= FLAT).all())


def guarded(
    source: ImageSource, batch: list[Request], first: bool = False
) -> tuple[list[Tensor], list[int]]:
    """Draw images, and redraw faulty ones, each from its next seed.

    An image that stays faulty is replaced by the blank image, and this is logged.

    Args:
        first: whether the source has not drawn a good image yet.

    Returns:
        The images, and how often each was redrawn; -1 for those that stayed faulty.

    Raises:
        VLMIGError: no good image yet, and all images of several prompts stay faulty: the generator
            is broken.
    """
    images, redraws = source.imagine(batch), [0] * len(batch)
    if not source.seeded:  # another seed would give the same image
        return images, redraws
    failed = {i: request for i, request in enumerate(batch) if faulty(images[i])}
    for attempt in range(1, REDRAWS + 1):
        if not failed:
            break
        for i, request in failed.items():
            failed[i] = replace(request, seed=next_seed(request.seed))
        drawn = source.imagine(list(failed.values()))
        for i, image in zip(list(failed), drawn, strict=True):
            images[i], redraws[i] = image, attempt
            if not faulty(image):
                del failed[i]
    if first and len(failed) == len(batch) and len({request.prompt for request in batch}) > 1:
        raise VLMIGError(
            f"all {len(batch)} images of a batch are black or of one color after {REDRAWS} redraws "
            f"(the first: {batch[0].prompt!r}); expected a generator that draws; a decoder that "
            "overflows in half precision needs imaginer_dtype=float32 or bfloat16"
        )
    blank = torch.tensor(BLANK, dtype=torch.uint8)[:, None, None]
    for i, request in failed.items():
        logger.warning(
            "the images of %r stay black or of one color; the blank image replaces them",
            request.prompt,
        )
        images[i], redraws[i] = blank.expand_as(images[i]), -1
    return images, redraws


def diversity(pooled: Tensor) -> float:
    """Return 1 - the mean cosine of unit embeddings (K, E) of images; 0 for fewer than two."""
    count = len(pooled)
    if count < 2:
        return 0.0
    cosines = pooled @ pooled.T
    return float(1 - (cosines.sum() - torch.trace(cosines)) / (count * (count - 1)))
