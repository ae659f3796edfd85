"""From hidden states to logits for every family, and a check that the result is the LM's.

Fusion changes the states before the head, so it has to run the head itself. About twenty families
of transformers do more than multiply by the head (soft caps, logit scales); masked LMs have a
transform before it.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmig.errors import VLMIGError

MASKED_HEADS = (
    ("cls",),  # BERT and what copies it
    ("lm_head",),  # RoBERTa, XLM-R, CamemBERT, MPNet
    ("predictions",),  # ALBERT
    ("head", "decoder"),  # ModernBERT
    ("generator_predictions", "generator_lm_head"),  # ELECTRA
    ("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),  # DistilBERT
)
"""Attributes of a masked LM that turn its last hidden states into logits, in their order."""
MULTIPLIES_SCALING = ("hyperclovax",)
"""Families whose ``logits_scaling`` is a factor; Granite's is a divisor."""
FEW, COLUMNS = 128, 8
"""Up to 128 rows, padded to multiples of 8, a CPU multiplies by the transposed states instead."""


def causal_logits(language_model: PreTrainedModel, states: Tensor) -> Tensor:
    """Turn hidden states (..., D) into logits (..., V), scaled and capped as the family does."""
    head = language_model.get_output_embeddings()
    logits = _few_rows(head, states) if _is_plain(head, states) else head(states)
    config = language_model.config.get_text_config(decoder=True)
    if (factor := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * factor
    if (scaling := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits * scaling if config.model_type in MULTIPLIES_SCALING else logits / scaling
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2 and later
        logits = (logits / cap).tanh() * cap
    return logits


def _is_plain(head: nn.Module, states: Tensor) -> TypeGuard[nn.Linear]:
    """Whether this is a plain product of few rows on a CPU, without bias, hooks or gradients."""
    if type(head) is not nn.Linear or states.device.type != "cpu" or torch.is_grad_enabled():
        return False
    if head.bias is not None or head._forward_hooks or head._forward_pre_hooks:
        return False
    if "forward" in vars(head):  # accelerate brings its weights from elsewhere
        return False
    return 1 < states[..., 0].numel() <= FEW < head.out_features


def _few_rows(head: nn.Linear, states: Tensor) -> Tensor:
    """Compute (W x^T)^T in multiples of 8 rows: half the time of x W^T (docs/performance.md)."""
    rows = states.flatten(0, -2)
    padded = F.pad(rows, (0, 0, 0, -len(rows) % COLUMNS))
    return (head.weight @ padded.T)[:, : len(rows)].T.contiguous().unflatten(0, states.shape[:-1])


def is_linear(language_model: PreTrainedModel, head: object) -> bool:
    """Tell whether a mean of states gives the mean of logits of ``head``, of this file."""
    config = language_model.config.get_text_config(decoder=True)
    return head is causal_logits and getattr(config, "final_logit_softcapping", None) is None


def masked_logits(language_model: PreTrainedModel, states: Tensor) -> Tensor:
    """Turn a masked LM's last hidden states (..., D) into logits (..., V)."""
    for name in masked_head(language_model):
        states = getattr(language_model, name)(states)
    return states


def masked_head(language_model: PreTrainedModel) -> tuple[str, ...]:
    """Return the attributes that make up a masked LM's head.

    Raises:
        VLMIGError: an unknown kind of head.
    """
    for names in MASKED_HEADS:
        if all(hasattr(language_model, name) for name in names):
            return names
    raise VLMIGError(
        f"{type(language_model).__name__} has an unknown kind of head; expected BERT, RoBERTa, "
        "ALBERT, DistilBERT, ELECTRA, MPNet, ModernBERT or a family built like one of them"
    )


@torch.no_grad()
def check_head(language_model: PreTrainedModel, trunk: PreTrainedModel, rebuilt_by: object) -> None:
    """Refuse an LM whose logits are not what ``rebuilt_by`` (a function of this file) makes of its
    trunk's states.

    Raises:
        VLMIGError: the two differ on two tokens.
    """
    ids = torch.tensor([[1, 2]], device=trunk.device)
    training = language_model.training
    language_model.eval()
    try:
        logits = language_model(ids).logits.float()
        states = trunk(ids).last_hidden_state
        rebuilt = rebuilt_by(language_model, states).float()  # type: ignore[operator]
        fits = logits.shape == rebuilt.shape and torch.allclose(
            logits, rebuilt, atol=1e-3, rtol=1e-3
        )
    except (AttributeError, TypeError):
        fits = False
    language_model.train(training)
    if not fits:
        raise VLMIGError(
            f"{type(language_model).__name__} post-processes its logits in a way vlmig does not "
            "reproduce. Use a supported LM (GPT-2, OPT, Llama, Qwen, Mistral, Gemma, ...), or add "
            "the family to vlmig/models/heads.py."
        )
