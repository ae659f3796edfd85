"""The training loss: of a text's tokens given its image (paper, equation 1), or images in it (early
fusion).

Axes: B rows, T text tokens, M images per row, P patches per image, C vision width, D LM width,
E width of the LM's input.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlmig.errors import VLMIGError
from vlmig.models.modeling import Model, VLMIGForCausalLM, VLMIGForMaskedLM
from vlmig.models.text_states import LateReading
from vlmig.training.texts import IGNORED, Texts

LOGITS_BUDGET = 2**26
"""Logits that are kept for the backward pass; beyond it they are recomputed, some rows at a
time."""


class Objective(nn.Module):
    """The model with its loss, as one module whose ``forward`` accelerate can wrap.

    Args:
        model: base LM with adapter.
        alignment: weight of ``chamfer`` beside the cross-entropy, per predicted token (``prefix``).
        among_text: see ``vlmig.training.recipe.Stage``; of causal LMs with late fusion.

    Raises:
        VLMIGError: ``among_text`` with another model.
    """

    def __init__(self, model: Model, alignment: float = 0.0, among_text: float = 0.0) -> None:
        super().__init__()
        self.model, self.alignment, self.among_text = model, alignment, among_text
        self.early = model.config.images_in_text
        if among_text and (self.early or isinstance(model, VLMIGForMaskedLM)):
            raise VLMIGError(
                f"among_text: {among_text} with {type(model).__name__}, fusion "
                f"{model.config.fusion}; expected a causal LM with late fusion, or 0"
            )

    def forward(
        self,
        texts: Texts,
        features: Tensor,
        shuffled: Tensor | None = None,
        alone: Texts | None = None,
    ) -> dict[str, Tensor]:
        """Predict ``labels`` with images.

        Args:
            features: of each row's images, (B, M, P, C); M = 1 unless images are in the text.
            shuffled: of other texts' images, for validation; None in training, where only the first
                loss is needed.
            alone: the texts without image tokens.

        Returns:
            Summed losses in nats: with each text's images (``own``), with ``shuffled`` and
            ``blank`` ones, and of the ``text`` alone.
        """
        beside = {"own": features}
        if shuffled is not None:
            beside |= {"shuffled": shuffled, "blank": self.model.blank_features.expand_as(features)}
        if not self.early:
            return self._beside(texts, beside)
        losses = {name: self._within(texts, images) for name, images in beside.items()}
        if alone is not None:  # without BOS only an image predicts a text's first token
            scale = texts.count / max(1, alone.count)
            losses["text"] = self._within(alone, features[:, :0]) * scale
        return losses

    def _beside(self, texts: Texts, beside: dict[str, Tensor]) -> dict[str, Tensor]:
        """Late fusion: run the LM over the texts once, and fuse each set of images with its
        states."""
        reading, labels = labeled(self._read(texts), texts.labels)
        images = torch.cat([*beside.values()], 1).to(reading.hidden.device)
        fused = self.model.fuse(reading, images).unbind(1)
        states = dict(zip(beside, fused, strict=True))
        if len(beside) > 1:
            states["text"] = reading.hidden
        before = None
        if self.among_text and self.training:
            before = text_before(texts.input_ids, reading.positions)
        return {name: self.loss(state, labels, before) for name, state in states.items()}

    def _read(self, texts: Texts) -> LateReading:
        """Run the base LM over the texts, without gradients where it is frozen; or take the states
        that are stored."""
        model, mask = self.model, texts.attention_mask
        if texts.states is not None:
            return model.prepare(texts.states.to(model.language_model.dtype), mask)
        learns = any(p.requires_grad for p in model.language_model.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            extra = {} if isinstance(model, VLMIGForMaskedLM) else {"use_cache": False}
            output = model.trunk(input_ids=texts.input_ids, attention_mask=mask, **extra)
        return model.prepare(output.last_hidden_state, mask)

    def _within(self, texts: Texts, features: Tensor) -> Tensor:
        """Early fusion: return the summed loss with images (B, M, P, C) at the texts' image
        tokens."""
        model = self.model
        assert isinstance(model, VLMIGForCausalLM)
        ids = texts.input_ids
        base: dict[str, Any] = {"input_ids": ids, "inputs_embeds": None}
        embedded = model.fusion.embed_shown(model, base, features.to(ids.device))["inputs_embeds"]
        if embedded is None:
            # Every step must use every weight, also without images.
            unused = 0 * model.projector(model.blank_features).sum()
            embedded = model.get_input_embeddings()(ids) + unused
        output = model.trunk(
            inputs_embeds=embedded,
            attention_mask=visible(texts, embedded.dtype),
            position_ids=texts.positions,
            use_cache=False,
        )
        loss = self.loss(output.last_hidden_state, texts.labels)
        if self.alignment and self.training:
            distance = chamfer(embedded, ids == model.config.placeholder_id, texts.samples)
            loss = loss + self.alignment * texts.count * distance
        return loss

    def loss(self, states: Tensor, labels: Tensor, before: Tensor | None = None) -> Tensor:
        """Return the summed loss of states (B, T, D); only labeled positions go through the
        head.

        Args:
            before: from ``text_before``, for ``among_text``.
        """
        wanted = labels != IGNORED
        rows = [states[wanted], labels[wanted]]
        if before is not None:
            rows.append(before[wanted])
        size = max(1, LOGITS_BUDGET // self.model.get_output_embeddings().weight.shape[0])
        if len(rows[0]) <= size:
            return self._of_rows(*rows)
        losses = []
        for chunk in zip(*(row.split(size) for row in rows), strict=True):
            losses.append(checkpoint(self._of_rows, *chunk, use_reentrant=False))
        return torch.stack(losses).sum()

    def _of_rows(self, rows: Tensor, wanted: Tensor, before: Tensor | None = None) -> Tensor:
        logits = self.model.head(self.model.language_model, rows).float()
        losses = F.cross_entropy(logits, wanted, reduction="none")
        if before is None:
            return losses.sum()
        listed = logits.gather(1, before.clamp(min=0)).masked_fill(before == IGNORED, -torch.inf)
        among = listed.logsumexp(1) - logits.gather(1, wanted[:, None])[:, 0]
        stands = (before == wanted[:, None]).any(1)
        return torch.where(stands, losses.lerp(among, self.among_text), losses).sum()


def text_before(ids: Tensor, positions: Tensor) -> Tensor:
    """Return the tokens of each text (B, T) up to positions (B, Q), each once: (B, Q, T), the rest
    ``IGNORED``."""
    columns = torch.arange(ids.shape[1], device=ids.device)
    earlier = columns[:, None] > columns
    again = ((ids[:, :, None] == ids[:, None, :]) & earlier).any(2)
    left_out = again[:, None] | (columns > positions[..., None])
    return ids[:, None].expand_as(left_out).masked_fill(left_out, IGNORED)


def labeled(reading: LateReading, labels: Tensor) -> tuple[LateReading, Tensor]:
    """Keep the queries that have a token to predict, and their labels (B, Q).

    Q is their number in the row with most; other rows keep some without a label.
    """
    wanted = labels != IGNORED
    most = max(1, int(wanted.sum(1).max()))
    columns = wanted.byte().argsort(stable=True, dim=1, descending=True)[:, :most]
    end = reading.image_end
    queries = replace(
        reading,
        hidden=reading.hidden.take_along_dim(columns[..., None], 1),
        mask=reading.mask.take_along_dim(columns[..., None], 1),
        positions=reading.positions.take_along_dim(columns, 1),
        image_end=None if end is None else end.take_along_dim(columns, 1),
    )
    return queries, labels.take_along_dim(columns, 1)


def visible(texts: Texts, dtype: torch.dtype) -> Tensor:
    """Return the LM's attention mask: (B, T), or (B, 1, T, T) if texts share a row.

    Such texts must not attend to each other.
    """
    if int(texts.samples.max()) < 2:
        return texts.attention_mask
    length = texts.samples.shape[1]
    same = texts.samples[:, :, None] == texts.samples[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=same.device).tril()
    mask = torch.zeros(same.shape, dtype=dtype, device=same.device)
    return mask.masked_fill(~(same & causal), torch.finfo(dtype).min)[:, None]


def chamfer(embeddings: Tensor, visual: Tensor, samples: Tensor) -> Tensor:
    """Return the Chamfer distance (cosine) between visual tokens and words of the same text.

    It is 0 where each has an equal. VILA's paper only measures such a distance, and its code has no
    term for it (docs/fidelity.md). It does not move the words.

    Args:
        embeddings: the LM's input, (B, T, E).
        visual: which positions are visual tokens, bool (B, T).
        samples: the number of each token's text in its row, from 1, 0 for padding, (B, T).
    """
    unit = F.normalize(embeddings.float(), dim=-1)
    cosines = unit @ unit.detach().transpose(1, 2)  # from every visual token to every word
    words = ~visual & (samples > 0)
    compared = visual[:, :, None] & words[:, None, :] & (samples[:, :, None] == samples[:, None, :])
    distance = (1 - cosines).masked_fill(~compared, torch.inf)
    means = []
    for axis in (2, 1):
        nearest = distance.amin(axis)[compared.any(axis)]
        # An empty side counts as 0, and keeps the graph.
        means.append(nearest.mean() if len(nearest) else cosines.sum() * 0)
    return torch.stack(means).mean()
