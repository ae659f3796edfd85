"""Trainers of others: transformers', PEFT's ways of training, and what TRL asks of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from test_families import SAME, left_padded, pictures, visual
from torch import Tensor
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from vlmig import VLMIG, VLMIGError, VLMIGForCausalLM

QUIET: dict[str, Any] = {"report_to": [], "use_cpu": True, "disable_tqdm": True}


def samples(count: int) -> list[dict[str, Tensor]]:
    ids = left_padded()["input_ids"][1]
    return [{"input_ids": ids, "labels": ids, "visual_features": pictures()[1]}] * count


def losses(model: Any, folder: Path, resume: Path | None = None, **settings: Any) -> list[float]:
    arguments = TrainingArguments(
        str(folder), max_steps=4, per_device_train_batch_size=2, learning_rate=3e-3,
        logging_steps=1, save_strategy="steps", save_steps=2, **QUIET, **settings,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=samples(8))
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("way", ["as given", "frozen", "unfrozen"])
def test_the_trainer_resumes_where_it_was(way: str, tmp_path: Path) -> None:
    visual("llama", "cross_attention").save_pretrained(tmp_path / "start", save_base=True)

    def model() -> Any:
        if way == "as given":
            return visual("llama", "cross_attention")
        loaded = VLMIGForCausalLM.from_pretrained(tmp_path / "start")
        loaded.freeze_base() if way == "frozen" else loaded.unfreeze_base()
        return loaded

    whole = losses(model(), tmp_path / "run")
    assert len(set(whole)) > 2, "nothing was learnt"
    resumed = losses(model(), tmp_path / "again", tmp_path / "run/checkpoint-2")
    assert resumed == pytest.approx(whole, abs=1e-6)


def test_resuming_misses_no_weight(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = visual("gpt2", "cross_attention")  # its head is its embedding table
    model.freeze_base()
    for _ in range(2):
        model.save_pretrained(tmp_path)
        trainer = Trainer(model, TrainingArguments(str(tmp_path / "out"), **QUIET))
        with caplog.at_level("WARNING"):
            trainer._load_from_checkpoint(str(tmp_path))
        model.unfreeze_base()
    assert "missing" not in caplog.text


def test_checkpointing_bf16_and_generation_in_a_trainer(tmp_path: Path) -> None:
    exact = losses(visual("llama", "decoder_layer"), tmp_path / "exact")
    settings = {"gradient_checkpointing": True, "bf16": True}
    rough = losses(visual("llama", "decoder_layer"), tmp_path / "rough", **settings)
    assert rough == pytest.approx(exact, rel=2e-2)  # 8 bits of mantissa
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path / "seq"), max_steps=1, predict_with_generate=True, **QUIET
    )
    model = visual("llama", "cross_attention")
    trainer = Seq2SeqTrainer(model, arguments, train_dataset=samples(2))
    trainer.train()
    assert trainer.evaluate(samples(2))["eval_loss"] > 0


@pytest.mark.parametrize("fusion", ["cross_attention", "decoder_layer", "prefix"])
def test_checkpointing_gives_the_same_gradients(fusion: str) -> None:
    batch = {**left_padded(), "visual_features": pictures(), "labels": left_padded()["input_ids"]}
    gradients = []
    for less in (False, True):
        model: Any = visual("llama", fusion).train()
        if less:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**batch).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and torch.equal(gradient, gradients[1][name]), name


def test_training_says_that_the_base_is_frozen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    visual("llama", "cross_attention").save_pretrained(tmp_path, save_base=True)
    model = VLMIGForCausalLM.from_pretrained(tmp_path)
    for _ in range(2):
        model.train()
    assert caplog.text.count("call unfreeze_base() to train and save it too") == 1
    # A text without images has no gradient then, but a trainer wants one.
    batch = left_padded()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert "a text without images teaches nothing" in caplog.text
    gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert gradients and not any(gradient.any() for gradient in gradients)


def test_what_trl_asks() -> None:
    """SFTTrainer runs ``base_model``, then multiplies by the head's weights."""
    model, batch = visual("llama", "cross_attention"), left_padded()
    assert type(model.base_model) is type(model.get_decoder()) is type(model.trunk)
    states = model.base_model(**batch, use_cache=False).last_hidden_state
    assert torch.equal(model.get_output_embeddings()(states), model(**batch).logits)
    states.sum().backward()
    assert model.language_model.model.layers[0].mlp.up_proj.weight.grad is not None
    with pytest.raises(VLMIGError, match="visual_features for the base LM alone"):
        model.base_model(**batch, visual_features=pictures())
    model.freeze_base()
    model.train().base_model(**batch).last_hidden_state.sum().backward()  # nothing to learn
    assert model.config.architectures == ["VLMIGForCausalLM"]
    model.config.pad_token_id = 7
    assert model.config.text_config.pad_token_id == 7 and model.config.vocab_size == 97


@torch.no_grad()
def test_new_words_are_merged_into_a_tied_head_too() -> None:
    model = visual("gpt2", "cross_attention")
    lora = LoraConfig(
        target_modules=["c_attn"], fan_in_fan_out=True, trainable_token_indices={"wte": [5, 6]}
    )
    tuned = get_peft_model(model, lora).eval()
    for name, weight in tuned.named_parameters():
        if "trainable_tokens_delta" in name:
            weight.data.normal_(generator=torch.Generator().manual_seed(1))
    before = tuned(**left_padded(), visual_features=pictures()).logits
    after = tuned.merge_and_unload()(**left_padded(), visual_features=pictures()).logits
    assert torch.allclose(before, after, atol=SAME)


