"""VLMIGForCausalLM: any causal LM of transformers with a visual token projector and a kind of
fusion; and the class for a configuration.

Axes: B prompts, K images per prompt, P patches per image, C vision width, T text tokens, V
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    SuppressTokensLogitsProcessor,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from vlmig.errors import VLMIGError
from vlmig.models.base import VLMIGPreTrainedModel
from vlmig.models.cache import (
    cache_argument,
    extend_cache,
    mark_text,
    one_cache,
    seen_length,
    static_length,
    text_cache,
    unread_positions,
)
from vlmig.models.config import VLMIGConfig
from vlmig.models.fusion.base import Fusion
from vlmig.models.fusion.family_block import DecoderLayerFusion, check_block
from vlmig.models.heads import causal_logits
from vlmig.models.masked import VLMIGForMaskedLM
from vlmig.models.reference import (
    published_causal_loss,
    published_gpt2_mask,
    published_layout,
)
from vlmig.models.text_states import (
    LateReading,
    Reading,
    last_indices,
    number,
    queried,
    real_tokens,
    same_text,
)


@dataclass
class VisualCausalLMOutput(CausalLMOutputWithPast):
    """The output of a causal LM beside images; ``hidden_states`` and ``attentions`` are the base
    LM's, which reads the text without images."""

    fused_hidden_states: Tensor | None = None
    """With ``output_hidden_states``: what the head reads beside each image, (B, K, T, D), at the
    positions whose logits are returned."""


