"""VLMIGForMaskedLM: any masked LM of transformers with a visual token projector and late fusion.

Axes: B prompts, K images per prompt, P patches per image, C vision width, T text tokens, V
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import can_return_tuple

from vlmig.errors import VLMIGError
from vlmig.models.base import VLMIGPreTrainedModel
from vlmig.models.fusion.base import Fusion
from vlmig.models.fusion.family_block import EncoderLayerFusion
from vlmig.models.heads import masked_head, masked_logits
from vlmig.models.reference import published_masked_loss
from vlmig.models.text_states import LateReading, Reading, real_tokens


@dataclass
class VisualMaskedLMOutput(MaskedLMOutput):
    """The output of a masked LM beside images, see ``VisualCausalLMOutput``."""

    fused_hidden_states: Tensor | None = None


class VLMIGForMaskedLM(VLMIGPreTrainedModel):
    """A masked LM that can condition its predictions on images."""

    auto_class = AutoModelForMaskedLM
    loss_type = "ForMaskedLM"
    head = staticmethod(masked_logits)
    published_loss = staticmethod(published_masked_loss)

    @property
    def trunk(self) -> PreTrainedModel:
        """The base LM's encoder."""
        return self.language_model.base_model

    def state_width(self) -> int:
        """Return the width of the encoder's states."""
        masked_head(self.language_model)
        return self.config.text_config.hidden_size

    def build_fusion(self, width: int) -> Fusion:
        """Build the kind of fusion that the configuration names.

        Raises:
            VLMIGError: early fusion.
        """
        if self.config.images_in_text:
            raise VLMIGError(
                "fusion='prefix' around a masked LM; expected a causal one, or cross_attention or "
                "decoder_layer"
            )
        return super().build_fusion(width)

    def build_family_layer(self) -> Fusion:
        """Build one encoder block of the LM's family."""
        return EncoderLayerFusion(self.config.text_config)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        visual_features: Tensor | None = None,
        image_weights: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Predict the token at every position.

        Args:
            token_type_ids: of families that have them; these five are in BERT's order.
            labels: token ids at the positions that count, -100 elsewhere, (B, T).
            visual_features: F, (B, K, P, C); None or K = 0 gives the base LM's output, bit for bit.
            image_weights: W, trust in each image, (B, K) in [0, 1]; ones when None.

        Returns:
            ``logits`` hold the mixture's normalized log-probabilities, (B, T, V).
        """
        base = {"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}
        optional = {
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        base |= {name: value for name, value in optional.items() if value is not None}
        if visual_features is None or visual_features.shape[1] == 0:
            return self.without_images(self.language_model(**base, labels=labels))
        options = self.take_options(base)
        reading = self.read(base)
        fields = self.mix_images(reading, visual_features, image_weights, labels, options)
        return VisualMaskedLMOutput(**fields)

    def read(self, base: dict[str, Any], queries: Tensor | None = None) -> Reading:
        """Run the base LM over the text, and prepare ``queries`` (B, T); all when None."""
        output = self.trunk(**base)
        reading = self.prepare(output.last_hidden_state, base["attention_mask"], queries)
        reading.hidden_states = output.get("hidden_states")
        reading.attentions = output.get("attentions")
        return reading

    def prepare(
        self, states: Tensor, padding: Tensor | None, queries: Tensor | None = None
    ) -> LateReading:
        """Prepare hidden states (B, S, D) for fusion; every position attends to every real one."""
        everywhere = torch.arange(states.shape[1], device=states.device).expand(states.shape[:2])
        positions = everywhere if queries is None else queries
        present = real_tokens(padding, states)
        mask = present[:, None].expand(-1, positions.shape[1], -1)
        hidden = states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))
        text = self.fusion.read_text(states, everywhere)
        return LateReading(hidden=hidden, text=text, mask=mask, positions=positions)
