"""The late-fusion layer against attention written out over the concatenated sequence."""

from __future__ import annotations

import pytest
import torch

from vlmig.models.fusion.cross_attention import CrossAttentionFusion
from vlmig.models.projector import VisualTokenProjector


def layer(gate: float = 1.0) -> CrossAttentionFusion:
    torch.manual_seed(0)
    built = CrossAttentionFusion(width=24, heads=3, inner=18).double()
    for value in (built.attention_gate, built.feed_gate):
        torch.nn.init.constant_(value, gate)
    return built


def plain_fusion(
    built: CrossAttentionFusion, hidden: torch.Tensor, visual: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Attend over [visual ; text] as one sequence, image by image, with torch's own attention."""
    outputs = []
    for image in visual.unbind(1):
        states = torch.cat([built.visual_norm(image), built.text_norm(hidden)], 1)
        keys, values = built.key_value(states).chunk(2, -1)
        query = built.query(built.text_norm(hidden))
        heads = [x.unflatten(-1, (built.heads, -1)).transpose(1, 2) for x in (query, keys, values)]
        seen = torch.cat([torch.ones(*mask.shape[:2], image.shape[1], dtype=torch.bool), mask], -1)
        attended = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=seen[:, None])
        fused = hidden + built.attention_gate.tanh() * built.out(
            attended.transpose(1, 2).flatten(2)
        )
        outputs.append(fused + built.feed_gate.tanh() * built.feed(built.feed_norm(fused)))
    return torch.stack(outputs, 1)


POSITIONS = torch.arange(5).expand(2, -1)


def fuse(
    built: CrossAttentionFusion, hidden: torch.Tensor, visual: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    return built(
        hidden, built.read_images(visual), built.read_text(hidden, POSITIONS), mask, POSITIONS
    )


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden, visual = torch.randn(2, 5, 24).double(), torch.randn(2, 3, 4, 24).double()
    mask = torch.ones(2, 5, 5, dtype=torch.bool).tril()
    mask[0, :, 0] = False  # a padded position
    mask[0, 0, 0] = True
    return hidden, visual, mask


def test_equals_attention_over_the_concatenated_sequence() -> None:
    built = layer()
    hidden, visual, mask = inputs()
    fused = fuse(built, hidden, visual, mask)
    # The two attentions are joined by their normalisers, which is exact up to rounding in double
    # precision.
    assert torch.allclose(fused, plain_fusion(built, hidden, visual, mask), atol=1e-6)


def test_closed_gates_give_the_text_states_bit_for_bit() -> None:
    built = layer(gate=0.0)
    hidden, visual, mask = inputs()
    fused = fuse(built, hidden, visual, mask)
    assert torch.equal(fused, hidden[:, None].expand_as(fused))


def test_only_queried_positions_are_computed() -> None:
    built = layer()
    hidden, visual, mask = inputs()
    text = built.read_text(hidden, POSITIONS)
    last = built(hidden[:, -2:], built.read_images(visual), text, mask[:, -2:], POSITIONS[:, -2:])
    assert torch.allclose(last, fuse(built, hidden, visual, mask)[:, :, -2:], atol=1e-12)


def test_order_of_images_only_orders_the_outputs() -> None:
    built = layer()
    hidden, visual, mask = inputs()
    turned = fuse(built, hidden, visual.flip(1), mask).flip(1)
    assert torch.allclose(turned, fuse(built, hidden, visual, mask), atol=1e-12)


def test_width_must_split_into_heads() -> None:
    with pytest.raises(ValueError, match="not a multiple of fusion_heads=5"):
        CrossAttentionFusion(width=24, heads=5, inner=18)


def test_projector_maps_each_patch_on_its_own() -> None:
    for hidden in (None, 10):
        projector = VisualTokenProjector(vision_width=6, lm_width=24, hidden=hidden)
        patches = torch.randn(2, 3, 4, 6)
        assert projector(patches).shape == (2, 3, 4, 24)
        assert torch.allclose(projector(patches)[:, :, 2], projector(patches[:, :, 2]), atol=1e-6)
