"""The images of training pairs as patch features: encoded once and kept in the store, or in every
step.

Both give the same bytes: an image's features do not depend on the rest of its batch
(``vlmig.vision``), and the store keeps them in the precision in which the encoder gives them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vlmig.data.pairs import Pair, Source
from vlmig.errors import VLMIGError
from vlmig.imagination import request
from vlmig.imagination.pipeline import WINDOW, Imagination
from vlmig.imagination.store import Address, Imagined, describe
from vlmig.io.rows import Bad
from vlmig.runtime import Stopwatch, deterministic_map
from vlmig.vision.files import READER, BadImage

Item = TypeVar("Item")
PORTION = 512
"""Pairs whose images are looked up, read and encoded together."""

Loaded = np.ndarray | Image.Image | str | None
"""An image as it is before the step: features (P, C), the image, a prompt to imagine, or
nothing."""


class ImageFeatures:
    """Features of pairs' images.

    Args:
        imagination: encoder, image source and store.
        blank: features of the blank image, (P, C), for pairs without an image.
        stored: take features from the store, where ``fill`` has put them; otherwise encode in each
            step.
        seed: of the imagined images.
    """

    def __init__(self, imagination: Imagination, blank: Tensor, stored: bool, seed: int) -> None:
        self.imagination, self.stored, self.seed = imagination, stored, seed
        self.blank = blank.cpu().half()
        self.stopwatch = Stopwatch()
        self._given = describe(
            {"imaginer": "given", "reader": READER, **imagination.encoder.identity()}
        )

    def load(self, source: Source, pair: Pair) -> Loaded:
        """Load a pair's image or its features; may run in a data-loading process.

        Raises:
            BadImage: it cannot be read.
        """
        if not pair.picture and not pair.prompt:
            return None
        if self.stored:
            entry = self.imagination.store.get(self.address(source, pair).key, image=False)
            if entry is None:
                raise BadImage("no features stored")
            return entry.patches.numpy()  # a tensor from another process would keep a file open
        return source.open(pair) if pair.picture else pair.prompt

    def features(self, rows: Sequence[Sequence[Loaded]]) -> Tensor:
        """Return the features of loaded images, (B, M, P, C).

        M is the number of images of the longest row; shorter rows are filled up with the blank
        image.
        """
        most = max(map(len, rows))
        loaded: list[Loaded] = []
        for row in rows:
            loaded += [*row, *[None] * (most - len(row))]
        features: list[Tensor] = [self.blank] * len(loaded)
        images: dict[int, Image.Image] = {}
        prompts: dict[int, str] = {}
        for i, image in enumerate(loaded):
            if isinstance(image, np.ndarray):
                features[i] = torch.from_numpy(image)
            elif isinstance(image, Image.Image):
                images[i] = image
            elif isinstance(image, str):
                prompts[i] = image
        if images:
            with self.stopwatch("encode"):
                encoded, _ = self.imagination.encoder.encode(list(images.values()))
            for i, patches in zip(images, encoded, strict=True):
                features[i] = patches
        if prompts:
            drawn = [self.imagination.prompts(text, 1, "question") for text in prompts.values()]
            visuals = self.imagination.visuals(drawn, 1, self.seed)
            for i, one in zip(prompts, visuals, strict=True):
                features[i] = one.features[0].half()
        # The blank image in front sets the dtype and shape where there are no images at all.
        return torch.stack([self.blank, *features])[1:].float().unflatten(0, (len(rows), most))

    def address(self, source: Source, pair: Pair) -> Address:
        """Return the store's address of a pair's image."""
        if not pair.picture:
            prompt = self.imagination.prompts(pair.prompt, 1, "question")[0]
            return self.imagination.address(request(prompt, 0, self.seed))
        box = "" if pair.box is None else ",".join(map(str, pair.box))
        kind, _, path = source.name.partition(" ")
        path = os.path.abspath(path) if os.path.exists(path) else path
        return Address(f"{kind} {path} {pair.picture} {box} {pair.version}", 0, self._given)

    def fill(
        self, source: Source, pairs: Iterable[Pair], total: int, quiet: bool = False
    ) -> list[Bad]:
        """Put every pair's image into the store; after a kill, continue with what is missing.

        Returns:
            The pairs whose image cannot be read.
        """
        reasons: dict[str, str] = {}
        bad: list[Bad] = []
        prompts: dict[str, None] = {}
        with tqdm(
            total=total,
            desc=f"encoding {source.name}",
            unit=" pairs",
            smoothing=0.1,
            disable=quiet,
        ) as bar:
            engine = self.imagination.engine
            for portion in batched(pairs, PORTION if engine is None else WINDOW):
                images = list(chain.from_iterable(pair.images() for pair in portion))
                self._fill(source, images, reasons)
                for image in images:
                    reason = reasons.get(self.address(source, image).key)
                    if reason:
                        bad.append(Bad(f"{source.name}, {image.picture}", reason))
                for pair in portion:
                    if pair.prompt and not pair.picture:
                        prompts[pair.prompt] = None
                bar.update(len(portion))
        if prompts:
            self.imagination.fill(list(prompts), 1, self.seed)
        return bad

    def _fill(self, source: Source, pairs: list[Pair], reasons: dict[str, str]) -> None:
        """Store images of one portion; ``reasons`` gets the reason of each that cannot be read, by
        key."""
        store = self.imagination.store
        wanted = {self.address(source, pair): pair for pair in pairs}
        present = store.present([address.key for address in wanted])
        missing: dict[Address, Pair] = {}
        for address, pair in wanted.items():
            if address.key not in present and address.key not in reasons:
                missing[address] = pair
        if self.imagination.engine is not None:
            for key, fault in self.imagination.engine.encode(
                self.imagination, source.open, missing
            ):
                if fault:
                    reasons[key] = fault
            return
        good: dict[Address, Image.Image] = {}
        for address, image in zip(missing, _read(source, list(missing.values())), strict=True):
            if isinstance(image, BadImage):
                reasons[address.key] = str(image)
            else:
                good[address] = image
        if good:
            with self.stopwatch("encode"):
                patches, pooled = self.imagination.encoder.encode(list(good.values()))
            with self.stopwatch("store"):
                rows = zip(good, patches, pooled, strict=True)
                store.put((address, Imagined(None, row, unit)) for address, row, unit in rows)

    def alignment(self, source: Source, pairs: Sequence[Pair]) -> Tensor:
        """Return the CLIP similarity of each caption and its first image, (n,).

        NaN where there is no image, or it cannot be read.

        Raises:
            VLMIGError: an encoder without a text side.
        """
        first = [next(iter(pair.images()), None) for pair in pairs]
        images = [image for image in first if image is not None]
        self.fill(source, images, len(images), quiet=True)
        texts = self.imagination.encoder.encode_text([pair.caption for pair in pairs])
        if texts is None:
            raise VLMIGError(
                "min_alignment needs an encoder that reads texts; "
                f"{self.imagination.config.vision_encoder} does not: leave it out"
            )
        similarities = torch.full((len(pairs),), torch.nan)
        for i, (image, text) in enumerate(zip(first, texts, strict=True)):
            if image is not None:
                entry = self.imagination.store.get(self.address(source, image).key)
                if entry is not None:
                    similarities[i] = (entry.pooled * text).sum().item()
        return similarities


def _read(source: Source, pairs: list[Pair]) -> list[Image.Image | BadImage]:
    """Open images in parallel."""

    def read(pair: Pair) -> Image.Image | BadImage:
        try:
            return source.open(pair)
        except BadImage as error:
            return error

    return deterministic_map(read, pairs, torch.device("cpu"))


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of at most ``size`` items (``itertools.batched`` of Python 3.12)."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