@pytest.mark.parametrize("fusion", ["cross_attention", "decoder_layer", "prefix"])
def test_prompt_tuning_beside_pictures(fusion: str) -> None:
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    tuned: Any = get_peft_model(visual("llama", fusion), settings)
    batch, seen = left_padded(), {"visual_features": pictures()}
    loss = tuned(**batch, **seen, labels=batch["input_ids"]).loss
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in tuned.prompt_encoder.parameters())
    # Without a cache: PEFT 0.21 looks for it by its older name, finds none, and puts its prompt
    # before every token, around the plain LM too.
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "pad_token_id": 0, "use_cache": False}
    written = tuned.generate(**batch, **seen, **settings)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for _ in range(3):
        logits = tuned(input_ids=ids, attention_mask=mask, **seen).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    assert torch.equal(written, ids)


@torch.no_grad()
def test_packed_texts_do_not_see_each_other() -> None:
    """Where the base LM keeps packed texts apart, the fusion layer does too."""
    for fusion in ("cross_attention", "decoder_layer"):
        model, ids = visual("llama", fusion), left_padded()["input_ids"][1:]
        seen = {"visual_features": pictures()[1:], "use_cache": False}
        apart = [model(part, **seen).logits for part in (ids[:, :4], ids[:, 4:])]
        places = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
        packed = model(ids, position_ids=places, **seen).logits
        assert torch.allclose(packed, torch.cat(apart, 1), atol=SAME)
        assert (model(ids, **seen).logits - packed).abs().max() > 1e-2


@torch.no_grad()
def test_shifted_labels_are_used_as_given() -> None:
    model, ids = visual("llama", "cross_attention"), left_padded()["input_ids"]
    seen = {"input_ids": ids, "visual_features": pictures(), "labels": ids}
    shifted = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    assert torch.equal(model(**seen).loss, model(**seen, shift_labels=shifted).loss)
    assert model(**seen).loss != model(**seen, shift_labels=ids).loss


def trl_settings(folder: Path) -> dict[str, Any]:
    small = {"max_steps": 1, "per_device_train_batch_size": 2, "max_length": 32}
    plain = {"bf16": False, "gradient_checkpointing": False}
    return {"output_dir": str(folder), **small, **plain, **QUIET}


@pytest.mark.parametrize("frozen", [True, False])
def test_trl_trains_on_texts(frozen: bool, tmp_path: Path) -> None:
    pocket = VLMIG.from_pretrained("pocket")
    pocket.model.freeze_base() if frozen else pocket.model.unfreeze_base()
    before = pocket.model.language_model.transformer.wte.weight.clone()
    SFTTrainer(
        model=pocket.model,
        processing_class=pocket.tokenizer,
        train_dataset=Dataset.from_dict({"text": ["A banana is yellow."] * 2}),
        args=SFTConfig(**trl_settings(tmp_path)),
    ).train()
    assert torch.equal(pocket.model.language_model.transformer.wte.weight, before) == frozen


def test_trl_learns_from_preferences(tmp_path: Path) -> None:
    pocket = VLMIG.from_pretrained("pocket")
    pocket.model.unfreeze_base()
    pairs = {"prompt": ["A banana is"], "chosen": [" yellow."], "rejected": [" blue."]}
    trainer = DPOTrainer(
        model=pocket.model,
        ref_model=VLMIG.from_pretrained("pocket").model,  # TRL 1.0 finds none by itself
        processing_class=pocket.tokenizer,
        train_dataset=Dataset.from_dict({name: texts * 4 for name, texts in pairs.items()}),
        args=DPOConfig(
            **{**trl_settings(tmp_path), "max_steps": 2, "learning_rate": 1e-3, "logging_steps": 1}
        ),
    )
    trainer.train()
    margins = [entry.get("rewards/margins", 0.0) for entry in trainer.state.log_history]
    assert max(margins) > 0, "the chosen text has become likelier than the rejected one"


def test_prefix_tuning_beside_pictures() -> None:
    """The LM attends to the virtual tokens, the fusion layer to the text: with closed gates the
    mixture is the tuned LM's own prediction, and with open ones the pictures count."""
    settings = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model: Any = visual("llama", "cross_attention")
    tuned: Any = get_peft_model(model, settings)
    batch = left_padded()
    loss = tuned(**batch, visual_features=pictures(), labels=batch["input_ids"]).loss
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in tuned.prompt_encoder.parameters())
    with torch.no_grad():
        text = tuned(**batch).logits.log_softmax(-1)
        assert not torch.allclose(model(**batch).logits.log_softmax(-1), text, atol=1e-2)
        seen = tuned(**batch, visual_features=pictures()).logits
        assert not torch.allclose(seen, text, atol=1e-2)
        model.fusion.attention_gate.zero_(), model.fusion.feed_gate.zero_()
        closed = tuned(**batch, visual_features=pictures()).logits
    real = batch["attention_mask"].bool()
    assert torch.allclose(closed[real], text[real], atol=SAME)
