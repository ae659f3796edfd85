"""VLMIGForCausalLM: any causal LM of transformers with a visual token projector and a late-fusion layer.

Axes: B prompts, K images per prompt, P patches per image, C vision width, N visual tokens per image, T text tokens,
D LM width, V vocabulary. The model takes visual features, never pictures; without them it *is* the base LM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from vlmig.config import VLMIGConfig
from vlmig.fusion import LateFusionLayer
from vlmig.mixture import mix
from vlmig.projector import VisualTokenProjector

HEAD_BUDGET = 2**26
"""Logits that exist at a time while images are read one group after another (0.25 GB in fp32)."""


@dataclass
class Reading:
    """What the LM made of a text: everything the images need, computed once whatever K is."""

    hidden: Tensor
    """Last hidden states of the queried positions, (B, T, D)."""
    text: tuple[Tensor, Tensor]
    """The fusion layer's keys and values of all S text positions, each (B, heads, S, d)."""
    mask: Tensor
    """Which of them each queried position sees, bool (B, T, S)."""
    cache: Cache | None


class VLMIGForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal LM that can look at imagined pictures before it answers.

    Args:
        config: the checkpoint's description.
        language_model: the base LM; built from ``config.text_config`` with random weights when None.

    Raises:
        ValueError: the LM post-processes its logits, so that its head alone does not give its predictions.
    """

    config_class = VLMIGConfig
    base_model_prefix = "language_model"
    loss_type = "ForCausalLM"
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: VLMIGConfig, language_model: PreTrainedModel | None = None) -> None:
        if language_model is not None:  # one config object: masks are made for the attention that the LM really runs
            config.text_config = language_model.config
        super().__init__(config)
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        width = self.language_model.get_output_embeddings().in_features
        hidden = (config.projector_width or width) if config.projector == "mlp" else None
        self.projector = VisualTokenProjector(config.vision_width, width, hidden)
        self.fusion = LateFusionLayer(width, config.fusion_heads, config.fusion_width or width)
        # Patch features of an empty picture: what "no evidence" looks like to this encoder.
        self.register_buffer("blank_features", torch.zeros(config.vision_patches, config.vision_width))
        self.post_init()

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

    def get_output_embeddings(self) -> nn.Module:
        """Return the base LM's head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the base LM's head."""
        self.language_model.set_output_embeddings(value)

    def adapter_state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps: projector, fusion layer and the empty picture's features."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("language_model.")}

    def freeze_base(self) -> None:
        """Leave only projector and fusion layer trainable."""
        self.requires_grad_(False)
        self.projector.requires_grad_(True)
        self.fusion.requires_grad_(True)

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
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the next token of every kept position.

        Args:
            visual_features: F, (B, K, P, C); None or K = 0 gives the base LM's own output, bit for bit.
            image_weights: W, trust in each image, (B, K) in [0, 1]; ones when None.
            fusion_mask: 2D padding mask (B, S) when ``attention_mask`` is not one; ``generate`` passes it itself.

        Returns:
            ``logits`` hold the mixture's normalised log-probabilities, (B, T, V).
        """
        base = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
        }
        if visual_features is None or visual_features.shape[1] == 0:
            return self.language_model(**base, labels=labels, logits_to_keep=logits_to_keep, **kwargs)
        kwargs.pop("return_dict", None)
        reading = self.read(base, logits_to_keep, fusion_mask, **kwargs)
        logits = self.mixed(reading, visual_features, image_weights)
        loss = None if labels is None else self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=reading.cache)

    def read(
        self, base: dict[str, Any], logits_to_keep: int | Tensor = 0, fusion_mask: Tensor | None = None, **kwargs: Any
    ) -> Reading:
        """Run the base LM once over the text (``base``: its inputs) and prepare the queried positions."""
        output = self.language_model.get_decoder()(**base, **kwargs)
        padding = fusion_mask if fusion_mask is not None else base["attention_mask"]
        return self.prepare(output.last_hidden_state, padding, output.past_key_values, logits_to_keep)

    def prepare(
        self, states: Tensor, padding: Tensor | None, cache: Cache | None = None, logits_to_keep: int | Tensor = 0
    ) -> Reading:
        """Prepare the base LM's last hidden states (B, T, D) for fusion; ``padding`` is the 2D mask (B, S)."""
        keys, values = self.fusion.text_keys_values(states)
        if cache is not None:
            keys, values = _extend_cache(cache, keys, values, _depth(self.config.text_config))
        mask = _visible(states.shape[1], keys.shape[-2], cache, padding, states)
        kept: Tensor | slice = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return Reading(states[:, kept], (keys, values), mask[:, kept], cache)

    def text_log_probs(self, reading: Reading) -> Tensor:
        """Return log p_0, the base LM's own prediction, (B, T, V)."""
        return F.log_softmax(self.get_output_embeddings()(reading.hidden).float(), -1)

    def image_log_probs(self, reading: Reading, visual_features: Tensor) -> Iterator[Tensor]:
        """Yield log p_i for each of the K images, (B, T, V) at a time."""
        head = self.get_output_embeddings()
        rows = reading.hidden.shape[0] * reading.hidden.shape[1] * self.config.text_config.vocab_size
        for group in visual_features.split(max(1, HEAD_BUDGET // rows), 1):
            tokens = self.projector(group.to(reading.hidden.dtype))
            fused = self.fusion(reading.hidden, tokens, reading.text, reading.mask)
            yield from F.log_softmax(head(fused).float(), -1).unbind(1)

    def blank_log_probs(self, reading: Reading) -> Tensor:
        """Return log p_blank, the prediction beside an empty picture, (B, T, V)."""
        blank = self.blank_features.expand(reading.hidden.shape[0], 1, -1, -1)
        return next(self.image_log_probs(reading, blank))

    def mixed(self, reading: Reading, visual_features: Tensor, image_weights: Tensor | None = None) -> Tensor:
        """Mix text and images by the configuration's rule, per token: log-probabilities (B, T, V)."""
        trust = visual_features.new_ones(visual_features.shape[:2]) if image_weights is None else image_weights
        return mix(
            self.text_log_probs(reading),
            self.image_log_probs(reading, visual_features),
            trust.float()[:, None],
            self.config.mix,
            blank=self.blank_log_probs(reading) if self.config.mix == "evidence" else None,
            strength=self.config.strength,
            doubt=self.config.doubt,
            by_entropy=self.config.weights == "entropy",
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Keep the 2D padding mask for the fusion layer; transformers may turn its own into another form."""
        inputs = super().prepare_inputs_for_generation(
            input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )
        if kwargs.get("visual_features") is not None and attention_mask is not None and attention_mask.ndim == 2:
            inputs["fusion_mask"] = attention_mask
        return inputs


def check_head(language_model: PreTrainedModel) -> None:
    """Refuse an LM whose predictions are more than its head's output (soft caps, logit scales).

    Raises:
        ValueError: decoder and head do not reproduce the LM's logits on two tokens.
    """
    ids = torch.tensor([[1, 2]], device=language_model.device)
    with torch.no_grad():
        own = language_model(ids).logits
        states = language_model.get_decoder()(ids).last_hidden_state
        rebuilt = language_model.get_output_embeddings()(states)
    if not torch.allclose(own.float(), rebuilt.float(), atol=1e-3, rtol=1e-3):
        raise ValueError(
            f"{type(language_model).__name__} changes its logits after the head, which late fusion would lose; "
            "use an LM whose logits are the head's output (GPT-2, OPT, Llama, Qwen, Mistral, ...)"
        )


def _depth(text_config: Any) -> int:
    return text_config.get_text_config(decoder=True).num_hidden_layers


def _extend_cache(cache: Cache, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Append text keys and values to the ordinary cache as one more layer, and return all of them so far.

    Being a layer like any other, beams, cropping and repetition treat it right.
    """
    if len(cache.layers) <= layer:
        first = cache.layers[0]
        static = isinstance(first, StaticLayer)
        cache.layers.append(StaticLayer(max_cache_len=first.max_cache_len) if static else DynamicLayer())
    return cache.update(keys, values, layer)


def _visible(queries: int, total: int, cache: Cache | None, padding: Tensor | None, states: Tensor) -> Tensor:
    """Say which of ``total`` text positions each of the last ``queries`` sees: causal and not padding, (B, T, S)."""
    # In a static cache the slots beyond the text are empty; in a dynamic one the text ends where the keys end.
    seen = int(cache.get_seq_length()) if cache is not None else total
    positions = torch.arange(total, device=states.device)
    last = torch.arange(seen - queries, seen, device=states.device)
    mask = (positions[None] <= last[:, None]).expand(states.shape[0], -1, -1)
    if padding is not None and padding.ndim == 2:
        present = F.pad(padding.bool(), (0, max(0, total - padding.shape[1])), value=False)[:, :total]
        mask = mask & present[:, None]
    return mask


AutoConfig.register("vlmig", VLMIGConfig)
AutoModelForCausalLM.register(VLMIGConfig, VLMIGForCausalLM)
