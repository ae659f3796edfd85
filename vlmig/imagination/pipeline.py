"""From prompts to features: imagine, guard, encode, store. Nothing is imagined or encoded twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vlmig.errors import VLMIGError
from vlmig.imagination import ImageSource, Request, requests_for
from vlmig.imagination.engine import Engine
from vlmig.imagination.guards import guarded
from vlmig.imagination.prompts import fitted, prompts_for
from vlmig.imagination.sources.build import build_source
from vlmig.imagination.store import Address, FeatureStore, Imagined, describe
from vlmig.imagination.tally import Tally
from vlmig.imagination.visuals import Visuals
from vlmig.io.atomic import written_lines
from vlmig.models.config import VLMIGConfig
from vlmig.runtime import Stopwatch
from vlmig.vision import VisionEncoder

BATCH = 24
"""Least number of images drawn, encoded and stored at a time: what a killed run can lose."""
GIVEN = 64
"""Given images whose features stay in memory between calls."""
PROMPTS = 64
"""Prompts whose lengths and embeddings stay in memory: those of a question that is asked again."""
CHUNK, WINDOW = 200, 20_000
"""Texts of a long list that are looked up at a time; WINDOW for a cluster, which starts its actors
for each."""


class Imagination:
    """Image source, encoder and store together; the two models are loaded when first needed.

    Args:
        config: names the components and the sampling settings.
        folder: the folder that ``./`` components are relative to.
        store: where images and features are stored.
        stopwatch: times the steps.
    """

    def __init__(
        self, config: VLMIGConfig, folder: Path, store: FeatureStore, stopwatch: Stopwatch
    ) -> None:
        self.config, self.folder, self.store, self.stopwatch = config, folder, store, stopwatch
        self.tally = Tally()
        self.engine: Engine | None = None
        """What fills the store in place of this process."""
        self._encoded: dict[str, Imagined] = {}
        self._fits_once = lru_cache(PROMPTS)(self._fits)
        self._embed_once = lru_cache(PROMPTS)(self._embed_text)

    @cached_property
    def device(self) -> torch.device:
        """The first GPU, or the process's GPU under torchrun; a CPU without any."""
        count = torch.cuda.device_count()
        if not count:
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % count)

    @cached_property
    def encoder(self) -> VisionEncoder:
        """The vision encoder."""
        config = self.config
        name = config.locate(config.vision_encoder, self.folder)
        with self.stopwatch("load vision encoder"):
            return VisionEncoder(name, config.vision_layer, config.vision_features, self.device)

    @cached_property
    def source(self) -> ImageSource:
        """The source of images."""
        with self.stopwatch("load generator"):
            return build_source(
                self.config, self.folder, lambda: self.encoder, self.store.path.parent, self.device
            )

    @cached_property
    def identity(self) -> dict[str, str | int | float]:
        """Everything beside the request that decides an imagined feature."""
        return {**self.source.identity(), **self.encoder.identity()}

    def prompts(
        self, text: str, k: int, policy: str | None = None, option: str = "", drawn: bool = True
    ) -> list[str]:
        """Return the prompts of a text's k images, shortened to what the text encoders read.

        Args:
            policy: how a text becomes prompts, see ``prompts_for``; the checkpoint's when None.
            option: the candidate answer that the policy ``option`` shows.
            drawn: whether the image source has to read the prompts too, and not only the encoder.

        Raises:
            VLMIGError: the policy ``option`` without a candidate.
        """
        policy = policy or self.config.prompt_policy
        if policy == "option" and not option.strip():
            raise VLMIGError(
                "the policy option shows each answer, and there is none here; expected vlmig eval "
                "or loglikelihood, or another policy"
            )
        prompts = prompts_for(policy, text, max(k, 1), option)
        if k < 1:  # nothing is drawn, so no model needs to be loaded
            return prompts
        fits = self._fits_once if drawn else self.encoder.fits
        shortened = fitted(prompts, fits, self.config.long_prompts)
        self.tally.cut += shortened != prompts
        return shortened

    def _fits(self, prompt: str) -> bool:
        return self.source.fits(prompt) and self.encoder.fits(prompt)

    def visuals(
        self, prompts: Sequence[Sequence[str]], k: int, seed: int = 0, progress: bool = False
    ) -> list[Visuals]:
        """Return k images for each text, stored or drawn; image i is the same for any k.

        Args:
            prompts: the prompts of each text's images, see ``prompts``.

        Raises:
            VLMIGError: a negative k.
        """
        if k < 0:
            raise VLMIGError(f"k={k}; expected 0 (text only) or more images")
        if k == 0 or not prompts:
            return [Visuals.none(self.config, text_prompts[:1]) for text_prompts in prompts]
        requests = [requests_for(text_prompts[:k], seed) for text_prompts in prompts]
        addresses = self._addresses(requests)
        images = self._find_or_make(addresses, progress)
        embeddings = self._text_embeddings(request.prompt for request in addresses)
        visuals: dict[tuple[Request, ...], Visuals] = {}
        for text_prompts, of_text in zip(prompts, requests, strict=True):
            if of_text in visuals:
                continue
            items, keys = [], []
            for wanted in of_text:
                items.append(images[wanted])
                keys.append(addresses[wanted].key)
            visuals[of_text] = self._assemble(text_prompts[:k], items, keys, embeddings)
        return [visuals[of_text] for of_text in requests]

    def look(self, images: Sequence[Image.Image]) -> list[Imagined]:
        """Encode given images, each once. The last ones stay in memory; none is stored."""
        encoded, keys, missing = dict(self._encoded), [], {}
        for image in images:
            content = f"{image.size} ".encode() + image.tobytes()
            keys.append(hashlib.sha256(content).hexdigest())
            if keys[-1] not in encoded:
                missing[keys[-1]] = image
        if missing:
            with self.stopwatch("encode"):
                patches, pooled = self.encoder.encode(list(missing.values()))
            for key, *entry in zip(missing, missing.values(), patches, pooled, strict=True):
                encoded[key] = Imagined(*entry)
        self._encoded = dict(list(encoded.items())[-GIVEN:])
        return [encoded[key] for key in keys]

    def given(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Visuals:
        """Use given images in place of imagined ones, each compared with its prompt."""
        if not images:
            return self.visuals([prompts], 0)[0]
        items, keys = self.look(images), [""] * len(images)
        visuals = self._assemble(prompts, items, keys, self._text_embeddings(prompts))
        visuals.given = True
        return visuals

    def fill(
        self,
        texts: Sequence[str],
        k: int,
        seed: int = 0,
        policy: str = "question",
        report: Path | None = None,
    ) -> None:
        """Make sure that the store has k images of each text; ``tally`` counts what was done.

        Images in the store are not drawn again, so a killed run can be resumed.

        Args:
            report: where to write a line for each text: prompts, CLIP similarity, diversity,
                redraws.
        """
        with (
            tqdm(total=len(texts) * k, desc="imagining", unit=" images", smoothing=0.1) as bar,
            written_lines(report) as write,
        ):
            size = CHUNK if self.engine is None else WINDOW
            for start in range(0, len(texts), size):
                window = texts[start : start + size]
                prompts = [self.prompts(text, k, policy) for text in window]
                self.make(prompts, seed, bar)
                if report is not None:
                    self._report(window, prompts, k, seed, write)

    def make(self, prompts: Sequence[Sequence[str]], seed: int, bar: tqdm | None = None) -> None:
        """Make sure that the store has an image of each prompt of each text.

        Args:
            bar: shows progress.
        """
        missing = self._missing(prompts, seed)
        if bar is not None:
            bar.update(sum(map(len, prompts)) - len(missing))
        for _ in self._make(missing) if self.engine is None else self.engine.make(self, missing):
            if bar is not None:
                bar.update()

    def _report(
        self,
        texts: Sequence[str],
        prompts: Sequence[Sequence[str]],
        k: int,
        seed: int,
        write: Callable[[str], None],
    ) -> None:
        """Write a line for each text."""
        stored = self.tally.stored  # looking them up again must not count
        for start in range(0, len(texts), CHUNK):
            chunk = slice(start, start + CHUNK)
            images = self.visuals(prompts[chunk], k, seed)
            for text, visuals in zip(texts[chunk], images, strict=True):
                write(json.dumps({"text": text, **visuals.described()}))
        self.tally.stored = stored

    def _missing(self, prompts: Sequence[Sequence[str]], seed: int) -> dict[Request, Address]:
        """Return the requests whose images the store does not have."""
        addresses = self._addresses(requests_for(one, seed) for one in prompts)
        present = self.store.present([address.key for address in addresses.values()])
        self.store.touch(list(present))  # or the store could evict what this run needs
        missing = {r: a for r, a in addresses.items() if a.key not in present}
        self.tally.stored += len(addresses) - len(missing)
        return missing

    def _addresses(self, requests: Iterable[Sequence[Request]]) -> dict[Request, Address]:
        return {wanted: self.address(wanted) for wanted in chain.from_iterable(requests)}

    @cached_property
    def described(self) -> str:
        """The identity as text."""
        return describe(self.identity)

    def address(self, wanted: Request) -> Address:
        """Return the address in the store of a requested image."""
        return Address(wanted.prompt, wanted.seed, self.described)

    def _embed_text(self, prompt: str) -> Tensor | None:
        rows = self.encoder.encode_text([prompt])
        return None if rows is None else rows[0]

    def _text_embeddings(self, prompts: Iterable[str]) -> dict[str, Tensor]:
        """Embed each prompt once; none where the encoder has no text side."""
        embeddings = {}
        for prompt in dict.fromkeys(prompts):
            if (embedding := self._embed_once(prompt)) is not None:
                embeddings[prompt] = embedding
        return embeddings

    def _assemble(
        self,
        prompts: Sequence[str],
        items: list[Imagined],
        keys: list[str],
        embeddings: dict[str, Tensor],
    ) -> Visuals:
        similarity = torch.full((len(items),), torch.nan)
        if embeddings:
            pooled = torch.stack([item.pooled for item in items])
            similarity = (pooled * torch.stack([embeddings[prompt] for prompt in prompts])).sum(-1)
        features = torch.stack([item.patches for item in items]).float()
        return Visuals(list(prompts), features, similarity, items, keys)

    def _find_or_make(
        self, addresses: dict[Request, Address], progress: bool
    ) -> dict[Request, Imagined]:
        """Look requests up in the store, and make those that are missing."""
        images = self.store.find(addresses)
        missing = {wanted: a for wanted, a in addresses.items() if wanted not in images}
        self.tally.stored += len(images)
        hidden = not (progress and missing)
        made = self._make(missing)
        bar = tqdm(made, "imagining", len(missing), unit=" images", disable=hidden)
        return images | dict(bar)

    @property
    def together(self) -> int:
        """Images that the source draws side by side, as far as it is configured."""
        return self.config.imaginer_batch or 1

    def _make(self, addresses: dict[Request, Address]) -> Iterator[tuple[Request, Imagined]]:
        """Draw, guard, encode and store requested images, a batch at a time."""
        requests = list(addresses)
        size = max(BATCH, 3 * torch.get_num_threads(), 3 * self.together)
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            made = list(zip(batch, self.draw(batch), strict=True))
            with self.stopwatch("store"):
                self.store.put((addresses[request], item) for request, item in made)
            yield from made

    def draw(self, batch: list[Request]) -> list[Imagined]:
        """Draw, guard and encode requested images; the store is not touched."""
        return self._embeddings(batch) if self.source.embeds else self._images(batch)

    def _embeddings(self, batch: list[Request]) -> list[Imagined]:
        with self.stopwatch("imagine"):
            embeddings = self.source.imagine(batch)
        if embeddings[0].shape != (self.config.vision_width,):
            raise VLMIGError(
                f"imaginer {self.config.imaginer!r} gives embeddings of width "
                f"{len(embeddings[0])}, the adapter reads {self.config.vision_width}; expected an "
                f"imaginer in the space of {self.config.vision_encoder}"
            )
        self.tally.drawn += len(batch)
        return [Imagined(None, unit[None].half(), unit) for unit in embeddings]

    def _images(self, batch: list[Request]) -> list[Imagined]:
        with self.stopwatch("imagine"):
            images, redraws = guarded(self.source, batch, self.tally.drawn == 0)
        with self.stopwatch("encode"):
            patches, pooled = self.encoder.encode(images)
        made = []
        for image, features, unit, count in zip(images, patches, pooled, redraws, strict=True):
            self.tally.count(count)
            drawn = Image.fromarray(image.permute(1, 2, 0).numpy())
            made.append(Imagined(drawn, features, unit, count))
        return made
