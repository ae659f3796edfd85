"""From prompts to what the model sees of them: imagine, encode, store. Nothing is imagined or encoded twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vlmig.config import VLMIGConfig
from vlmig.errors import VLMIGError
from vlmig.imagination import Imaginer, image_seed
from vlmig.store import FeatureStore, Imagined, store_key
from vlmig.timing import Stopwatch
from vlmig.vision import VisionEncoder

BATCH = 24
"""Pictures drawn, encoded and stored at a time: what a killed run can lose."""

PORTION = 200
"""Prompts of a long list that are looked up at a time."""


@dataclass
class Visuals:
    """The imagined pictures of one prompt, as the model sees them."""

    prompt: str
    features: Tensor
    """(K, P, C)."""
    alignment: Tensor
    """Cosine of each picture with the prompt, (K,)."""
    images: list[Image.Image]
    keys: list[str]
    """Where the store keeps each of them."""

    def first(self, k: int) -> Visuals:
        """Keep the first k pictures."""
        return Visuals(self.prompt, self.features[:k], self.alignment[:k], self.images[:k], self.keys[:k])


class Imagination:
    """Imaginer, encoder and store together; both models are loaded when first needed.

    Args:
        config: names the components and the sampling settings.
        resolve: turns a component's name into a path or hub id.
        store: where pictures and features are kept.
    """

    def __init__(self, config: VLMIGConfig, folder: Path, store: FeatureStore, stopwatch: Stopwatch) -> None:
        self.config, self.folder, self.store, self.stopwatch = config, folder, store, stopwatch

    @cached_property
    def encoder(self) -> VisionEncoder:
        """The vision encoder."""
        with self.stopwatch("load vision encoder"):
            return VisionEncoder(self.config.locate(self.config.vision_encoder, self.folder), self.config.vision_layer)

    @cached_property
    def imaginer(self) -> Imaginer:
        """The text-to-image pipeline."""
        from vlmig.imagination.diffusion import DiffusionImaginer

        config = self.config
        with self.stopwatch("load generator"):
            return DiffusionImaginer(
                config.locate(config.imaginer, self.folder),
                revision=config.imaginer_revision,
                steps=config.imaginer_steps,
                guidance=config.imaginer_guidance,
                size=config.imaginer_size,
            )

    @cached_property
    def identity(self) -> dict[str, str | int | float]:
        """Everything beside prompt and seed that decides an imagined feature."""
        return {**self.imaginer.identity(), **self.encoder.identity()}

    def visuals(self, prompts: Sequence[str], k: int, seed: int = 0, progress: bool = False) -> list[Visuals]:
        """Give k pictures for each prompt, from the store where they are there; picture i is the same for any k.

        Raises:
            VLMIGError: a negative k.
        """
        if k < 0:
            raise VLMIGError(f"k={k}; expected 0 (text only) or more pictures")
        if k == 0 or not prompts:
            empty = torch.zeros(0, self.config.vision_patches, self.config.vision_width)
            return [Visuals(prompt, empty, torch.zeros(0), [], []) for prompt in prompts]
        distinct = list(dict.fromkeys(prompts))
        requests = {prompt: [(prompt, image_seed(prompt, i, seed)) for i in range(k)] for prompt in distinct}
        keys = {request: store_key(*request, self.identity) for rows in requests.values() for request in rows}
        found = self._find_or_make(keys, progress)
        texts = dict(zip(distinct, self.encoder.encode_text(distinct), strict=True))
        made = {}
        for prompt in distinct:
            items = [found[request] for request in requests[prompt]]
            features = torch.stack([item.patches for item in items]).float()
            alignment = torch.stack([item.pooled for item in items]) @ texts[prompt]
            own = [keys[request] for request in requests[prompt]]
            made[prompt] = Visuals(prompt, features, alignment, [item.picture for item in items], own)
        return [made[prompt] for prompt in prompts]

    def fill(self, prompts: Sequence[str], k: int, seed: int = 0) -> tuple[int, int]:
        """See that the store has k pictures of each prompt, in portions, however many there are.

        What is stored stays; a killed run goes on where it stopped.

        Returns:
            How many pictures were there, and how many were drawn.
        """
        distinct = list(dict.fromkeys(prompts))
        there = drawn = 0
        with tqdm(total=len(distinct) * k, desc="imagining", unit=" pictures", smoothing=0.1) as bar:
            for start in range(0, len(distinct), PORTION):
                portion = distinct[start : start + PORTION]
                requests = [(prompt, image_seed(prompt, i, seed)) for prompt in portion for i in range(k)]
                keys = {request: store_key(*request, self.identity) for request in requests}
                present = self.store.present(list(keys.values()))
                there += len(present)
                bar.update(len(present))
                for _ in self._make({request: key for request, key in keys.items() if key not in present}):
                    drawn += 1
                    bar.update()
        return there, drawn

    def _find_or_make(self, keys: dict[tuple[str, int], str], progress: bool) -> dict[tuple[str, int], Imagined]:
        """Look requests up in the store, and make those that are missing."""
        found = {request: item for request, key in keys.items() if (item := self.store.get(key)) is not None}
        missing = {request: key for request, key in keys.items() if request not in found}
        made = tqdm(
            self._make(missing), "imagining", len(missing), unit=" pictures", disable=not (progress and missing)
        )
        return found | dict(made)

    def _make(self, keys: dict[tuple[str, int], str]) -> Iterator[tuple[tuple[str, int], Imagined]]:
        """Draw, encode and store what is asked for, a batch at a time."""
        requests = list(keys)
        for start in range(0, len(requests), BATCH):
            batch = requests[start : start + BATCH]
            imaginer, encoder = self.imaginer, self.encoder
            with self.stopwatch("imagine"):
                pictures = imaginer.imagine(batch)
            with self.stopwatch("encode"):
                patches, pooled = encoder.encode(pictures)
            for request, picture, patch, pool in zip(batch, pictures, patches, pooled, strict=True):
                item = Imagined(picture, patch, pool)
                self.store.put(keys[request], item)
                yield request, item
