"""The interface of every kind of fusion, and the loop over images that the kinds with a layer
share.

Axes: B prompts, K images, N visual tokens per image, T queried and S all text positions, P patches,
C vision width, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from vlmig.errors import VLMIGError
from vlmig.models.text_states import LateReading, Reading, TextStates, VisualStates

FUSION_BUDGET = 2**14
"""States, visual and queried, that go through the fusion layer at a time."""


class Fusion(nn.Module):
    """One way to condition a text on images. Methods take the model, which owns the LM."""

    def embed_shown(
        self, model: Any, inputs: dict[str, Any], shown: Tensor | None
    ) -> dict[str, Any]:
        """Embed the images inside the text, (B, M, P, C), in the LM's inputs.

        Raises:
            VLMIGError: images for a kind of fusion that has none in its text.
        """
        if shown is not None and shown.shape[1]:
            raise VLMIGError(
                f"shown_features with fusion={model.config.fusion!r}; expected visual_features: "
                "only fusion='prefix' has images in its text"
            )
        return inputs

    def prepare_text(
        self,
        model: Any,
        ids: Tensor | None,
        embedded: dict[str, Any],
        states: Tensor,
        padding: Tensor | None,
        cache: Cache | None,
        logits_to_keep: int | Tensor,
    ) -> Reading:
        """Keep what ``fuse`` needs of a text that a causal LM has read.

        Args:
            ids: the tokens, placeholders among them, (B, Q).
            embedded: the LM's inputs, from ``embed_shown``.
            states: the LM's last hidden states, (B, Q, D).
            padding: the 2D mask, (B, S); None without padding.
        """
        packed = None
        if padding is None and cache is None:  # as transformers recognizes packed rows
            packed = embedded.get("position_ids")
        if packed is not None and packed.ndim != 2:
            packed = None
        return model.prepare(states, padding, cache, logits_to_keep, packed)

    def encode_images(self, model: Any, features: Tensor) -> VisualStates:
        """Make what ``fuse`` needs of image features (B, K, P, C), whatever the text."""
        raise NotImplementedError

    def fuse(self, model: Any, reading: Any, visual: Tensor | VisualStates) -> Tensor:
        """Fuse the queried positions with each of the K images: states (B, K, T, D).

        Args:
            reading: the text, from ``model.read``.
            visual: features (B, K, P, C), or what ``encode_images`` made of them.
        """
        raise NotImplementedError


def like_weights(values: Tensor, module: nn.Module) -> Tensor:
    """Bring values to a module's precision, and to its device unless its weights are offloaded."""
    weight = next(module.parameters())
    return values.to(weight.dtype) if weight.device.type == "meta" else values.to(weight)


class LateFusion(Fusion):
    """A layer after the LM, over [visual tokens ; text], whose keys of a text fit all images."""

    def read_text(self, hidden: Tensor, positions: Tensor) -> TextStates:
        """Make the layer's keys and values of text states (B, S, D) at ``positions`` (B, S)."""
        raise NotImplementedError

    def read_images(self, visual: Tensor) -> VisualStates:
        """Make the layer's keys and values of visual tokens (B, K, N, D)."""
        raise NotImplementedError

    def encode_images(self, model: Any, features: Tensor) -> VisualStates:
        """Make the layer's keys and values of image features (B, K, P, C)."""
        return self.read_images(model.projector(like_weights(features, model.projector)))

    def fuse(self, model: Any, reading: LateReading, visual: Tensor | VisualStates) -> Tensor:
        """Run the layer over a few images at a time: states (B, K, T, D); see ``Fusion.fuse``."""
        tensors = (visual,) if isinstance(visual, Tensor) else visual
        rows = reading.hidden.shape[0] * (reading.hidden.shape[1] + model.config.visual_tokens)
        images = max(1, FUSION_BUDGET // rows)
        fused = []
        for group in zip(*(tensor.split(images, 1) for tensor in tensors), strict=True):
            keys = self.encode_images(model, *group) if isinstance(visual, Tensor) else group
            states = self(reading.hidden, keys, reading.text, reading.mask, reading.positions)
            if reading.image_end is not None:
                states = torch.where(reading.image_end[:, None, :, None], keys[-1], states)
            fused.append(states)
        return torch.cat(fused, 1)
