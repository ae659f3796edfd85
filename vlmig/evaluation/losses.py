"""Measure how surprised a model is by texts: by text alone, and beside imagined or given images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vlmig.evaluation.records import Record, listed
from vlmig.imagination.visuals import Visuals
from vlmig.predict.predictor import VLMIG
from vlmig.runtime import deterministic_map

Text = tuple[str, str]
"""A text, and its beginning that is read and not scored."""


def measure_losses(
    model: VLMIG,
    ks: Sequence[int],
    texts: Sequence[Sequence[Text]],
    sets: Sequence[list[Visuals]],
    given: Sequence[Mapping[str, Visuals]],
) -> Iterator[Record]:
    """Yield the summed loss of each item's texts.

    Args:
        ks: numbers of imagined images.
        texts: of each item.
        sets: of each item, its imagined images: one set for all its texts, or one for each.
        given: of each item, the images by name that each text is read beside, one at a time.
    """

    def measure(i: int) -> Record:
        visuals = repeated(sets[i], len(texts[i]))
        loss: dict[str, list[float]] = {str(k): [] for k in ks}
        tokens = []
        for (text, start), images in zip(texts[i], visuals, strict=True):
            log_probs = model.token_log_probs(text, images, ks, start)
            tokens.append(len(log_probs[0]))
            for k, values in zip(ks, log_probs, strict=True):
                loss[str(k)].append(listed(-values.sum().item()))
        keys, prompts = [images.keys for images in visuals], prompts_of(visuals)
        record: Record = {"pictures": keys, "prompts": prompts, "loss": loss, "tokens": tokens}
        if given[i]:
            record["given"] = {n: _beside(model, texts[i], image) for n, image in given[i].items()}
        return record

    yield from deterministic_map(measure, range(len(texts)), model.model.device)


def _beside(model: VLMIG, texts: Sequence[Text], image: Visuals) -> list[float]:
    """Sum the loss of each text beside one given image."""
    k = len(image.features)  # none with early fusion, where the image is in the text
    losses = []
    for text, start in texts:
        (values,) = model.token_log_probs(text, image, [k], start)
        losses.append(listed(-values.sum().item()))
    return losses


def repeated(sets: list[Visuals], count: int) -> list[Visuals]:
    """Return as many sets of images as texts; one set serves all."""
    return [sets[i % len(sets)] for i in range(count)]


def prompts_of(visuals: list[Visuals]) -> list[str]:
    """List the distinct prompts, in order."""
    return list(dict.fromkeys(prompt for images in visuals for prompt in images.prompts))
