"""Towers of open_clip: CLIP, SigLIP, CoCa, EVA, ... The only file of the library that knows open_clip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from vlmig.errors import VLMIGError, one_line


class OpenClipTower:
    """A model of open_clip; see ``vlmig.vision.encoder.Tower``."""

    reads = True

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any) -> None:
        self.model, self.vision, self.tokenizer = model.eval().requires_grad_(False), model, tokenizer
        steps = [step for step in preprocess.transforms if isinstance(step, nn.Module)]
        if any(type(step).__name__ == "ResizeKeepRatio" for step in preprocess.transforms):  # knows PIL pictures only
            self.steps = v2.Compose([v2.ToPILImage(), *preprocess.transforms])
        else:  # tensors in place of PIL pictures: the same steps, less the two that only convert
            self.steps = v2.Compose([*steps[:-1], v2.ToDtype(torch.float32, scale=True), steps[-1]])
        self.preprocessing = re.sub(r" at 0x\w+", "", str(self.steps))  # no addresses of this process

    def prepare(self, pictures: Sequence[Tensor]) -> Tensor:
        """Resize, crop and normalise pictures."""
        return torch.stack([self.steps(picture) for picture in pictures])

    def see(self, pixels: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return patch features and embeddings from one pass."""
        seen = self.model.visual.forward_intermediates(pixels, indices=[layer], output_fmt="NLC")
        return seen["image_intermediates"][0], seen["image_features"]

    def read(self, texts: list[str]) -> Tensor:
        """Embed texts."""
        ids = self.tokenizer(texts).to(next(self.model.parameters()).device)
        return self.model.encode_text(ids)

    def fits(self, text: str) -> bool:
        """Tell whether the text is read whole: with more room its tokens would begin the same."""
        length = self.tokenizer.context_length
        return torch.equal(self.tokenizer(text, context_length=2 * length)[0, :length], self.tokenizer(text)[0])


def architectures() -> list[str]:
    """List the names that may stand before a pretrained tag."""
    return open_clip.list_models()


def load(name: str) -> OpenClipTower:
    """Load ``architecture/tag``, ``hf-hub:...`` or a folder.

    Raises:
        VLMIGError: no such model, or no pretrained weights.
    """
    source, tag = _source(name)
    try:
        # Some weights were trained with another activation than their architecture's: open_clip only warns.
        tagged = open_clip.get_pretrained_cfg(source, tag) if tag else {}
        model, _, preprocess = open_clip.create_model_and_transforms(
            source, pretrained=tag, force_quick_gelu=bool(tagged.get("quick_gelu"))
        )
    except (RuntimeError, OSError, ValueError) as error:
        reason = one_line(error)
        cure = (
            "a folder in open_clip's local-dir format, hf-hub:owner/name, or architecture/tag such as ViT-B-32/openai"
        )
        raise VLMIGError(f"cannot load the vision encoder {name}: {reason}; expected {cure}") from error
    return OpenClipTower(model, preprocess, open_clip.get_tokenizer(source))


def _source(name: str) -> tuple[str, str | None]:
    """Turn our one name into open_clip's pair of model name and pretrained tag."""
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    if Path(name).is_dir():
        return f"local-dir:{name}", None
    architecture, _, tag = name.partition("/")
    if not tag:
        raise VLMIGError(f"vision encoder {name!r} names no weights; expected architecture/tag such as ViT-B-32/openai")
    return architecture, tag
