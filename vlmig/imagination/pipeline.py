"""From texts to what the model sees of them: imagine, guard, encode, store. Nothing is imagined or encoded twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vlmig.errors import VLMIGError
from vlmig.imagination import Imaginer, Request, request
from vlmig.imagination.guards import guarded
from vlmig.imagination.prompts import fitted, prompts_for
from vlmig.imagination.sources.build import choose_imaginer
from vlmig.imagination.store import Address, FeatureStore, Imagined, describe
from vlmig.imagination.visuals import Visuals
from vlmig.io.atomic import written_lines
from vlmig.models.config import VLMIGConfig
from vlmig.runtime import Stopwatch
from vlmig.vision import VisionEncoder

BATCH = 24
"""Pictures drawn, encoded and stored at a time, what a killed run can lose; more where there are more threads."""
SEEN = 64
"""Given pictures whose features stay in memory between calls."""
PORTION = 200
"""Texts of a long list that are looked up at a time."""


@dataclass
class Tally:
    """What imagining came to, since the model was loaded."""

    cut: int = 0
    """Texts of which a text encoder would not have read everything: cut or split."""
    stored: int = 0
    """Pictures that were there already."""
    drawn: int = 0
    redrawn: int = 0
    """Drawn again since they were black or of one colour."""
    faulty: int = 0
    """Still so after all redraws; their features count as an empty picture's."""

    def __str__(self) -> str:
        unusual = [f"{getattr(self, name)} {name}" for name in ("cut", "redrawn", "faulty") if getattr(self, name)]
        return ", ".join([f"{self.stored} pictures were there", f"{self.drawn} drawn", *unusual])


