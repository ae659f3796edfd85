"""Images for texts, imagined or given, and what the fusion layer makes of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from PIL import Image

from vlmig.errors import VLMIGError
from vlmig.imagination.pipeline import Imagination
from vlmig.imagination.store import FeatureStore
from vlmig.imagination.visuals import Visuals
from vlmig.models.config import VLMIGConfig
from vlmig.models.fusion.prefix import add_image_token
from vlmig.models.modeling import Model
from vlmig.models.text_states import VisualStates
from vlmig.processing.conversation import (
    BESIDE_TEXT,
    Conversation,
    refuse_placeholders,
    with_placeholders,
    without_placeholders,
)
from vlmig.processing.texts import check_texts
from vlmig.runtime import Stopwatch
from vlmig.vision import ImageInputs, all_opened

DEFAULT_K = 6
BYTES = 2**27
"""The most that ``VisualCache`` holds: with GPT-2, 60 sets of six images."""


class Images:
    """From texts, or images given for them, to ``Visuals``; the arguments are ``VLMIG``'s."""

    def __init__(
        self,
        model: Model,
        tokenizer: Any,
        folder: Path,
        store: str | Path | FeatureStore | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.config: VLMIGConfig = model.config
        self.in_text = self.config.images_in_text
        if self.in_text:
            add_image_token(tokenizer, self.config)
        self.stopwatch = Stopwatch()
        if not isinstance(store, FeatureStore):
            store = FeatureStore(store)
        self.imagination = Imagination(self.config, folder, store, self.stopwatch)

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
        """Imagine k images for each text, or take them from the store; see ``Imagination.visuals``.

        Args:
            policy: how a text becomes a prompt, see ``prompts_for``; the checkpoint's
                ``prompt_policy`` when None.
            options: an answer for each text, which only the policy ``option`` shows.
        """
        if not isinstance(k, int):
            raise VLMIGError(
                f"k={k!r}; expected a number of images here: auto decides between answers (ask "
                "with choices, loglikelihood, vlmig eval)"
            )
        prompts = self._prompts(texts, k, policy, options)
        return self.imagination.visuals(prompts, k, seed, progress)

    def make(
        self,
        texts: Sequence[str],
        k: int,
        seed: int = 0,
        *,
        policy: str | None = "question",
        options: Sequence[str] | None = None,
    ) -> None:
        """Make sure that the store has the images that ``imagine`` gives."""
        prompts = self._prompts(texts, k, policy, options)
        self.imagination.make([of_text[:k] for of_text in prompts], seed)

    def _prompts(
        self, texts: Sequence[str], k: int, policy: str | None, options: Sequence[str] | None
    ) -> list[list[str]]:
        check_texts("texts", texts)
        prompts = []
        for text, option in zip(texts, options or [""] * len(texts), strict=True):
            prompts.append(self.imagination.prompts(self._words(text), k, policy, option))
        return prompts

    def _words(self, text: str) -> str:
        """Remove a masked LM's gap."""
        return text.replace(self.tokenizer.mask_token or "\0", " ").strip()

    def look(
        self,
        images: Sequence[ImageInputs],
        texts: Sequence[str],
        k: int | None = None,
        seed: int = 0,
        *,
        policy: str | None = "question",
        options: Sequence[str] | None = None,
    ) -> list[Visuals]:
        """Encode the images given for each text, each distinct image once.

        With early fusion they go to the placeholders (``vlmig.models.config.IMAGE``) of the text,
        in order, or before a text without any; k imagined ones (none when None) are used besides.
        With late fusion they replace the imagined images, and their CLIP similarity is that to the
        prompt that would be imagined.

        Args:
            images: the images, or one image, of each text.
            policy: how a text becomes a prompt, see ``imagine``.

        Raises:
            VLMIGError: something that is not an image; with early fusion more or fewer placeholders
                than images, with late fusion placeholders, or a k.
        """
        check_texts("texts", texts)
        if len(images) != len(texts):
            raise VLMIGError(
                f"images for {len(images)} texts, {len(texts)} texts; expected as many"
            )
        opened = [all_opened(given) for given in images]
        options = options or [""] * len(texts)
        if self.in_text:
            return self._in_text(opened, texts, k or 0, seed, policy, options)
        refuse_placeholders(texts, BESIDE_TEXT)
        if k is not None:
            raise VLMIGError(
                f"k={k} with images; expected no k: this model looks at images beside the "
                "text, and they take the imagined ones' place"
            )
        return self._beside_text(opened, texts, policy, options)

    def _in_text(
        self,
        opened: list[list[Image.Image]],
        texts: Sequence[str],
        k: int,
        seed: int,
        policy: str | None,
        options: Sequence[str],
    ) -> list[Visuals]:
        """Encode images for the placeholders of texts, and imagine k more for each text."""
        for text, given in zip(texts, opened, strict=True):
            with_placeholders(text, len(given))  # refuses another number of them
        encoded = iter(self.imagination.look(list(chain.from_iterable(opened))))
        words = [without_placeholders(text) for text in texts]
        imagined = self.imagine(words, k, seed, policy=policy, options=options)
        results = []
        for visuals, given in zip(imagined, opened, strict=True):
            features = [next(encoded).patches.float() for _ in given]
            results.append(replace(visuals, shown=torch.stack(features)) if features else visuals)
        return results

    def _beside_text(
        self,
        opened: list[list[Image.Image]],
        texts: Sequence[str],
        policy: str | None,
        options: Sequence[str],
    ) -> list[Visuals]:
        """Encode images in the imagined ones' place."""
        self.imagination.look(list(chain.from_iterable(opened)))  # in whole batches
        results = []
        for text, given, option in zip(texts, opened, options, strict=True):
            words, count = self._words(text), len(given)
            prompts = self.imagination.prompts(words, count, policy, option, drawn=False)
            results.append(self.imagination.given(given, prompts))
        return results

    def for_texts(
        self,
        texts: Sequence[str],
        k: int | None,
        seed: int,
        images: Sequence[ImageInputs] | None,
        options: Sequence[str] | None = None,
    ) -> list[Visuals]:
        """Imagine images for each text by the checkpoint's policy, or look at those given."""
        if images is None:
            return self.imagine(
                texts, DEFAULT_K if k is None else k, seed, policy=None, options=options
            )
        return self.look(images, texts, k, seed, policy=None, options=options)

    def for_conversation(
        self, conversation: Conversation, prompt: str | None, k: int | None, seed: int
    ) -> Visuals:
        """Imagine images of a prompt, or of the last question without one; look at those of the
        conversation."""
        texts = [prompt or conversation.last_question]
        policy = "question" if prompt else None
        if conversation.images:
            return self.look([conversation.images], texts, k, seed, policy=policy)[0]
        return self.imagine(texts, DEFAULT_K if k is None else k, seed, policy=policy)[0]


class VisualCache:
    """LRU cache of the fusion layer's image keys and values: each image is projected once, however
    many questions use it.

    The key is the images' keys in the store. Any change of the adapter (training, loading, another
    precision) empties the cache.

    Args:
        model: encodes images, see ``VLMIGPreTrainedModel.encode_with_blank``.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._states: OrderedDict[tuple[str, ...], VisualStates] = OrderedDict()
        self._bytes, self._adapter = 0, self._versions()
        self._lock = Lock()

    def __call__(self, visuals: Sequence[Visuals], generic: bool = False) -> VisualStates | None:
        """Return ``VLMIGPreTrainedModel.encode_with_blank`` of the images of B texts, K of each;
        None where K is 0.

        Args:
            generic: whether the checkpoint's M generic images follow, (B, 1 + K + M, ...).
        """
        states = self._with_blank(visuals)
        return _joined(states, self._generic()) if generic and states is not None else states

    def _with_blank(self, visuals: Sequence[Visuals]) -> VisualStates | None:
        if not visuals or not len(visuals[0].features):
            return None
        versions = self._versions()
        if versions != self._adapter:
            self._adapter, self._bytes = versions, 0
            self._states.clear()
        states: dict[int, VisualStates] = {}
        for images in visuals:
            if id(images) not in states:
                states[id(images)] = self._encoded(images)
        if len(states) == 1:
            (only,) = states.values()
            return tuple(tensor.expand(len(visuals), *tensor.shape[1:]) for tensor in only)
        rows = [states[id(images)] for images in visuals]
        return tuple(torch.cat(tensors) for tensors in zip(*rows, strict=True))

    def to_mix(self, visuals: Sequence[Visuals]) -> VisualStates | None:
        """Return what ``VLMIGPreTrainedModel.mixed`` takes: for ``contrast`` the generic images
        stand in the blank one's place."""
        states = self(visuals)
        if states is None or self.model.config.mix != "contrast":
            return states
        return _joined(self._generic(), tuple(tensor[:, 1:] for tensor in states))

    def _generic(self) -> VisualStates:
        """Return the states of the generic images, (1, M, ...); ``_with_blank`` comes first, which
        drops those of an older adapter."""
        key = ("generic",)
        with self._lock:
            if key not in self._states:
                self._add(key, self.model.encode_generic())
            self._states.move_to_end(key)
            return self._states[key]

    def _encoded(self, images: Visuals) -> VisualStates:
        key = tuple(images.keys)
        with self._lock:
            if key in self._states:
                self._states.move_to_end(key)
                return self._states[key]
        features = images.features[None].to(self.model.device)
        self.model.check_features(features, None, 1)
        states = self.model.encode_with_blank(features)
        # Given images have no key. With early fusion the LM's own layers read images, together
        # with the text.
        if all(key) and not self.model.config.images_in_text:
            with self._lock:
                self._add(key, states)
        return states

    def _add(self, key: tuple[str, ...], states: VisualStates) -> None:
        """Add one set and drop those used least recently, as far as there is no room."""
        self._bytes += 0 if key in self._states else _size(states)
        self._states[key] = states
        while self._bytes > BYTES:
            self._bytes -= _size(self._states.popitem(last=False)[1])

    def _versions(self) -> list[tuple[int, int]]:
        """Identify the adapter's state: a change in place raises a tensor's version, any other
        change makes new tensors."""
        adapter = (
            *self.model.projector.parameters(),
            *self.model.fusion.parameters(),
            self.model.blank_features,
            self.model.generic_features,
        )
        return [(id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in adapter]


def _joined(first: VisualStates, second: VisualStates) -> VisualStates:
    """Join the images of the same texts; one text's are repeated for all."""
    rows = max(len(first[0]), len(second[0]))
    joined = []
    for pair in zip(first, second, strict=True):
        joined.append(torch.cat([tensor.expand(rows, *tensor.shape[1:]) for tensor in pair], 1))
    return tuple(joined)


def _size(states: VisualStates) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in states)
