"""Texts about calibration concepts, read with images and without: what a mixture does to their
perplexity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlmig.models.mixture import Mixture
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.tasks import topic
from vlmig.pocket.text import language_corpus
from vlmig.predict.batching import read_padded
from vlmig.predict.images import DEFAULT_K
from vlmig.predict.predictor import VLMIG

TEXTS = 200
"""How many are read."""
SEED = 13
TEXT_ALONE = Mixture("prob", "clip")
"""Any rule: without images all give the text's prediction."""


@dataclass
class ReadText:
    """Predictions for a sentence from text alone, with each image, and with the blank image."""

    text: Tensor
    """log p_0, (T, V)."""
    images: list[Tensor]
    blank: Tensor
    alignment: Tensor
    targets: Tensor
    """The true tokens, (T, 1)."""

    def loss(self, k: int, mixture: Mixture) -> Tensor:
        """Return the loss of each token in nats, (T,)."""
        mixture = mixture.for_texts
        trust = mixture.trust(self.alignment[:k]).expand(len(self.text), -1)
        mixed = mixture.combine(self.text, self.images[:k], trust, self.blank)
        return -mixed.gather(1, self.targets)[:, 0]


def calibration_concepts() -> list[Concept]:
    """Return the concepts that set parameters, and that no test item is about."""
    return [concept for concept in load_concepts() if concept.calibration]


def _as_in_the_corpus(chosen: list[Concept]) -> list[Concept]:
    """Repeat held-out concepts until their share is that of the corpus."""

    def ratio(concepts: Sequence[Concept]) -> float:
        held_out = sum(c.split == "held_out" for c in concepts)
        return held_out / (len(concepts) - held_out)

    times = round(ratio(load_concepts()) / ratio(chosen))
    return [c for c in chosen for _ in range(times if c.split == "held_out" else 1)]


@torch.inference_mode()
def read_texts(model: VLMIG) -> Iterator[ReadText]:
    """Predict sentences in the style of the corpus, about calibration concepts and invented
    things."""
    corpus = language_corpus(SEED, 2 * TEXTS, _as_in_the_corpus(calibration_concepts()))
    texts = list(dict.fromkeys(corpus))[:TEXTS]
    visuals = model.imagine([topic(text) for text in texts], DEFAULT_K, progress=True)
    network: Any = model.model
    for text, imagined in zip(texts, visuals, strict=True):
        ids = model.tokenizer(text).input_ids
        reading = read_padded(network, [ids[:-1]], len(ids) - 1, ids[0])
        visual = network.encode_with_blank(imagined.features[None])
        alone, blank, *images = [row[0] for row in network.predictions(reading, visual)]
        targets = torch.tensor(ids[1:])[:, None]
        yield ReadText(alone, images, blank, imagined.alignment, targets)


@torch.inference_mode()
def mean_losses(texts: Iterable[ReadText], mixtures: Sequence[Mixture]) -> list[float]:
    """Return the mean losses per token in nats: of text alone, and of each mixture."""
    rows = []
    for text in texts:
        mixed = [text.loss(DEFAULT_K, mixture) for mixture in mixtures]
        rows.append(torch.stack([text.loss(0, TEXT_ALONE), *mixed]))
    return torch.cat(rows, 1).mean(1).tolist()
