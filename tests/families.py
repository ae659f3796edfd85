"""Tiny random models of many families of transformers, built from their real configuration
classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

VOCABULARY = 97
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 8,
}
_GPT_LIKE: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_PLAIN: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
CAUSAL: dict[str, dict[str, Any]] = {
    "gpt2": _GPT_LIKE,
    "opt": {
        **_PLAIN,
        "ffn_dim": 48,
        "word_embed_proj_dim": 16,
        "do_layer_norm_before": True,
    },  # as opt-350m: narrow head
    "llama": _LLAMA_LIKE,
    "gemma": _LLAMA_LIKE,
    "gemma2": {**_LLAMA_LIKE, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0},
    "gemma3_text": {**_LLAMA_LIKE, "query_pre_attn_scalar": 8, "sliding_window": 16},
    "mistral": {**_LLAMA_LIKE, "sliding_window": None},
    "mixtral": {**_LLAMA_LIKE, "num_local_experts": 2},
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "phi": {**_PLAIN, "partial_rotary_factor": 0.5},
    "phi3": _LLAMA_LIKE,
    "gpt_neox": _PLAIN,
    "gptj": {**_GPT_LIKE, "rotary_dim": 4},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global"], 2]],
        "max_position_embeddings": 128,
    },
    "gpt_bigcode": _GPT_LIKE,
    "codegen": {**_GPT_LIKE, "rotary_dim": 4},
    "olmo": _LLAMA_LIKE,
    "olmo2": _LLAMA_LIKE,
    "falcon": {**_PLAIN, "alibi": False, "new_decoder_architecture": False},
    "stablelm": _LLAMA_LIKE,
    "starcoder2": _LLAMA_LIKE,
    "smollm3": _LLAMA_LIKE,
    "granite": {**_LLAMA_LIKE, "logits_scaling": 4.0},
    "cohere": {**_LLAMA_LIKE, "logit_scale": 0.25},
    "persimmon": _PLAIN,
    "biogpt": _PLAIN,
    "xglm": {
        "d_model": 32,
        "ffn_dim": 48,
        "num_layers": 2,
        "attention_heads": 4,
        "max_position_embeddings": 128,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
}
MASKED: dict[str, dict[str, Any]] = {
    "bert": _PLAIN,
    "roberta": _PLAIN,
    "albert": {**_PLAIN, "embedding_size": 16},
    "distilbert": {
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "max_position_embeddings": 128,
    },
    "electra": {**_PLAIN, "embedding_size": 16},
    "mpnet": _PLAIN,
    "modernbert": {**_PLAIN, "cls_token_id": 1, "sep_token_id": 2},
}


def build(kind: str, masked: bool = False, **changes: Any) -> PreTrainedModel:
    """Build a model whose weights are large enough that attention and pictures matter; ``changes``
    to its configuration."""
    torch.manual_seed(0)
    settings = (MASKED if masked else CAUSAL)[kind] | changes
    auto: Callable = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_config
    model = auto(AutoConfig.for_model(kind, **_COMMON, **settings)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(4.0)
    return model
