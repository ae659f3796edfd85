"""What the models return: the outputs of transformers, and the states after each image.

``hidden_states`` and ``attentions`` are the base LM's, which reads the text without images: a tuple
of (B, T, D), the embeddings first, and a tuple of (B, heads, T, S). With ``output_hidden_states``
and images, ``fused_hidden_states`` are the states that the head reads beside each image,
(B, K, T, D), at the positions whose logits are returned.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast, MaskedLMOutput


@dataclass
class VisualCausalLMOutput(CausalLMOutputWithPast):
    """Of a causal LM beside images."""

    fused_hidden_states: Tensor | None = None


@dataclass
class VisualMaskedLMOutput(MaskedLMOutput):
    """Of a masked LM beside images."""

    fused_hidden_states: Tensor | None = None
