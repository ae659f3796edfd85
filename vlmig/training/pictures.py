"""The pictures of training pairs as patch features: encoded once and kept in the store, or anew in every step.

Both give the same bytes: a picture's features depend on no neighbour (``vlmig.vision``), and are kept in the precision in
which the encoder gives them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vlmig.data.pairs import BadPicture, Pair, Source
from vlmig.errors import VLMIGError
from vlmig.imagination import request
from vlmig.imagination.pipeline import Imagination
from vlmig.imagination.store import Address, Imagined, describe
from vlmig.io.rows import Bad
from vlmig.runtime import Stopwatch, spread

PORTION = 512
"""Pairs whose pictures are looked up, read and encoded together."""

Looked = np.ndarray | Image.Image | str | None
"""What is at hand of a picture before the step: features (P, C), the picture, what to imagine, or nothing."""


class Pictures:
    """Features of pairs' pictures.

    Args:
        imagination: encoder, imaginer and store.
        blank: features of the empty picture, (P, C), which pairs without picture are read beside.
        stored: take features from the store, where ``fill`` has put them; otherwise encode in every step.
        seed: of the imagined ones.
    """

    def __init__(self, imagination: Imagination, blank: Tensor, stored: bool, seed: int) -> None:
        self.imagination, self.blank, self.stored, self.seed = (
            imagination,
            blank.cpu().half(),
            stored,
            seed,
        )
        self.stopwatch = Stopwatch()
        self._given = describe({"imaginer": "given", **imagination.encoder.identity()})

    def look(self, source: Source, pair: Pair) -> Looked:
        """Get hold of a pair's picture; may run in a process of its own.

        Raises:
            BadPicture: it cannot be read.
        """
        if not pair.picture and not pair.prompt:
            return None
        if self.stored:
            found = self.imagination.store.get(self.address(source, pair).key, picture=False)
            if found is None:
                raise BadPicture("no features stored")
            return found.patches.numpy()  # a tensor from another process would keep a file open
        return source.open(pair) if pair.picture else pair.prompt

    def see(self, rows: Sequence[Sequence[Looked]]) -> Tensor:
        """Return features of what was looked at, (B, M, P, C), M the most of a row; the rest is filled up with the empty picture."""
        most = max(map(len, rows))
        looked = [own for row in rows for own in (*row, *[None] * (most - len(row)))]
        features: list[Tensor] = [self.blank] * len(looked)
        for i, own in enumerate(looked):
            if isinstance(own, np.ndarray):
                features[i] = torch.from_numpy(own)
        shown = [i for i, own in enumerate(looked) if isinstance(own, Image.Image)]
        if shown:
            with self.stopwatch("encode"):
                encoded, _ = self.imagination.encoder.encode([looked[i] for i in shown])  # type: ignore[misc]
            for i, patches in zip(shown, encoded, strict=True):
                features[i] = patches
        told = [i for i, own in enumerate(looked) if isinstance(own, str)]
        if told:
            prompts = [self.imagination.prompts(str(looked[i]), 1, "question") for i in told]
            for i, visuals in zip(
                told, self.imagination.visuals(prompts, 1, self.seed), strict=True
            ):
                features[i] = visuals.features[0].half()
        return torch.stack([self.blank, *features])[1:].float().unflatten(0, (len(rows), most))

    def address(self, source: Source, pair: Pair) -> Address:
        """Say where the store keeps a pair's picture."""
        if not pair.picture:
            prompt = self.imagination.prompts(pair.prompt, 1, "question")[0]
            return self.imagination.address(request(prompt, 0, self.seed))
        box = "" if pair.box is None else ",".join(map(str, pair.box))
        kind, _, place = source.name.partition(" ")
        place = os.path.abspath(place) if os.path.exists(place) else place
        return Address(f"{kind} {place} {pair.picture} {box} {pair.version}", 0, self._given)

    def fill(
        self, source: Source, pairs: Iterable[Pair], total: int, quiet: bool = False
    ) -> list[Bad]:
        """See that the store has every pair's picture; a killed run goes on where it stopped.

        Returns:
            The pairs whose picture cannot be read.
        """
        bad: dict[str, str] = {}
        found: list[Bad] = []
        prompts: dict[str, None] = {}
        with tqdm(
            total=total, desc=f"encoding {source.name}", unit=" pairs", smoothing=0.1, disable=quiet
        ) as bar:
            for portion in _portions(pairs):
                shown = [one for pair in portion for one in pair.pictures()]
                self._fill(source, shown, bad)
                reasons = ((pair, bad.get(self.address(source, pair).key)) for pair in shown)
                found += [
                    Bad(f"{source.name}, {pair.picture}", reason)
                    for pair, reason in reasons
                    if reason
                ]
                prompts |= dict.fromkeys(
                    pair.prompt for pair in portion if pair.prompt and not pair.picture
                )
                bar.update(len(portion))
        if prompts:
            self.imagination.fill(list(prompts), 1, self.seed)
        return found

    def _fill(self, source: Source, portion: list[Pair], bad: dict[str, str]) -> None:
        store, wanted = (
            self.imagination.store,
            {self.address(source, pair): pair for pair in portion},
        )
        present = store.present([address.key for address in wanted])
        missing = {
            a: pair for a, pair in wanted.items() if a.key not in present and a.key not in bad
        }
        opened = _read(source, list(missing.values()))
        for address, picture in zip(missing, opened, strict=True):
            if isinstance(picture, BadPicture):
                bad[address.key] = str(picture)
        good = [(a, p) for a, p in zip(missing, opened, strict=True) if isinstance(p, Image.Image)]
        if good:
            with self.stopwatch("encode"):
                patches, pooled = self.imagination.encoder.encode([picture for _, picture in good])
            with self.stopwatch("store"):
                items = zip(good, patches, pooled, strict=True)
                store.put((address, Imagined(None, own, unit)) for (address, _), own, unit in items)

    def alignment(self, source: Source, pairs: Sequence[Pair]) -> Tensor:
        """Return the cosine of each caption with its (first) picture, (n,); NaN where that cannot be read or there is none.

        Raises:
            VLMIGError: an encoder without a text side.
        """
        first = [next(iter(pair.pictures()), None) for pair in pairs]
        shown = [one for one in first if one is not None]
        self.fill(source, shown, len(shown), quiet=True)
        texts = self.imagination.encoder.encode_text([pair.caption for pair in pairs])
        if texts is None:
            raise VLMIGError(
                f"min_alignment needs an encoder that reads texts; {self.imagination.config.vision_encoder} does not: leave it out"
            )
        store = self.imagination.store
        found = [
            store.get(self.address(source, one).key) if one is not None else None for one in first
        ]
        cosines = [
            torch.nan if item is None else (item.pooled * own).sum().item()
            for item, own in zip(found, texts, strict=True)
        ]
        return torch.tensor(cosines)


def _read(source: Source, pairs: list[Pair]) -> list[Image.Image | BadPicture]:
    """Open pictures side by side."""

    def read(pair: Pair) -> Image.Image | BadPicture:
        try:
            return source.open(pair)
        except BadPicture as error:
            return error

    return spread(read, pairs, torch.device("cpu"))


def _portions(pairs: Iterable[Pair]) -> Iterable[list[Pair]]:
    portion: list[Pair] = []
    for pair in pairs:
        portion.append(pair)
        if len(portion) == PORTION:
            yield portion
            portion = []
    if portion:
        yield portion
