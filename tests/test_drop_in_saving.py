"""What of a base LM is saved: nothing, where it is what its name says; all of it, where it is not.

A base LM can change by merging, by new words, by training and by hand; each way once, saved and
loaded again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from test_families import SAME, left_padded, pictures, visual
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from vlmig import VLMIG, VLMIGError, VLMIGForCausalLM
from vlmig.models.base_weights import weights_digest


@torch.no_grad()
def logits(model: Any) -> tuple[Tensor, Tensor]:
    batch = left_padded()
    return model(**batch).logits, model(**batch, visual_features=pictures()).logits


def same(model: Any, other: Any) -> bool:
    """Weights read from a file lie elsewhere in memory, which may change the order of a sum."""
    pairs = zip(logits(model), logits(other), strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, atol=SAME) for a, b in pairs)


@pytest.fixture()
def start(tmp_path: Path) -> Path:
    """A self-contained checkpoint."""
    visual("llama", "cross_attention").save_pretrained(tmp_path / "start", save_base=True)
    return tmp_path / "start"


def merged(model: Any) -> Any:
    lora = LoraConfig(
        target_modules=["q_proj"], exclude_modules=".*fusion.*", init_lora_weights=False
    )
    return get_peft_model(model, lora).merge_and_unload()


def resized(model: Any) -> Any:
    model.resize_token_embeddings(120, mean_resizing=False)
    return model


def edited(model: Any) -> Any:
    model.language_model.lm_head.weight.data[3, 4] += 1e-3
    return model


@pytest.mark.parametrize("change", [merged, resized, edited])
def test_a_frozen_base_that_changed_is_saved_beside_the_adapter(
    change: Callable[[Any], Any], start: Path, tmp_path: Path
) -> None:
    model = change(VLMIGForCausalLM.from_pretrained(start))
    with pytest.raises(VLMIGError, match="save_base=False, and the base LM is not what .* holds"):
        model.save_pretrained(tmp_path / "refused", save_base=False)
    model.save_pretrained(tmp_path / "saved")
    assert set(load_file(tmp_path / "saved/model.safetensors")) == set(model.adapter_state())
    assert (tmp_path / "saved/language_model").is_dir()
    assert same(VLMIGForCausalLM.from_pretrained(tmp_path / "saved"), model)


def test_a_base_that_trains_is_in_the_weights_file(start: Path, tmp_path: Path) -> None:
    model = VLMIGForCausalLM.from_pretrained(start)
    assert not any(weight.requires_grad for weight in model.language_model.parameters())
    model.unfreeze_base()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = left_padded()
    model(**batch, visual_features=pictures(), labels=batch["input_ids"]).loss.backward()
    optimizer.step()
    model.save_pretrained(tmp_path / "trained")
    assert not (tmp_path / "trained/language_model").exists()
    again = VLMIGForCausalLM.from_pretrained(tmp_path / "trained")
    assert same(again, model) and not same(again, VLMIGForCausalLM.from_pretrained(start))
    # Loaded it is frozen, and still another than its name says.
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/language_model").is_dir()
    assert same(VLMIGForCausalLM.from_pretrained(tmp_path / "again"), model)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_base_given_in_memory_is_saved(family: str, tmp_path: Path) -> None:
    model: Any = visual(family, "cross_attention", family == "bert")
    model.save_pretrained(tmp_path / "trains")
    model.freeze_base()
    model.save_pretrained(tmp_path / "frozen")
    for folder in ("trains", "frozen"):
        assert same(type(model).from_pretrained(tmp_path / folder), model)


def test_an_unchanged_base_is_not_saved(start: Path, tmp_path: Path) -> None:
    model = VLMIGForCausalLM.from_pretrained(start)
    model.config.language_model = str(start / "language_model")  # as a hub id, outside the folder
    model.save_pretrained(tmp_path / "saved", save_base=False)
    assert not (tmp_path / "saved/language_model").exists()
    model.bfloat16()  # another precision is no other LM
    model.save_pretrained(tmp_path / "half")
    assert not (tmp_path / "half/language_model").exists()


def test_low_rank_layers_of_somebody_else_are_refused(start: Path, tmp_path: Path) -> None:
    model = VLMIGForCausalLM.from_pretrained(start)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(VLMIGError, match="low-rank layers of a PeftModel; expected merge_and"):
        model.save_pretrained(tmp_path / "wrapped")
    model = VLMIGForCausalLM.from_pretrained(start)
    get_peft_model(model, LoraConfig(target_modules=["query"]))
    with pytest.raises(VLMIGError, match="is a layer of PEFT in the adapter; expected merge_and"):
        model.save_pretrained(tmp_path / "wrapped")


def test_a_digest_sees_every_bit_and_where_it_is() -> None:
    weights = {"a": torch.arange(6e4).reshape(3, -1), "b": torch.ones(2, dtype=torch.bfloat16)}
    nearly, swapped = weights["a"].clone(), weights["a"].clone()
    nearly[1, 2] = nearly[1, 2].nextafter(torch.tensor(99.0))
    swapped[0, :2] = swapped[0, [1, 0]]
    changes = (
        {"a": weights["a"].flip(0)},  # the same numbers, in other places
        {"a": weights["a"].flip(1)},
        {"a": weights["a"].reshape(-1, 3)},
        {"a": nearly},
        {"a": swapped},
        {"b": weights["b"].half()},
        {"c": torch.zeros(0)},
    )
    digests = {weights_digest(weights | change) for change in changes}
    assert len(digests | {weights_digest(weights)}) == 1 + len(changes)
    shifted = torch.cat([torch.zeros(1), weights["a"].flatten()])[1:].view(3, -1)
    assert weights_digest({"b": weights["b"], "a": shifted}) == weights_digest(weights)


def test_arguments_of_transformers(start: Path, tmp_path: Path) -> None:
    hub = {"token": None, "cache_dir": str(tmp_path), "local_files_only": True}
    model, report = VLMIGForCausalLM.from_pretrained(
        pretrained_model_name_or_path=start.parent,
        subfolder=start.name,
        output_loading_info=True,
        generation_config=GenerationConfig(repetition_penalty=1.3, max_new_tokens=3),
        **hub,
    )
    assert not any(report.values())
    assert same(AutoModelForCausalLM.from_pretrained(start.parent, subfolder=start.name), model)
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()
    state = {name: value + 0.5 for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "given", state_dict=state)
    loaded = VLMIGForCausalLM.from_pretrained(tmp_path / "given")
    assert loaded.generation_config.repetition_penalty == 1.3
    assert loaded.generate(**left_padded(), pad_token_id=0).shape[1] == 7 + 3
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_saving_can_push(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Hub:
        def __init__(self, token: str | None) -> None:
            calls.append(("token", {"token": token}))

        def create_repo(self, repo_id: str, exist_ok: bool, private: bool) -> Any:
            calls.append(("create", {"private": private}))
            return type("Repository", (), {"repo_id": f"lab/{repo_id}"})

        def upload_folder(self, **arguments: Any) -> str:
            calls.append(("upload", arguments))
            return "address"

    monkeypatch.setattr("vlmig.models.adapter_checkpoint.HfApi", Hub)
    model = VLMIGForCausalLM.from_pretrained(start)
    model.save_pretrained(
        tmp_path / "mine", push_to_hub=True, token="t", private=True, commit_message="First"
    )
    (_, token), (_, created), (_, uploaded) = calls
    assert (token["token"], created["private"]) == ("t", True)
    assert uploaded == {
        "repo_id": "lab/mine",
        "folder_path": str(tmp_path / "mine"),
        "commit_message": "First",
    }


def test_tokenizer_and_generation_config_are_where_transformers_looks(
    tiny: VLMIG, tmp_path: Path
) -> None:
    tiny.model.save_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    text = "A cat is red"
    assert tokenizer(text).input_ids == tiny.tokenizer(text).input_ids
    assert GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id == 0
    # New words, and no base LM's folder with a tokenizer: the checkpoint's own is used.
    tokenizer.add_tokens(["strawberry"])
    tokenizer.save_pretrained(tmp_path / "saved")
    assert VLMIG.from_pretrained(tmp_path / "saved").tokenizer("strawberry").input_ids == [
        len(tokenizer) - 1
    ]
