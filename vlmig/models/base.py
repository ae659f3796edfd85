"""VLMIGPreTrainedModel: what the causal and the masked model share.

Axes: B prompts, K images per prompt, P patches per image, C vision width, N visual tokens per
image, T text tokens, D LM width, V vocabulary. The models take features of images, never pixels;
without any, they compute exactly what the base LM computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from vlmig.errors import VLMIGError
from vlmig.models.adapter_checkpoint import AdapterCheckpoint
from vlmig.models.cache import cached_images, keep_images
from vlmig.models.config import VLMIGConfig
from vlmig.models.fusion.base import Fusion
from vlmig.models.fusion.cross_attention import CrossAttentionFusion
from vlmig.models.fusion.prefix import PrefixFusion
from vlmig.models.generic import NO_GENERIC
from vlmig.models.heads import check_head, is_linear
from vlmig.models.mixture import Mixture
from vlmig.models.projector import build_projector
from vlmig.models.reference import COUNTS_PADDING
from vlmig.models.text_states import Reading, VisualStates
from vlmig.models.trainable import Trainable

OF_LOSS = ("num_items_in_batch", "shift_labels")
"""Arguments of transformers' losses."""
HEAD_SHARE = 12
"""The head takes D / 12 rows at a time: logits of a twelfth of the size of its weights."""


