"""PEFT's tests of causal LMs on ours and on the plain base LMs, for ``test_suites.py``: they are
fetched from the registry, and are on its path as ``peft_tests``. A model is a folder that the auto
classes load, as a user's is.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from families import VOCABULARY, build
from peft.utils import constants
from peft_tests import test_decoder_models as theirs
from test_families import pictures, visual
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

METHODS = "LoraConfig AdaLoraConfig IA3Config OFTConfig VeraConfig PrefixTuningConfig PromptEncoderConfig PromptTuningConfig".split()
"""The ways to tune in widest use: 11 of their 40 settings, in the time of a few minutes."""
SETTINGS = (
    ("gpt2", "plain", ""),
    ("gpt2", "cross_attention", "images"),
    ("llama", "plain", ""),
    ("llama", "decoder_layer", "images"),
    ("llama", "prefix", "images"),
)
FOLDERS = Path(tempfile.mkdtemp())


def save(base: str, fusion: str, kind: str) -> str:
    """Save one model; its folder says which (their tests look for the base's class in the name)."""
    model: Any = build(base) if fusion == "plain" else visual(base, fusion)
    name = type(build(base)).__name__
    folder = FOLDERS / f"{base}_{fusion}_{kind}-{name}"
    model.save_pretrained(folder, **({} if fusion == "plain" else {"save_base": True}))
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0").save_pretrained(folder)
    return str(folder)


# PEFT knows by a family's name which layers to adapt; of ours a user says it.
for table, families in vars(constants).items():
    if table.startswith("TRANSFORMERS_MODELS_TO") and {"llama", "gpt2"} <= set(families):
        families["vlmig"] = [*families["gpt2"], *families["llama"]]

# Their tests run over these lists; those with models of their own need a hub.
TUNED = theirs.ALL_CONFIGS
TUNED[:] = [pair for pair in TUNED if pair[0].__name__ in METHODS]
MODELS = theirs.PEFT_DECODER_MODELS_TO_TEST
MODELS[:] = [save(*setting) for setting in SETTINGS]


class TestPeft(theirs.TestDecoderModels):
    """Their tests, beside images where the model's folder says so."""

    @pytest.fixture(autouse=True)
    def setting(self, request: pytest.FixtureRequest) -> None:
        self.seen = "_images-" in request.node.callspec.params["model_id"]

    def prepare_inputs_for_testing(self) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_testing()
        return {**inputs, "visual_features": pictures()} if self.seen else inputs


for name, test in vars(theirs.TestDecoderModels).items():
    over = [mark.args[1] for mark in getattr(test, "pytestmark", [])]
    if name.startswith("test_") and not any(values is MODELS for values in over):
        setattr(TestPeft, name, None)