class VLMIGForCausalLM(VLMIGPreTrainedModel, GenerationMixin):
    """A causal LM that can condition its predictions on images."""

    auto_class = AutoModelForCausalLM
    loss_type = "ForCausalLM"
    head = staticmethod(causal_logits)
    published_loss = staticmethod(published_causal_loss)

    def __init__(self, config: VLMIGConfig, language_model: PreTrainedModel | None = None) -> None:
        super().__init__(config, language_model)
        settings: Any = self.language_model.generation_config
        # The end of a turn is often defined there only.
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if (token := getattr(settings, name, None)) is not None:
                setattr(self.generation_config, name, token)

    @property
    def trunk(self) -> PreTrainedModel:
        """The base LM's decoder."""
        return self.language_model.get_decoder()

    def state_width(self) -> int:
        """Return the head's input width, which is not always the hidden size (opt-350m)."""
        return self.language_model.get_output_embeddings().in_features

    def build_family_layer(self) -> Fusion:
        """Build one decoder block of the LM's family, and check that it takes cached keys."""
        layer = DecoderLayerFusion(self.config.text_config, self.config.visual_tokens)
        check_block(layer, self.state_width())
        return layer

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        visual_features: Tensor | None = None,
        image_weights: Tensor | None = None,
        fusion_mask: Tensor | None = None,
        shown_features: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the next token of every kept position.

        Args:
            past_key_values: the cache, by its name until transformers 5.23; since then it is called
                ``cache``.
            visual_features: F of the images beside the text, (B, K, P, C); without any, the output
                is the base LM's, bit for bit.
            image_weights: W, trust in each image, (B, K) in [0, 1]; ones when None.
            fusion_mask: 2D padding mask (B, S) where ``attention_mask`` has another form;
                ``generate`` passes it by itself.
            shown_features: of images inside the text (fusion ``prefix``), (B, M, P, C),
                padded at the end of rows with fewer. ``input_ids`` hold ``config.placeholder_id``
                for each of their N tokens; labels there are ignored.

        Returns:
            ``logits``, the mixture's log-probabilities, (B, T, V); see ``VisualCausalLMOutput``.
        """
        base = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
            **cache_argument(one_cache(cache, past_key_values)),
        }
        if labels is not None and self.published and attention_mask is not None:
            labels = labels.masked_fill(attention_mask == 0, -100)  # as the published loss
            if self.config.text_config.model_type == "gpt2":
                fusion_mask, dtype = attention_mask, self.language_model.dtype
                base["attention_mask"] = published_gpt2_mask(attention_mask, dtype)
        if labels is not None and shown_features is not None and input_ids is not None:
            labels = labels.masked_fill(input_ids == self.config.placeholder_id, -100)
        if visual_features is None or visual_features.shape[1] == 0:
            base = self.fusion.embed_shown(self, base, shown_features)
            output = self.language_model(
                **base, **kwargs, labels=labels, logits_to_keep=logits_to_keep
            )
            mark_text(text_cache(output))
            return self.without_images(output)
        options = self.take_options(kwargs)
        reading = self.read(base, logits_to_keep, fusion_mask, shown_features, **kwargs)
        fields = self.mix_images(reading, visual_features, image_weights, labels, options)
        return VisualCausalLMOutput(**fields, **cache_argument(reading.cache))

    def read(
        self,
        base: dict[str, Any],
        logits_to_keep: int | Tensor = 0,
        fusion_mask: Tensor | None = None,
        shown_features: Tensor | None = None,
        **kwargs: Any,
    ) -> Reading:
        """Run the base LM over the text (``base``: its inputs), and prepare it for fusion.

        Raises:
            VLMIGError: an attention mask that is not 2D, without a ``fusion_mask``.
        """
        embedded = self.fusion.embed_shown(self, base, shown_features)
        output = self.trunk(**embedded, **kwargs)
        mask = base["attention_mask"]
        padding = mask if isinstance(mask, Tensor) and mask.ndim == 2 else fusion_mask
        if padding is None and mask is not None:
            got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise VLMIGError(
                f"attention_mask of shape {got} with images; expected (B, S), or pass that as "
                "fusion_mask"
            )
        states, cache = output.last_hidden_state, text_cache(output)
        reading = self.fusion.prepare_text(
            self, base.get("input_ids"), embedded, states, padding, cache, logits_to_keep
        )
        reading.hidden_states = output.get("hidden_states")
        reading.attentions = output.get("attentions")
        return reading

    def prepare(
        self,
        states: Tensor,
        padding: Tensor | None,
        cache: Cache | None = None,
        logits_to_keep: int | Tensor = 0,
        packed: Tensor | None = None,
    ) -> LateReading:
        """Prepare hidden states (B, T, D) for late fusion.

        Args:
            padding: the 2D mask (B, S); None without padding.
            packed: positions of rows that hold several texts, which begin anew with each, (B, T).
        """
        queries = states.shape[1]
        indices = last_indices(queries, seen_length(cache, queries), states.device)
        present = real_tokens(padding, states, cache)
        positions, image_end = number(present), None
        if self.published:
            family, tokens = self.config.text_config.model_type, self.config.visual_tokens
            present, positions, image_end = published_layout(present, family, tokens)
        positions = positions[:, indices]
        if packed is not None and not self.published:
            positions = packed.expand_as(positions)
        text = self.fusion.read_text(states, positions)
        if cache is not None:
            text = extend_cache(cache, text, self.config.text_config)
        every = torch.arange(present.shape[1], device=states.device)
        mask = present[:, None] & (every <= indices[:, None])
        if packed is not None:
            mask = mask & same_text(packed)
        if unread := unread_positions(cache):
            mask = mask & (every >= unread)
        selected = queried(logits_to_keep)
        image_end = image_end[:, indices][:, selected] if image_end is not None else None
        return LateReading(
            hidden=states[:, selected],
            cache=cache,
            text=text,
            mask=mask[:, selected],
            positions=positions[:, selected],
            image_end=image_end,
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Prepare as the base LM does, and keep the 2D padding mask for the fusion layer."""
        inputs = self.language_model.prepare_inputs_for_generation(
            input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )
        if kwargs.get("visual_features") is not None:
            shape = input_ids.shape if inputs_embeds is None else inputs_embeds.shape[:2]
            mask = attention_mask
            if mask is None or mask.ndim != 2:
                mask = input_ids.new_ones(shape)
            if length := static_length(text_cache(inputs)):  # one shape for every step
                mask = F.pad(mask, (0, length - mask.shape[1]), value=1)
            inputs["fusion_mask"] = mask
        return inputs

    def _get_candidate_generator(
        self, *args: Any, model_kwargs: dict[str, Any], **kwargs: Any
    ) -> Any:
        """Let an ordinary LM assist, without the images."""
        if not isinstance(kwargs.get("assistant_model"), VLMIGPreTrainedModel):
            model_kwargs = model_kwargs.copy()
            for name in ("visual_features", "image_weights", "shown_features"):
                model_kwargs.pop(name, None)
        return super()._get_candidate_generator(*args, model_kwargs=model_kwargs, **kwargs)

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """Keep ``generate`` from writing placeholders, whose id may be one of the vocabulary."""
        processors = super()._get_logits_processor(*args, **kwargs)
        if self.config.images_in_text:
            processors.insert(
                0, SuppressTokensLogitsProcessor([self.config.placeholder_id], self.trunk.device)
            )
        return processors


def class_for(config: PreTrainedConfig) -> type[VLMIGForCausalLM] | type[VLMIGForMaskedLM]:
    """Return the class for a base LM's or a checkpoint's configuration, by its ``architectures``.

    Raises:
        VLMIGError: an encoder-decoder LM.
    """
    if config.is_encoder_decoder:
        raise VLMIGError(
            f"{config.model_type} is an encoder-decoder LM; expected a causal or a masked one, "
            "such as gpt2 or bert-base-uncased"
        )
    masked = (config.architectures or [""])[0].endswith("ForMaskedLM")
    return VLMIGForMaskedLM if masked else VLMIGForCausalLM


AutoModelForCausalLM.register(VLMIGConfig, VLMIGForCausalLM)
AutoModelForMaskedLM.register(VLMIGConfig, VLMIGForMaskedLM)
Model = VLMIGForCausalLM | VLMIGForMaskedLM