class VLMIGPreTrainedModel(Trainable, AdapterCheckpoint, PreTrainedModel):
    """Base LM, projector, fusion and mixture.

    Args:
        config: the configuration of a checkpoint.
        language_model: the base LM; built from ``config.text_config`` with random weights when
            None.

    Raises:
        VLMIGError: the LM's logits cannot be rebuilt from its states, or its family's block cannot
            be the fusion layer.
    """

    config_class = VLMIGConfig
    base_model_prefix = "language_model"
    fusion: Any  # a kind of `Fusion`
    published_loss: Callable[..., Tensor]
    blank_features: Tensor
    generic_features: Tensor
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: VLMIGConfig, language_model: PreTrainedModel | None = None) -> None:
        if language_model is not None:  # one config: masks must fit the attention that the LM runs
            config.text_config = language_model.config
        super().__init__(config)
        self.language_model = language_model or self.auto_class.from_config(config.text_config)
        self.width = width = self.state_width()
        words: Any = self.get_input_embeddings()
        input_width = words.embedding_dim if config.images_in_text else width
        self.projector = build_projector(config, input_width)
        self.fusion = self.build_fusion(width)
        # Patch features of a blank image: what "no evidence" looks like to this encoder.
        blank = torch.zeros(config.vision_patches, config.vision_width)
        self.register_buffer("blank_features", blank)
        if blank.device.type != "meta":
            self._keep_built_weights()
        self.config.architectures = [type(self).__name__]
        tied = getattr(config.text_config, "tie_word_embeddings", False)
        self.config.tie_word_embeddings = tied  # PEFT reads it from the outermost configuration
        # Of other objects' images; in a file of their own, since most checkpoints have none.
        self.register_buffer("generic_features", torch.zeros(0, *blank.shape), persistent=False)
        self.post_init()
        base_weights = self.language_model.parameters()
        # PEFT reads which weights are tied from the outermost model.
        self._tied_weights_keys = self.tied_weights()
        self._keys_to_ignore_on_save = set(self._tied_weights_keys)
        if language_model is not None and not any(w.requires_grad for w in base_weights):
            self.freeze_base()
            self.warns_frozen = True
        if language_model is not None and language_model.device.type != "meta":
            check_head(language_model, self.trunk, type(self).head)

    def state_width(self) -> int:
        """Return D, the width of the states that the head reads."""
        raise NotImplementedError

    def build_fusion(self, width: int) -> Fusion:
        """Build the kind of fusion that the configuration names, with new weights."""
        config = self.config
        if config.images_in_text:
            return PrefixFusion()
        if config.fusion == "cross_attention":
            return CrossAttentionFusion(width, config.fusion_heads, config.fusion_width or width)
        return self.build_family_layer()

    def build_family_layer(self) -> Fusion:
        """Build one block of the LM's family, with new weights."""
        raise NotImplementedError

    @staticmethod
    def head(language_model: PreTrainedModel, states: Tensor) -> Tensor:
        """Turn last hidden states (..., D) into logits (..., V)."""
        raise NotImplementedError

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

    @property
    def published(self) -> bool:
        """Whether to reproduce the published layout and losses of the published fusion layer."""
        return self.config.protocol == "reference" and self.config.fusion == "decoder_layer"

    @property
    def padding_counts(self) -> bool:
        """Whether predictions depend on padding, as for some families of the published code."""
        return self.published and self.config.text_config.model_type in COUNTS_PADDING

    def take_options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Take the arguments of the loss out of a model's ``kwargs``, and return them with those on
        outputs, which the configuration may set too."""
        for name in ("output_hidden_states", "output_attentions"):
            if kwargs.get(name) is None and getattr(self.config, name, False):
                kwargs[name] = True
        options = {name: kwargs.pop(name, None) for name in OF_LOSS}
        return {**options, "output_hidden_states": kwargs.get("output_hidden_states")}

    def check_features(
        self, visual_features: Tensor, image_weights: Tensor | None, rows: int
    ) -> None:
        """Refuse features and weights of a wrong shape.

        Raises:
            VLMIGError: other shapes than (B, K, P, C) and (B, K).
        """
        shape, patches = tuple(visual_features.shape), tuple(self.blank_features.shape)
        if len(shape) != 4 or shape[0] != rows or shape[2:] != patches:
            raise VLMIGError(
                f"visual_features of shape {shape}; expected (prompts, images, patches, width) = "
                f"({rows}, K, {patches[0]}, {patches[1]}), as {self.config.vision_encoder} gives"
            )
        if image_weights is not None and image_weights.shape != shape[:2]:
            raise VLMIGError(
                f"image_weights of shape {tuple(image_weights.shape)}; expected one per image, "
                f"{shape[:2]}"
            )

    def encode_with_blank(self, visual_features: Tensor) -> VisualStates:
        """Encode the blank image followed by each prompt's K images, (B, 1 + K, ...).

        Args:
            visual_features: F, (B, K, P, C).
        """
        return self._encode_behind(self.blank_features[None], visual_features, None)

    def encode_generic(self) -> VisualStates:
        """Encode the checkpoint's M generic images, (1, M, ...).

        Raises:
            VLMIGError: it has none.
        """
        return self.fusion.encode_images(self, self._generic()[None].to(self.blank_features))

    def _generic(self) -> Tensor:
        if not len(self.generic_features):
            raise VLMIGError(NO_GENERIC)
        return self.generic_features

    def _encode_behind(
        self, reference: Tensor, visual_features: Tensor, cache: Cache | None
    ) -> VisualStates:
        """Encode reference images (R, P, C) followed by each prompt's K images. Reused while
        decoding with a cache."""
        if (cached := cached_images(cache, visual_features)) is not None:
            return cached
        before = reference.to(self.blank_features).expand(len(visual_features), -1, -1, -1)
        states = self.fusion.encode_images(self, torch.cat([before, visual_features.to(before)], 1))
        if cache is not None and not self.config.images_in_text:
            keep_images(cache, visual_features, states)
        return states

    def mix_images(
        self,
        reading: Reading,
        visual_features: Tensor,
        image_weights: Tensor | None,
        labels: Tensor | None,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """Mix text and images: the fields of an output, with log-probabilities (B, T, V).

        Args:
            options: transformers' ``num_items_in_batch`` and ``shift_labels`` for the loss, and
                ``output_hidden_states``.
        """
        self.check_features(visual_features, image_weights, len(reading.hidden))
        contrast = self.config.mix == "contrast"
        reference = self._generic() if contrast else self.blank_features[None]
        visual = self._used(self._encode_behind(reference, visual_features, reading.cache))
        states = self.fuse(reading, visual)
        logits = self._mix_fused(reading, states, image_weights)
        fields = {
            "logits": logits,
            "hidden_states": reading.hidden_states,
            "attentions": reading.attentions,
        }
        if options.get("output_hidden_states"):
            fields["fused_hidden_states"] = states[:, -visual_features.shape[1] :]
        if labels is not None and self.published:
            mixture = logits if image_weights is not None else None
            fields["loss"] = self.published_loss(self, reading, visual_features, labels, mixture)
        elif labels is not None:
            given = {name: options[name] for name in OF_LOSS if options.get(name) is not None}
            fields["loss"] = self.loss_function(
                logits, labels, vocab_size=logits.shape[-1], **given
            )
        return fields

    def text_logits(self, reading: Reading) -> Tensor:
        """Return the base LM's logits, (B, T, V)."""
        return self.head(self.language_model, reading.hidden)

    def text_log_probs(self, reading: Reading) -> Tensor:
        """Return log p_0, the base LM's prediction, (B, T, V)."""
        return F.log_softmax(self.text_logits(reading).float(), -1)

    def fuse(self, reading: Reading, visual: Tensor | VisualStates) -> Tensor:
        """Fuse the queried positions with each of the K images: states (B, K, T, D).

        Args:
            visual: features (B, K, P, C), or from ``encode_with_blank``.
        """
        return self.fusion.fuse(self, reading, visual)

    def image_logits(self, reading: Reading, visual: Tensor | VisualStates) -> Iterator[Tensor]:
        """Yield the logits given each of the K images, (B, T, V) at a time."""
        yield from self._predict_each(self.fuse(reading, visual))

    def predictions(self, reading: Reading, visual: VisualStates) -> Iterator[Tensor]:
        """Yield log p_0, log p_blank and log p_i for each of the K images, (B, T, V) at a time.

        Args:
            visual: from ``encode_with_blank``; any generic images may follow.
        """
        states = torch.cat([reading.hidden[:, None], self.fuse(reading, visual)], 1)
        for logits in self._predict_each(states):
            yield F.log_softmax(logits.float(), -1)

    def mixed(
        self, reading: Reading, visual: VisualStates, image_weights: Tensor | None = None
    ) -> Tensor:
        """Mix text and images per token, by the configuration's rule: log-probabilities (B, T, V).

        Without gradients, a few rows go through the head at a time, so that the result is nearly
        all the memory used.

        Args:
            visual: from ``encode_with_blank``; for ``contrast`` with all generic images in the
                blank one's place.
            image_weights: W, trust in each image, (B, K) in [0, 1]; ones when None.
        """
        return self._mix_fused(reading, self.fuse(reading, self._used(visual)), image_weights)

    def _used(self, visual: VisualStates) -> VisualStates:
        """Leave out the blank image where the mixing rule does not use it."""
        if Mixture.of_texts(self.config).contrasts:
            return visual
        return tuple(states[:, 1:] for states in visual)

    def _mix_fused(self, reading: Reading, fused: Tensor, image_weights: Tensor | None) -> Tensor:
        """Mix states beside each image that the rule uses, (B, ([blank or generic ones],
        images), T, D)."""
        references = {"evidence": 1, "contrast": len(self.generic_features)}
        images = fused.shape[1] - references.get(self.config.mix, 0)
        shape = reading.hidden.shape[:2]
        fused = fused.transpose(1, 2).flatten(0, 1)
        trust = torch.ones(shape[0], images) if image_weights is None else image_weights
        trust = trust.to(fused.device).float().repeat_interleave(shape[1], 0)
        rows = torch.cat([reading.hidden.flatten(0, 1)[:, None], fused], 1)
        mix_rows = self._mix_states if self._can_mix_states else self._mix_predictions
        if torch.is_grad_enabled():
            return mix_rows(rows, trust).unflatten(0, shape)
        first = mix_rows(rows[: self._head_rows], trust[: self._head_rows])
        result = first.new_empty(len(rows), first.shape[-1])
        result[: len(first)] = first
        for start in range(len(first), len(rows), self._head_rows):
            chunk = slice(start, start + self._head_rows)
            result[chunk] = mix_rows(rows[chunk], trust[chunk])
        return result.unflatten(0, shape)

    @property
    def _can_mix_states(self) -> bool:
        lm, head = self.language_model, type(self).head
        return Mixture.of_texts(self.config).linear and is_linear(lm, head)

    def _mix_predictions(self, states: Tensor, trust: Tensor) -> Tensor:
        """Predict, then mix: states (R, [text, blank or generic ones, images], D), trust (R, K) ->
        (R, V)."""
        predictions = (F.log_softmax(logits.float(), -1) for logits in self._predict_each(states))
        text, blank = next(predictions), None
        if references := states.shape[1] - 1 - trust.shape[1]:
            blank = reduce(torch.add, islice(predictions, references)) / references
        return Mixture.of_texts(self.config).combine(text, predictions, trust, blank)

    def _mix_states(self, states: Tensor, trust: Tensor) -> Tensor:
        """Mix states, then predict: the same from one row per position (``state_weights``)."""
        mixture, text, precision = Mixture.of_texts(self.config), None, states.dtype
        if mixture.contrasts and mixture.doubt:
            text = F.log_softmax(self.head(self.language_model, states[:, 0]).float(), -1)
        if (first := states.shape[1] - trust.shape[1]) > 2:  # the mean of several references
            reference = states[:, 1:first].float().mean(1, keepdim=True)
            states = torch.cat([states[:, :1].float(), reference, states[:, first:].float()], 1)
        weights = mixture.state_weights(trust, text)
        state = torch.einsum("rk,rkd->rd", weights, states.float()).to(precision)
        return F.log_softmax(self.head(self.language_model, state).float(), -1)

    def _predict_each(self, fused: Tensor) -> Iterator[Tensor]:
        """Run the head over states (X, K, ..., D); yield logits (X, ..., V) of each image."""
        for group in fused.split(max(1, self._head_rows // fused[:, 0, ..., 0].numel()), 1):
            yield from self.head(self.language_model, group).unbind(1)

    @property
    def _head_rows(self) -> int:
        return max(1, self.width // HEAD_SHARE)
