"""Vision models of open_clip: CLIP, SigLIP, CoCa, EVA, ... No other file imports open_clip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from vlmig.io.weights import check_components


class OpenClipTower:
    """A model of open_clip; see ``vlmig.vision.encoder.Tower``."""

    has_text = True

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any) -> None:
        self.model = self.vision = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        scale = getattr(model, "logit_scale", None)
        self.scale = None if scale is None else float(scale.exp())
        steps = [step for step in preprocess.transforms if isinstance(step, nn.Module)]
        # Takes PIL images only.
        if any(type(step).__name__ == "ResizeKeepRatio" for step in preprocess.transforms):
            self.steps = v2.Compose([v2.ToPILImage(), *preprocess.transforms])
        else:  # the same steps for tensors, less the two that only convert from PIL images
            self.steps = v2.Compose([*steps[:-1], v2.ToDtype(torch.float32, scale=True), steps[-1]])
        # Without addresses of this process.
        self.preprocessing = re.sub(r" at 0x\w+", "", str(self.steps))

    def prepare(self, images: Sequence[Tensor]) -> Tensor:
        """Resize, crop and normalize images."""
        return torch.stack([self.steps(image) for image in images])

    def encode_images(self, pixels: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return patch features and embeddings from one pass."""
        output = self.model.visual.forward_intermediates(pixels, indices=[layer], output_fmt="NLC")
        return output["image_intermediates"][0], output["image_features"]

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed texts."""
        ids = self.tokenizer(texts).to(next(self.model.parameters()).device)
        return self.model.encode_text(ids)

    def fits(self, text: str) -> bool:
        """Tell whether the text is read whole: a longer context begins with the same tokens."""
        length = self.tokenizer.context_length
        return torch.equal(
            self.tokenizer(text, context_length=2 * length)[0, :length], self.tokenizer(text)[0]
        )


def architectures() -> list[str]:
    """Return the names that may come before a pretrained tag."""
    return open_clip.list_models()


def load(source: str, tag: str | None = None) -> OpenClipTower:
    """Load the weights ``tag`` of an architecture, ``hf-hub:...`` or ``local-dir:...``."""
    # Some weights were trained with another activation than their architecture's: open_clip only
    # warns.
    settings = open_clip.get_pretrained_cfg(source, tag) if tag else {}
    model, preprocess = open_clip.create_model_from_pretrained(  # refuses random weights
        source, pretrained=tag, force_quick_gelu=bool(settings.get("quick_gelu"))
    )
    tokenizer = open_clip.get_tokenizer(source)
    check_components([getattr(tokenizer, "tokenizer", None)], source)  # one of transformers
    return OpenClipTower(model, preprocess, tokenizer)
