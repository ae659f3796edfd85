"""transformers' ``ModelTesterMixin`` on our classes and on the plain base LMs, for
``test_suites.py``: the mixin is fetched from the registry, and is on its path as ``hf_tests``.
"""

from __future__ import annotations

import unittest
import warnings
from typing import Any

import torch
from hf_tests import test_modeling_common as common
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from vlmig import VLMIGConfig, VLMIGForCausalLM, VLMIGForMaskedLM

ROWS, LENGTH, VOCABULARY, WIDTH, LAYERS, HEADS = 3, 7, 99, 32, 2, 4
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 37,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "head_dim": WIDTH // HEADS, "pad_token_id": 0}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BASES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaForCausalLM, LlamaConfig(**GROUPED)),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**GROUPED)),
    "bert": (BertForMaskedLM, BertConfig(**SHAPE, **STILL)),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=64,
            bos_token_id=98, eos_token_id=98, pad_token_id=98,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        ),
    ),
}  # fmt: skip


class Tester:
    """What the mixin asks about a model: its shape, a configuration and inputs."""

    is_training = True
    batch_size, seq_length, num_hidden_layers = ROWS, LENGTH, LAYERS
    num_attention_heads, hidden_size, vocab_size = HEADS, WIDTH, VOCABULARY

    def __init__(self, base: str, fusion: str | None, seen: bool) -> None:
        self.base, self.fusion, self.seen = base, fusion, seen
        if seen:
            self.num_hidden_states_types = 2  # the base LM's and the fused ones

    def get_config(self) -> Any:
        text = type(BASES[self.base][1]).from_dict(BASES[self.base][1].to_dict())
        if self.fusion is None:
            return text
        shape = {"vision_width": 12, "vision_patches": 5, "fusion_heads": HEADS}
        return VLMIGConfig(text_config=text, fusion=self.fusion, **shape)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
        inputs = {
            "input_ids": common.ids_tensor([ROWS, LENGTH], VOCABULARY),
            "attention_mask": torch.ones(ROWS, LENGTH, dtype=torch.long),
        }
        if self.seen:
            inputs["visual_features"] = torch.randn(ROWS, 2, 5, 12)
        return self.get_config(), inputs


class Plugged:
    """One model under the mixin."""

    setting: tuple[str, str | None, bool]
    all_generative_model_classes = ()

    def setUp(self) -> None:
        self.model_tester = Tester(*self.setting)
        self._is_composite = self.setting[1] is not None

    def run(self, *args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.resetwarnings()  # some tests wait for a warning
            return super().run(*args, **kwargs)  # type: ignore[misc]

    def _prepare_for_class(self, inputs: Any, model_class: Any, return_labels: bool = False) -> Any:
        inputs = super()._prepare_for_class(inputs, model_class, return_labels)  # type: ignore[misc]
        if return_labels:  # the mixin knows transformers' own classes only
            inputs["labels"] = torch.zeros(ROWS, LENGTH, dtype=torch.long)
        return inputs


def plug(base: str, fusion: str | None, seen: bool) -> type:
    """Make the test case of one model, called Base_fusion_images."""
    masked, kind = base == "bert", "images" if seen else "text"
    ours = VLMIGForMaskedLM if masked else VLMIGForCausalLM
    fields = {
        "setting": (base, fusion, seen),
        "all_model_classes": (BASES[base][0] if fusion is None else ours,),
        "__module__": __name__,
    }
    name = f"{base}_plain" if fusion is None else f"{base}_{fusion}_{kind}"
    return type(name, (Plugged, common.ModelTesterMixin, unittest.TestCase), fields)


for base in BASES:
    for fusion in (None, "cross_attention", "decoder_layer", "prefix"):
        if base == "bert" and fusion == "prefix":
            continue  # a masked LM has no early fusion
        for seen in (False, True) if fusion else (False,):
            case = plug(base, fusion, seen)
            globals()[case.__name__] = case
del case
