"""Late fusion by gated cross-attention: text attends to visual tokens and earlier text (paper,
section 3.1).

Queries come from the LM's last hidden states, keys and values from [visual tokens ; hidden states].
The keys and values of a text do not depend on the images: they are computed once per text, and
those of an image once per image.
Axes: B prompts, K images, N visual tokens per image, T queried and S all text positions, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmig.errors import VLMIGError
from vlmig.models.fusion.base import LateFusion
from vlmig.models.text_states import TextStates, VisualStates


class CrossAttentionFusion(LateFusion):
    """Gated cross-attention block (pre-norm) from text to [visual ; text], then a gated
    feed-forward layer.

    Attention over text and over one image are computed separately and joined by their normalizers.
    Both gates start at zero, so that an untrained layer returns the LM's states, bit for bit.

    Args:
        width: D, the LM's width.
        heads: attention heads.
        inner: width of all heads together; the feed-forward layer is four times as wide.

    Raises:
        VLMIGError: ``inner`` is not a multiple of ``heads``.
    """

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        if inner % heads:
            raise VLMIGError(
                f"fusion_width={inner} is not a multiple of fusion_heads={heads}; choose one that "
                "is"
            )
        self.heads = heads
        self.text_norm = nn.LayerNorm(width)
        self.visual_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner)
        self.key_value = nn.Linear(width, 2 * inner)
        self.out = nn.Linear(inner, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * inner), nn.GELU(), nn.Linear(4 * inner, width)
        )
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_gate = nn.Parameter(torch.zeros(1))

    def begin(self) -> None:
        """Close the gates."""
        nn.init.zeros_(self.attention_gate)
        nn.init.zeros_(self.feed_gate)

    @torch.no_grad()
    def doubled(self) -> CrossAttentionFusion:
        """Return a layer with every head twice, one copy added twice and one subtracted, and twice
        the feed-forward units; it gives the same states up to rounding.

        A head adds what it reads of an image. To turn that round for some questions, as for "Which
        is smaller?" after "Which is larger?", this layer only has to close one copy.
        """
        width, inner = self.out.out_features, self.out.in_features
        wide = CrossAttentionFusion(width, 2 * self.heads, 2 * inner).to(self.out.weight)
        state, new = self.state_dict(), wide.state_dict()
        for kind in ("weight", "bias"):
            keys, values = state[f"key_value.{kind}"].chunk(2)
            state[f"key_value.{kind}"] = torch.cat([keys, keys, values, values])
            state[f"query.{kind}"] = torch.cat([state[f"query.{kind}"]] * 2)
            added = new[f"feed.0.{kind}"][4 * inner :]
            state[f"feed.0.{kind}"] = torch.cat([state[f"feed.0.{kind}"], added])
        state["out.weight"] = torch.cat([2 * state["out.weight"], -state["out.weight"]], 1)
        state["feed.2.weight"] = F.pad(state["feed.2.weight"], (0, 4 * inner))
        wide.load_state_dict(state)
        return wide

    def read_text(self, hidden: Tensor, positions: Tensor) -> TextStates:
        """Return keys and values of text states (B, S, D), two of (B, heads, S, inner / heads)."""
        keys, values = self.key_value(self.text_norm(hidden)).chunk(2, -1)
        return self._split(keys), self._split(values)

    def read_images(self, visual: Tensor) -> VisualStates:
        """Return keys and values of visual tokens (B, K, N, D): (B, K, heads, N, inner / heads)."""
        keys, values = self.key_value(self.visual_norm(visual)).chunk(2, -1)
        return self._split(keys), self._split(values)

    def forward(
        self,
        hidden: Tensor,
        visual: VisualStates,
        text: TextStates,
        mask: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Fuse queried text states with each image.

        Args:
            hidden: queried states, (B, T, D).
            visual: from ``read_images``, of K images.
            text: from ``read_text``, of all S text positions.
            mask: which text positions a query attends to, bool (B, T, S).
            positions: position of each query in its text, (B, T).

        Returns:
            Fused states, (B, K, T, D).
        """
        query = self._queries(hidden)
        over_text, text_mass = _attend(query, *text, mask[:, None])
        over_image, image_mass = _attend(query[:, None], *visual)
        share = torch.sigmoid(image_mass - text_mass[:, None])
        return self.finish(hidden, share * over_image + (1 - share) * over_text[:, None])

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """Add what attention gave to the states, and feed it forward.

        Args:
            hidden: queried states, (B, T, D).
            attended: of each image and head, (B, K, heads, T, inner / heads).

        Returns:
            Fused states, (B, K, T, D).
        """
        attended = self.out(attended.transpose(-3, -2).flatten(-2))
        fused = hidden[:, None] + self.attention_gate.tanh() * attended
        return fused + self.feed_gate.tanh() * self.feed(self.feed_norm(fused))

    def attention(
        self, hidden: Tensor, visual: VisualStates, text: TextStates, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the weights of one softmax over [visual tokens ; text], which ``forward`` never
        builds: on visual tokens (B, K, heads, T, N), and on text positions (B, K, heads, T, S).

        Weights times values, summed over both, are what ``finish`` takes.
        """
        query = self._queries(hidden)
        on_text = query @ text[0].transpose(-1, -2)
        on_text = on_text.masked_fill(~mask[:, None], torch.finfo(on_text.dtype).min)
        on_image = query[:, None] @ visual[0].transpose(-1, -2)
        on_text = on_text[:, None].expand(-1, on_image.shape[1], -1, -1, -1)
        weights = torch.cat([on_image, on_text], -1).float().softmax(-1).to(on_image.dtype)
        shares = weights.split([on_image.shape[-1], on_text.shape[-1]], -1)
        return shares[0], shares[1]

    def _queries(self, hidden: Tensor) -> Tensor:
        """Return scaled queries of states (B, T, D), (B, heads, T, inner / heads)."""
        scale = (self.out.in_features // self.heads) ** -0.5
        return self._split(self.query(self.text_norm(hidden))) * scale

    def _split(self, states: Tensor) -> Tensor:
        """Split (..., S, inner) into heads: (..., heads, S, inner / heads)."""
        return states.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the attention's output, (..., T, d), and its log normalizer, (..., T, 1)."""
    scores = query @ keys.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    scores = scores.float()
    mass = scores.logsumexp(-1, keepdim=True)
    return F.softmax(scores, -1).to(values.dtype) @ values, mass.to(values.dtype)