class Imagination:
    """Imaginer, encoder and store together; both models are loaded when first needed.

    Args:
        config: names the components and the sampling settings.
        folder: against which ``./`` components are resolved.
        store: where pictures and features are kept.
    """

    def __init__(self, config: VLMIGConfig, folder: Path, store: FeatureStore, stopwatch: Stopwatch) -> None:
        self.config, self.folder, self.store, self.stopwatch = config, folder, store, stopwatch
        self.tally = Tally()
        self._seen: dict[str, Imagined] = {}

    @cached_property
    def device(self) -> torch.device:
        """Where imaginer and encoder run: the first GPU, or under torchrun each process's own."""
        count = torch.cuda.device_count()
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % count) if count else torch.device("cpu")

    @cached_property
    def encoder(self) -> VisionEncoder:
        """The vision encoder."""
        place = self.config.locate(self.config.vision_encoder, self.folder)
        with self.stopwatch("load vision encoder"):
            return VisionEncoder(place, self.config.vision_layer, self.config.vision_features, self.device)

    @cached_property
    def imaginer(self) -> Imaginer:
        """The source of pictures."""
        with self.stopwatch("load generator"):
            return choose_imaginer(self.config, self.folder, lambda: self.encoder, self.store.path.parent, self.device)

    @cached_property
    def identity(self) -> dict[str, str | int | float]:
        """Everything beside the request that decides an imagined feature."""
        return {**self.imaginer.identity(), **self.encoder.identity()}

    def prompts(self, text: str, k: int, policy: str | None = None, option: str = "", drawn: bool = True) -> list[str]:
        """Return what the k pictures of a text show: by a policy (the checkpoint's own when None), as far as it is read.

        Args:
            drawn: whether an imaginer has to read them too, not only the encoder.

        Raises:
            VLMIGError: the policy ``option`` without one.
        """
        policy = policy or self.config.prompt_policy
        if policy == "option" and not option.strip():
            raise VLMIGError(
                "the policy option shows each answer, and there is none here; expected vlmig eval or loglikelihood, or another policy"
            )
        chosen = prompts_for(policy, text, max(k, 1), option)
        if k < 1:  # nothing to read, and nothing to load
            return chosen
        fits = fitted(chosen, self._fits if drawn else self.encoder.fits, self.config.long_prompts)
        self.tally.cut += fits != chosen
        return fits

    def _fits(self, prompt: str) -> bool:
        return self.imaginer.fits(prompt) and self.encoder.fits(prompt)

    def visuals(self, prompts: Sequence[Sequence[str]], k: int, seed: int = 0, progress: bool = False) -> list[Visuals]:
        """Give k pictures for each text, from the store where they are there; picture i is the same for any k.

        Args:
            prompts: what the pictures of each text show, see ``prompts``.

        Raises:
            VLMIGError: a negative k.
        """
        if k < 0:
            raise VLMIGError(f"k={k}; expected 0 (text only) or more pictures")
        if k == 0 or not prompts:
            return [Visuals.none(self.config, own[:1]) for own in prompts]
        requests = [self._requests(own[:k], seed) for own in prompts]
        found = self._find_or_make({r: self.address(r) for own in requests for r in own}, progress)
        texts = self._embedded({r.prompt for own in requests for r in own})
        made = {own: self._assembled(*self._parts(own, found), texts) for own in dict.fromkeys(requests)}
        self.store.touch([key for visuals in made.values() for key in visuals.keys])
        return [made[own] for own in requests]

    def look(self, pictures: Sequence[Image.Image]) -> list[Imagined]:
        """Encode pictures that are given, each once; the last ones stay in memory, and none goes into the store."""
        keys = [hashlib.sha256(f"{picture.size} ".encode() + picture.tobytes()).hexdigest() for picture in pictures]
        known = {key: self._seen[key] for key in keys if key in self._seen}
        missing = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in known}
        if missing:
            with self.stopwatch("encode"):
                seen = zip(missing.values(), *self.encoder.encode(list(missing.values())), strict=True)
            known |= zip(missing, (Imagined(*parts) for parts in seen), strict=True)
        self._seen = dict(list({**self._seen, **known}.items())[-SEEN:])
        return [known[key] for key in keys]

    def given(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Visuals:
        """Put given pictures in the place of imagined ones, each with the prompt that it is compared with."""
        if not pictures:
            return self.visuals([prompts], 0)[0]
        texts = self._embedded(set(prompts))
        return self._assembled(prompts, self.look(pictures), [""] * len(pictures), texts)

    def fill(
        self, texts: Sequence[str], k: int, seed: int = 0, policy: str = "question", report: Path | None = None
    ) -> None:
        """See that the store has k pictures of each text, in portions, however many there are; ``tally`` says what was done.

        What is stored stays; a killed run goes on where it stopped.

        Args:
            report: where to write a line for each text: prompts, alignment, diversity, redraws.
        """
        with (
            tqdm(total=len(texts) * k, desc="imagining", unit=" pictures", smoothing=0.1) as bar,
            written_lines(report) as write,
        ):
            for start in range(0, len(texts), PORTION):
                portion = texts[start : start + PORTION]
                prompts = [self.prompts(text, k, policy) for text in portion]
                addresses = {r: self.address(r) for own in prompts for r in self._requests(own, seed)}
                present = self.store.present([address.key for address in addresses.values()])
                missing = {r: address for r, address in addresses.items() if address.key not in present}
                self.store.touch(list(present))  # or what this run wants would have to go for what it draws
                self.tally.stored += len(addresses) - len(missing)
                bar.update(len(portion) * k - len(missing))
                for _ in self._make(missing):
                    bar.update()
                if report is not None:
                    stored = self.tally.stored  # counted already
                    for text, visuals in zip(portion, self.visuals(prompts, k, seed), strict=True):
                        write(json.dumps({"text": text, **visuals.described()}))
                    self.tally.stored = stored

    @staticmethod
    def _requests(prompts: Sequence[str], seed: int) -> tuple[Request, ...]:
        """Number the pictures of each prompt, of which a text may have several."""
        return tuple(request(prompt, list(prompts[:i]).count(prompt), seed) for i, prompt in enumerate(prompts))

    @cached_property
    def _described(self) -> str:
        return describe(self.identity)

    def address(self, asked: Request) -> Address:
        """Say where the store keeps a requested picture."""
        return Address(asked.prompt, asked.seed, self._described)

    def _embedded(self, prompts: set[str]) -> dict[str, Tensor] | None:
        """Embed the prompts, each once, where the encoder has a text side."""
        ordered = sorted(prompts)
        rows = self.encoder.encode_text(ordered)
        return None if rows is None else dict(zip(ordered, rows, strict=True))

    def _parts(
        self, own: tuple[Request, ...], found: dict[Request, Imagined]
    ) -> tuple[list[str], list[Imagined], list[str]]:
        return [r.prompt for r in own], [found[r] for r in own], [self.address(r).key for r in own]

    def _assembled(
        self, prompts: Sequence[str], items: list[Imagined], keys: list[str], texts: dict[str, Tensor] | None
    ) -> Visuals:
        alignment = torch.full((len(items),), torch.nan)
        if texts is not None:
            pooled = torch.stack([item.pooled for item in items])
            alignment = (pooled * torch.stack([texts[prompt] for prompt in prompts])).sum(-1)
        features = torch.stack([item.patches for item in items]).float()
        return Visuals(list(prompts), features, alignment, items, keys)

    def _find_or_make(self, addresses: dict[Request, Address], progress: bool) -> dict[Request, Imagined]:
        """Look requests up in the store, and make those that are missing."""
        found = {r: item for r, a in addresses.items() if (item := self.store.get(a.key)) is not None}
        missing = {r: address for r, address in addresses.items() if r not in found}
        self.tally.stored += len(found)
        made = tqdm(
            self._make(missing), "imagining", len(missing), unit=" pictures", disable=not (progress and missing)
        )
        return found | dict(made)

    def _make(self, addresses: dict[Request, Address]) -> Iterator[tuple[Request, Imagined]]:
        """Draw, guard, encode and store what is asked for, a batch at a time."""
        asked, size = list(addresses), max(BATCH, 3 * torch.get_num_threads())
        for start in range(0, len(asked), size):
            batch = asked[start : start + size]
            make = self._embeddings if self.imaginer.embeds else self._pictures
            made = dict(zip(batch, make(batch), strict=True))
            with self.stopwatch("store"):
                self.store.put((addresses[r], item) for r, item in made.items())
            self.tally.drawn += len(made)
            yield from made.items()

    def _embeddings(self, batch: list[Request]) -> list[Imagined]:
        with self.stopwatch("imagine"):
            given = self.imaginer.imagine(batch)
        if given[0].shape != (self.config.vision_width,):
            raise VLMIGError(
                f"imaginer {self.config.imaginer!r} gives embeddings of width {len(given[0])}, the adapter reads "
                f"{self.config.vision_width}; expected an imaginer in the space of {self.config.vision_encoder}"
            )
        return [Imagined(None, unit[None].half(), unit) for unit in given]

    def _pictures(self, batch: list[Request]) -> list[Imagined]:
        with self.stopwatch("imagine"):
            pictures, redraws = guarded(self.imaginer, batch, self.tally.drawn == 0)
        self.tally.redrawn += sum(count > 0 for count in redraws)
        self.tally.faulty += sum(count < 0 for count in redraws)
        with self.stopwatch("encode"):
            patches, pooled = self.encoder.encode(pictures)
        shown = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]
        return [Imagined(*parts) for parts in zip(shown, patches, pooled, redraws, strict=True)]
