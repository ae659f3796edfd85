"""LateFusionModel: what causal and masked models share, and what they keep of a text and make of pictures.

Axes: B prompts, K images per prompt, P patches per image, C vision width, N visual tokens per image, T text tokens,
D LM width, V vocabulary. The models take visual features, never pictures; without them they *are* the base LM.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from vlmig.errors import VLMIGError
from vlmig.models.cache import keep_images, kept_images
from vlmig.models.checkpoint import AdapterCheckpoint
from vlmig.models.config import VLMIGConfig
from vlmig.models.fusion.cross_attention import CrossAttentionFusion
from vlmig.models.fusion.prefix import PrefixFusion
from vlmig.models.heads import check_head, is_linear
from vlmig.models.mixture import Mixture
from vlmig.models.projector import build_projector
from vlmig.models.reference import COUNTS_PADDING
from vlmig.models.text_states import LateReading, Reading, VisualStates

HEAD_SHARE = 12
"""One call of the head makes logits for 1/12 as many rows as it is wide: a twelfth of the memory of its own weights."""
FUSION_BUDGET = 2**14
"""States, visual and queried, that go through the fusion layer at a time."""


class LateFusionModel(AdapterCheckpoint, PreTrainedModel):
    """What causal and masked models share: base LM, projector, fusion layer, mixture.

    Args:
        config: the checkpoint's description.
        language_model: the base LM; built from ``config.text_config`` with random weights when None.

    Raises:
        VLMIGError: an LM whose logits cannot be rebuilt from its states; a family whose block cannot be the
            fusion layer.
    """

    config_class = VLMIGConfig
    base_model_prefix = "language_model"
    fusion: Any
    blank_features: Tensor
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: VLMIGConfig, language_model: PreTrainedModel | None = None) -> None:
        if language_model is not None:  # one config object: masks are made for the attention that the LM really runs
            config.text_config = language_model.config
        super().__init__(config)
        self.language_model = language_model or self.auto_class.from_config(config.text_config)
        width = self.state_width()
        words: Any = self.get_input_embeddings()
        self.projector = build_projector(config, words.embedding_dim if config.fusion == "prefix" else width)
        self.fusion = self.build_fusion(width)
        # Patch features of an empty picture: what "no evidence" looks like to this encoder.
        self.register_buffer("blank_features", torch.zeros(config.vision_patches, config.vision_width))
        for module in self.language_model.modules():  # its weights are made, whatever has been added to it
            module._is_hf_initialized = True
        self.post_init()
        if language_model is not None and language_model.device.type != "meta":
            check_head(language_model, self.trunk, type(self).head)

    @property
    def trunk(self) -> PreTrainedModel:
        """The base LM without its head."""
        raise NotImplementedError

    def state_width(self) -> int:
        """Return D, the width of the states that the head reads."""
        raise NotImplementedError

    def build_fusion(self, width: int) -> nn.Module:
        """Build the fusion layer that the configuration names."""
        config = self.config
        if config.fusion == "prefix":
            return PrefixFusion()
        if config.fusion == "cross_attention":
            return CrossAttentionFusion(width, config.fusion_heads, config.fusion_width or width)
        return self.build_family_layer()

    def build_family_layer(self) -> nn.Module:
        """Build one block of the LM's own family, new weights."""
        raise NotImplementedError

    @staticmethod
    def head(language_model: PreTrainedModel, states: Tensor) -> Tensor:
        """Turn last hidden states (..., D) into logits (..., V)."""
        raise NotImplementedError

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """Return the base LM's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the base LM's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        """Return the base LM's head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the base LM's head."""
        self.language_model.set_output_embeddings(value)

    def freeze_base(self) -> None:
        """Leave only projector and fusion layer trainable."""
        self.requires_grad_(False)
        self.projector.requires_grad_(True)
        self.fusion.requires_grad_(True)

    @property
    def published(self) -> bool:
        """Whether layout and losses are the published ones, which belong to the published fusion layer."""
        return self.config.protocol == "reference" and self.config.fusion == "decoder_layer"

    @property
    def padding_counts(self) -> bool:
        """Whether predictions depend on padding, as in some families of the published code, which ran prompt by prompt."""
        return self.published and self.config.text_config.model_type in COUNTS_PADDING

    def check_features(self, visual_features: Tensor, image_weights: Tensor | None, rows: int) -> None:
        """Refuse features and weights that do not fit.

        Raises:
            VLMIGError: other shapes than (B, K, P, C) and (B, K).
        """
        patches, width = self.blank_features.shape
        if (
            visual_features.ndim != 4
            or visual_features.shape[0] != rows
            or visual_features.shape[2:] != (patches, width)
        ):
            raise VLMIGError(
                f"visual_features of shape {tuple(visual_features.shape)}; expected (prompts, images, patches, width) = "
                f"({rows}, K, {patches}, {width}), as {self.config.vision_encoder} gives"
            )
        if image_weights is not None and image_weights.shape != visual_features.shape[:2]:
            raise VLMIGError(
                f"image_weights of shape {tuple(image_weights.shape)}; expected one per image, {tuple(visual_features.shape[:2])}"
            )

    def see(self, visual_features: Tensor) -> VisualStates:
        """Make what the fusion layer keeps of pictures (B, K, P, C), whatever is asked beside them."""
        return self.fusion.read_images(self.projector(visual_features.to(next(self.projector.parameters()))))

    def beside(self, visual_features: Tensor, cache: Cache | None = None) -> VisualStates:
        """See an empty picture and, behind it, those of each prompt, (B, 1 + K, ...); once for all that is read with a cache.

        Args:
            visual_features: F, (B, K, P, C).
        """
        if (kept := kept_images(cache, visual_features)) is not None:
            return kept
        blank = self.blank_features.expand(len(visual_features), 1, -1, -1)
        states = self.see(torch.cat([blank, visual_features.to(blank)], 1))
        if cache is not None:
            keep_images(cache, visual_features, states)
        return states

    def text_logits(self, reading: Reading) -> Tensor:
        """Return the base LM's own logits, (B, T, V)."""
        return self.head(self.language_model, reading.hidden)

    def text_log_probs(self, reading: Reading) -> Tensor:
        """Return log p_0, the base LM's own prediction, (B, T, V)."""
        return F.log_softmax(self.text_logits(reading).float(), -1)

    def fuse(self, reading: Reading, visual: Tensor | VisualStates) -> Tensor:
        """Fuse the queried positions with each of the K images: states (B, K, T, D).

        Args:
            visual: features (B, K, P, C), or what ``see`` made of them.
        """
        assert isinstance(reading, LateReading)
        parts = (visual,) if isinstance(visual, Tensor) else visual
        rows = reading.hidden.shape[0] * (reading.hidden.shape[1] + self.config.visual_tokens)
        fused = []
        for group in zip(*(part.split(max(1, FUSION_BUDGET // rows), 1) for part in parts), strict=True):
            seen = self.see(*group) if isinstance(visual, Tensor) else group
            states = self.fusion(reading.hidden, seen, reading.text, reading.mask, reading.positions)
            if reading.image_end is not None:
                states = torch.where(reading.image_end[:, None, :, None], seen[-1], states)
            fused.append(states)
        return torch.cat(fused, 1)

    def image_logits(self, reading: Reading, visual: Tensor | VisualStates) -> Iterator[Tensor]:
        """Yield the logits beside each of the K images, (B, T, V) at a time."""
        yield from self._predict_each(self.fuse(reading, visual))

    def predictions(self, reading: Reading, visual: VisualStates) -> Iterator[Tensor]:
        """Yield log p_0, log p_blank and log p_i for each of the K images, (B, T, V) at a time.

        Args:
            visual: from ``beside``.
        """
        states = torch.cat([reading.hidden[:, None], self.fuse(reading, visual)], 1)
        for logits in self._predict_each(states):
            yield F.log_softmax(logits.float(), -1)

    def mixed(self, reading: Reading, visual: VisualStates, image_weights: Tensor | None = None) -> Tensor:
        """Mix text and images by the configuration's rule, per token: log-probabilities (B, T, V).

        Without gradients a few rows go through the head at a time, so that little more exists at once than the result.

        Args:
            visual: from ``beside``.
            image_weights: W, trust in each image, (B, K) in [0, 1]; ones when None.
        """
        shape, images = reading.hidden.shape[:2], visual[0].shape[1] - 1
        if self.config.mix != "evidence":  # needs no empty picture
            visual = tuple(part[:, 1:] for part in visual)
        fused = self.fuse(reading, visual).transpose(1, 2).flatten(0, 1)
        trust = torch.ones(shape[0], images) if image_weights is None else image_weights
        trust = trust.to(fused.device).float().repeat_interleave(shape[1], 0)
        rows = torch.cat([reading.hidden.flatten(0, 1)[:, None], fused], 1)
        mix_rows = self._mix_states if self._mixes_states else self._mix_predictions
        if torch.is_grad_enabled():
            return mix_rows(rows, trust).unflatten(0, shape)
        result = torch.empty(len(rows), self.get_output_embeddings().weight.shape[0], device=rows.device)
        for start in range(0, len(rows), self._head_rows):
            some = slice(start, start + self._head_rows)
            result[some] = mix_rows(rows[some], trust[some])
        return result.unflatten(0, shape)

    @property
    def _mixes_states(self) -> bool:
        return Mixture.of(self.config).linear and is_linear(self.language_model, type(self).head)

    def _mix_predictions(self, states: Tensor, trust: Tensor) -> Tensor:
        """Predict and mix for R positions: states (R, [text, blank, images], D), trust (R, K) -> log-probabilities (R, V)."""
        predictions = (F.log_softmax(logits.float(), -1) for logits in self._predict_each(states))
        text = next(predictions)
        blank = next(predictions) if self.config.mix == "evidence" else None
        return Mixture.of(self.config).combine(text, predictions, trust, blank)

    def _mix_states(self, states: Tensor, trust: Tensor) -> Tensor:
        """Do the same before the head, which then sees one row for a position, whatever K is; see ``Mixture.state_weights``."""
        config, text = self.config, None
        if config.mix == "evidence" and config.doubt:
            text = F.log_softmax(self.head(self.language_model, states[:, 0]).float(), -1)
        weights = Mixture.of(config).state_weights(trust, text)
        state = torch.einsum("rk,rkd->rd", weights, states.float()).to(states)
        return F.log_softmax(self.head(self.language_model, state).float(), -1)

    def _predict_each(self, fused: Tensor) -> Iterator[Tensor]:
        """Run the head over states (X, K, ..., D), some images at a time; yield (X, ..., V) for each."""
        for group in fused.split(max(1, self._head_rows // fused[:, 0, ..., 0].numel()), 1):
            yield from self.head(self.language_model, group).unbind(1)

    @property
    def _head_rows(self) -> int:
        return max(1, self.state_width() // HEAD_SHARE)
