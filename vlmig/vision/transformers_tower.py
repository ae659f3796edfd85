"""Vision models of transformers: CLIP, SigLIP, FLAVA, DINOv2, ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from vlmig.io.weights import check_components, check_weights

FULL_LENGTH = ("siglip", "siglip2")
"""Families whose text side was trained on texts padded to full length."""


class TransformersTower:
    """A model of transformers; see ``vlmig.vision.encoder.Tower``."""

    def __init__(self, model: Any, processor: Any, tokenizer: Any) -> None:
        self.model = self.vision = model.eval().requires_grad_(False)
        self.processor, self.tokenizer = processor, tokenizer
        self.preprocessing = processor.to_json_string()
        self.has_text = hasattr(model, "get_text_features")
        scale = getattr(model, "logit_scale", None)
        self.scale = None if scale is None else float(scale.exp())
        side = getattr(model, "vision_model", None) or getattr(model, "image_model", None)
        self.patch_size = (side or model).config.patch_size
        text = getattr(model.config, "text_config", None)
        self.text_limit = getattr(text, "max_position_embeddings", None)

    def prepare(self, images: Sequence[Tensor]) -> Tensor:
        """Resize, crop and normalize images."""
        return self.processor(images=list(images), return_tensors="pt").pixel_values

    def encode_images(self, pixels: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return patch features and embeddings from one pass."""
        run = getattr(self.model, "get_image_features", self.model)
        output = run(pixel_values=pixels, output_hidden_states=True)
        # The first state is the embedding of the patches.
        states = output.hidden_states[layer if layer < 0 else layer + 1]
        patches = (pixels.shape[-2] // self.patch_size) * (pixels.shape[-1] // self.patch_size)
        pooled = output.pooler_output
        if pooled is None:  # SigLIP towers of LLaVA models have no head
            pooled = output.last_hidden_state.mean(1)
        return states[:, -patches:], _of_first_token(pooled)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed texts."""
        tokens = self._tokens(texts).to(self.model.device)
        return _of_first_token(self.model.get_text_features(**tokens).pooler_output)

    def fits(self, text: str) -> bool:
        """Tell whether the text is read without cutting."""
        return (
            self.text_limit is None
            or len(self.tokenizer(text, verbose=False).input_ids) <= self.text_limit
        )

    def _tokens(self, texts: list[str]) -> Any:
        padding = "max_length" if self.model.config.model_type in FULL_LENGTH else True
        return self.tokenizer(
            texts, padding=padding, truncation=True, max_length=self.text_limit, return_tensors="pt"
        )


def load(name: str) -> TransformersTower:
    """Load a hub id or a folder; raises transformers' errors."""
    config = AutoConfig.from_pretrained(name)
    model, loading = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    check_weights(model, name, loading["missing_keys"])
    processor = AutoImageProcessor.from_pretrained(name)
    tokenizer = AutoTokenizer.from_pretrained(name) if hasattr(config, "text_config") else None
    check_components([tokenizer], name)
    return TransformersTower(model, processor, tokenizer)


def _of_first_token(pooled: Tensor) -> Tensor:
    """Return embeddings (n, E); FLAVA projects every token."""
    return pooled[:, 0] if pooled.dim() == 3 else pooled
