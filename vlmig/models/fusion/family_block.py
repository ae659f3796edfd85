"""Late fusion by one block of the LM's family (``decoder_layer``), as published."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from vlmig.errors import VLMIGError
from vlmig.models.cache import cache_argument, given_cache
from vlmig.models.fusion.base import LateFusion
from vlmig.models.text_states import TextStates, VisualStates


class DecoderLayerFusion(LateFusion):
    """One complete block of the LM's family over [visual ; text], with a final norm, as published.

    The block is the family's model with one layer and without word embeddings. Whatever that model
    does to its input (learned positions, rotary embeddings, projections) is done to visual tokens
    and hidden states alike. Visual tokens take the first N positions and attend to each other
    causally.

    Args:
        text_config: the base LM's configuration.
        visual_tokens: N; the text's positions follow these.
    """

    def __init__(self, text_config: PreTrainedConfig, visual_tokens: int) -> None:
        super().__init__()
        self.visual_tokens = visual_tokens
        self.block = build_block(text_config)
        # The published Gemma block scales its input as Gemma scales embeddings (forward.md:
        # "Gemma").
        self.scale = text_config.hidden_size**0.5 if text_config.model_type == "gemma" else 1.0

    def read_text(self, hidden: Tensor, positions: Tensor) -> TextStates:
        """Return the block's keys and values of text states (B, S, D) at ``positions`` (B, S)."""
        return self._record(hidden, positions + self.visual_tokens)[0]

    def read_images(self, visual: Tensor) -> VisualStates:
        """Return the block's keys and values of visual tokens (B, K, N, D), two of (B, K, heads, N,
        d).

        The third tensor is its output at the last token, which predicts the first text token, (B,
        K, 1, D).
        """
        states, shape = visual.flatten(0, 1), visual.shape[:2]
        positions = torch.arange(states.shape[1], device=states.device).expand(states.shape[0], -1)
        (keys, values), output = self._record(states, positions)
        return (
            keys.unflatten(0, shape),
            values.unflatten(0, shape),
            output[:, -1:].unflatten(0, shape),
        )

    def forward(
        self,
        hidden: Tensor,
        visual: VisualStates,
        text: TextStates,
        mask: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Fuse text states with each image, (B, K, T, D); see ``CrossAttentionFusion.forward``."""
        rows, images = visual[0].shape[:2]

        def for_each_image(states: Tensor) -> Tensor:
            return states[:, None].expand(-1, images, *states.shape[1:]).flatten(0, 1)

        keys = torch.cat([visual[0].flatten(0, 1), for_each_image(text[0])], -2)
        values = torch.cat([visual[1].flatten(0, 1), for_each_image(text[1])], -2)
        output = self._run(
            for_each_image(hidden),
            for_each_image(positions + self.visual_tokens),
            for_each_image(F.pad(mask, (self.visual_tokens, 0), value=True)),
            given_cache(keys, values),
        )
        return output.unflatten(0, (rows, images))

    def _record(self, states: Tensor, positions: Tensor) -> tuple[TextStates, Tensor]:
        """Run the block causally over states; return its keys and values, and its output."""
        cache, length = DynamicCache(), states.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=states.device).tril()
        output = self._run(states, positions, causal.expand(states.shape[0], -1, -1), cache)
        return (cache.layers[0].keys, cache.layers[0].values), output

    def _run(self, states: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        states = states * self.scale
        lowest = torch.finfo(states.dtype).min
        blocked = torch.zeros_like(mask, dtype=states.dtype).masked_fill(~mask, lowest)
        return self.block(
            inputs_embeds=states,
            position_ids=positions,
            attention_mask=blocked[:, None],
            use_cache=True,
            **cache_argument(cache),
        ).last_hidden_state


class EncoderLayerFusion(LateFusion):
    """One complete block of a masked LM's family over [visual ; text], as published for BERT.

    Every token attends to every token.

    Args:
        text_config: the base LM's configuration.
    """

    def __init__(self, text_config: PreTrainedConfig) -> None:
        super().__init__()
        self.block = build_block(text_config)

    def read_text(self, hidden: Tensor, positions: Tensor) -> TextStates:
        """Return the states: an encoder's keys and values depend on the image."""
        return hidden[:, None], hidden[:, None]

    def read_images(self, visual: Tensor) -> VisualStates:
        """Return visual tokens (B, K, N, D) as they are."""
        return (visual,)

    def forward(
        self,
        hidden: Tensor,
        visual: VisualStates,
        text: TextStates,
        mask: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Fuse text states with each image, (B, K, T, D); see ``CrossAttentionFusion.forward``."""
        (tokens,) = visual
        rows, images, count = tokens.shape[:3]
        states = text[0].expand(-1, images, -1, -1)
        present = F.pad(mask[:, :1], (count, 0), value=True).expand(-1, images, -1)
        output = self.block(
            inputs_embeds=torch.cat([tokens, states], 2).flatten(0, 1),
            attention_mask=present.flatten(0, 1).long(),
        ).last_hidden_state.unflatten(0, (rows, images))
        index = (positions + count)[:, None, :, None].expand(-1, images, -1, output.shape[-1])
        return output.gather(2, index)


def build_block(text_config: PreTrainedConfig) -> PreTrainedModel:
    """Build the family's model with one layer, new weights and no word embeddings."""
    config = copy.deepcopy(text_config)
    depth = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == depth:  # one entry per layer
            setattr(config, name, ["full_attention"] if "full_attention" in value else value[:1])
    config.num_hidden_layers = 1
    # ALBERT, ELECTRA: the block reads states, not narrow embeddings.
    if hasattr(config, "embedding_size"):
        config.embedding_size = config.hidden_size
    if config.model_type == "llama":
        config.mlp_bias = True  # as published: only the fusion block has biases
    config._attn_implementation_internal = block_attention(text_config._attn_implementation)
    block = AutoModel.from_config(config, dtype=torch.get_default_dtype())
    block.set_input_embeddings(None)
    if getattr(block, "pooler", None) is not None:
        block.pooler = None
    return block


def block_attention(attention: str | None) -> str | None:
    """Return the attention of the block: our masks need ``eager`` or ``sdpa``, whatever the LM
    runs; None is transformers' choice."""
    return attention if attention in ("eager", "sdpa") else None


@torch.no_grad()
def check_block(layer: DecoderLayerFusion, width: int) -> None:
    """Refuse a family whose block, run on cached keys and values, differs from one run over the
    whole sequence.

    Raises:
        VLMIGError: alibi, recurrence or anything else that positions and masks cannot express.
    """
    device = next(layer.parameters()).device
    if device.type == "meta":
        return
    noise = torch.Generator().manual_seed(0)
    shape: dict[str, Any] = {"generator": noise, "dtype": torch.float32, "device": "cpu"}
    visual = torch.randn(1, layer.visual_tokens, width, **shape).to(device)
    hidden = torch.randn(1, 3, width, **shape).to(device)
    # The first text state is padding: a block that uses our masks and positions ignores it.
    positions = torch.tensor([[0, 0, 1]], device=device)
    mask = torch.ones(1, 3, 3, dtype=torch.bool, device=device).tril()
    mask[:, :, 0] = False
    training, dtype = layer.training, next(layer.parameters()).dtype
    layer.eval().float()  # so that rounding is no difference
    try:
        keys, text = layer.read_images(visual[:, None]), layer.read_text(hidden, positions)
        fused = layer(hidden, keys, text, mask, positions)[:, 0, 1:]
        states = torch.cat([visual, hidden[:, 1:]], 1) * layer.scale
        whole = layer.block(inputs_embeds=states).last_hidden_state[:, -2:]
        fits = torch.allclose(fused, whole, atol=1e-5)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        fits = False
    layer.train(training).to(dtype)
    if not fits:
        raise VLMIGError(
            f"fusion='decoder_layer' does not fit {type(layer.block).__name__}: its attention does "
            "not follow the positions and masks that it is given; use fusion='cross_attention'"
        )
