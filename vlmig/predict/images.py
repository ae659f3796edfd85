"""Looker: a model with its tokenizer that gives texts their pictures, imagined or given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from vlmig.errors import VLMIGError
from vlmig.imagination.pipeline import Imagination
from vlmig.imagination.store import FeatureStore, default_store
from vlmig.imagination.visuals import Visuals
from vlmig.models.config import VLMIGConfig
from vlmig.models.fusion.prefix import add_image_token
from vlmig.models.modeling import Model
from vlmig.predict.visual_cache import Sights
from vlmig.processing.image_tokens import marked, refuse_marks, unmarked
from vlmig.runtime import Stopwatch
from vlmig.vision import Pictures, all_opened

DEFAULT_K = 6
BESIDE = "this model looks at pictures beside the text"


class Looker:
    """Pictures for texts.

    Args:
        model: base LM with adapter.
        tokenizer: the base LM's.
        folder: the checkpoint's folder, against which ``./`` components are resolved.
        store: where imagined features are kept, or its folder; the user's cache when None.
    """

    def __init__(
        self, model: Model, tokenizer: Any, folder: Path, store: str | Path | FeatureStore | None = None
    ) -> None:
        self.model, self.tokenizer, self.folder = model, tokenizer, folder
        self.config: VLMIGConfig = model.config
        if self.config.images_in_text:
            add_image_token(tokenizer, self.config)
        self.stopwatch = Stopwatch()
        kept = store if isinstance(store, FeatureStore) else FeatureStore(store or default_store())
        self.sights = Sights(model)
        self.imagination = Imagination(self.config, folder, kept, self.stopwatch)

    def imagine(
        self,
        texts: Sequence[str],
        k: int,
        seed: int = 0,
        progress: bool = False,
        *,
        policy: str | None = "question",
        options: Sequence[str] | None = None,
    ) -> list[Visuals]:
        """Imagine k pictures for each text, or take them from the store; see ``Imagination.visuals``.

        Args:
            policy: how a text becomes a prompt, see ``prompts_for``; the checkpoint's own way when None.
            options: an answer for each text, which only the policy ``option`` shows.
        """
        if not isinstance(k, int):
            raise VLMIGError(
                f"k={k!r}; expected a number of pictures here: auto decides between answers (ask with choices, loglikelihood, vlmig eval)"
            )
        gap = self.tokenizer.mask_token or "\0"
        pairs = zip(texts, options or [""] * len(texts), strict=True)
        prompts = [self.imagination.prompts(t.replace(gap, " ").strip(), k, policy, option) for t, option in pairs]
        return self.imagination.visuals(prompts, k, seed, progress)

    def look(
        self,
        images: Sequence[Pictures],
        texts: Sequence[str],
        k: int | None = None,
        seed: int = 0,
        *,
        policy: str | None = "question",
        options: Sequence[str] | None = None,
    ) -> list[Visuals]:
        """Encode pictures that are given for each text, every one once.

        With early fusion they are shown in the text, beside k imagined ones (none when None): each stands at a mark
        (``vlmig.models.config.IMAGE``) of it, in order, or before a text without marks. With late fusion they take the imagined pictures'
        place, compared with the prompt that would be imagined.

        Args:
            images: pictures, or one picture, of each text.
            policy: how a text becomes a prompt, see ``imagine``.

        Raises:
            VLMIGError: what is no picture; with early fusion more or fewer marks than pictures, with late fusion marks, or a k.
        """
        if len(images) != len(texts):
            raise VLMIGError(f"pictures for {len(images)} texts, {len(texts)} texts; expected as many")
        own = [all_opened(pictures) for pictures in images]
        options = options or [""] * len(texts)
        if self.config.images_in_text:
            for text, pictures in zip(texts, own, strict=True):
                marked(text, len(pictures))
            seen = iter(self.imagination.look(list(chain(*own))))
            beside = self.imagine([unmarked(text) for text in texts], k or 0, seed, policy=policy, options=options)
            shown = [[next(seen).patches.float() for _ in pictures] for pictures in own]
            return [replace(v, shown=torch.stack(f)) if f else v for v, f in zip(beside, shown, strict=True)]
        refuse_marks(texts, f"{BESIDE}; leave it out")
        if k is not None:
            raise VLMIGError(f"k={k} with pictures; expected no k: {BESIDE}, and they take the imagined ones' place")
        self.imagination.look(list(chain(*own)))  # in whole batches
        gap = self.tokenizer.mask_token or "\0"
        return [
            self.imagination.given(
                pictures,
                self.imagination.prompts(text.replace(gap, " ").strip(), len(pictures), policy, option, drawn=False),
            )
            for text, pictures, option in zip(texts, own, options, strict=True)
        ]

    def _seen(
        self,
        texts: Sequence[str],
        k: int | None,
        seed: int,
        images: Sequence[Pictures] | None,
        options: Sequence[str] | None = None,
    ) -> list[Visuals]:
        """Give each text its pictures, imagined or given, by the checkpoint's own policy."""
        if images is None:
            return self.imagine(texts, DEFAULT_K if k is None else k, seed, policy=None, options=options)
        return self.look(images, texts, k, seed, policy=None, options=options)
