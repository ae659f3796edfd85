"""What people already do with a transformers model, done with a visual one: each way once, on tiny
real components."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import aligned
from peft import LoraConfig, PeftModel, get_peft_model
from test_families import SAME, left_padded, pictures, steps, visual
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    T5Config,
    pipeline,
)

from vlmig import VLMIG, VLMIGConfig, VLMIGError, VLMIGForCausalLM, VLMIGForMaskedLM
from vlmig.models.cache import cache_argument, text_cache

KINDS = ("cross_attention", "decoder_layer")


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return visual("llama", request.param)


@pytest.fixture()
def saved(model: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "saved", save_base=True)
    return tmp_path / "saved"


@torch.no_grad()
def test_auto_classes_load_it(model: Any, saved: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(saved)
    assert isinstance(loaded, VLMIGForCausalLM)
    expected = model(**left_padded(), visual_features=pictures()).logits
    found = aligned(loaded)(**left_padded(), visual_features=pictures()).logits
    assert torch.equal(found, expected)
    assert isinstance(
        AutoModelForMaskedLM.from_config(visual("bert", "decoder_layer", True).config),
        VLMIGForMaskedLM,
    )


def test_pipeline_generates_with_pictures(tiny: VLMIG) -> None:
    writer = pipeline("text-generation", model=tiny.model, tokenizer=tiny.tokenizer)
    seen = 20 * tiny.imagine(["a cat"], k=2)[0].features[None]  # so large that the tokens change
    settings = {"max_new_tokens": 6, "do_sample": False, "return_full_text": False}
    own = writer("A cat is", visual_features=seen, **settings)[0]["generated_text"]
    ids = tiny.tokenizer("A cat is", return_tensors="pt")
    direct = tiny.model.generate(
        **ids, visual_features=seen, max_new_tokens=6, do_sample=False, pad_token_id=0
    )
    assert own == tiny.tokenizer.decode(
        direct[0, ids.input_ids.shape[1] :], skip_special_tokens=True
    )
    plain = writer("A cat is", **settings)[0]["generated_text"]
    assert plain != own
    # Many prompts with a set of pictures each, in one batch.
    pairs = torch.cat([seen, seen.flip(1) * 2])
    both = writer(["A cat is", "A cat is"], visual_features=pairs, batch_size=2, **settings)
    assert both[0][0]["generated_text"] == own


@torch.no_grad()
def test_sampling_several_sequences_and_beams(model: Any) -> None:
    settings = {"visual_features": pictures(), "max_new_tokens": 5, "pad_token_id": 0}
    torch.manual_seed(0)
    sampled = model.generate(**left_padded(), do_sample=True, num_return_sequences=3, **settings)
    torch.manual_seed(0)
    again = model.generate(
        **left_padded(), do_sample=True, num_return_sequences=3, use_cache=False, **settings
    )
    assert sampled.shape[0] == 6 and torch.equal(sampled, again)
    beams = model.generate(**left_padded(), num_beams=3, num_return_sequences=2, **settings)
    assert torch.equal(
        beams,
        model.generate(
            **left_padded(), num_beams=3, num_return_sequences=2, use_cache=False, **settings
        ),
    )


@torch.no_grad()
@pytest.mark.parametrize(
    "settings", [{"prompt_lookup_num_tokens": 2}, {"assistant": "plain"}, {"assistant": "visual"}]
)
def test_assisted_decoding_gives_the_greedy_tokens(model: Any, settings: dict[str, Any]) -> None:
    # Assisted decoding takes one prompt; guesses are taken back by cropping the cache, fusion
    # layer included.
    batch = {name: value[1:] for name, value in left_padded().items()}
    if "assistant" in settings:  # an ordinary LM, or a visual one, which gets the pictures too
        other = visual("qwen2", model.config.fusion)
        settings = {
            "assistant_model": other if settings["assistant"] == "visual" else other.language_model
        }
    common = {
        "visual_features": pictures()[1:],
        "max_new_tokens": 8,
        "do_sample": False,
        "pad_token_id": 0,
    }
    assert torch.equal(
        model.generate(**batch, **common, **settings), model.generate(**batch, **common)
    )


@pytest.mark.parametrize(
    "settings", [{"cache_implementation": "static"}, {"prefill_chunk_size": 3}]
)
def test_static_cache_and_chunked_prefill(model: Any, settings: dict[str, Any]) -> None:
    expected = steps(model, left_padded(), pictures())
    assert torch.allclose(steps(model, left_padded(), pictures(), **settings), expected, atol=SAME)


def test_peft_lora_trains_saves_and_loads_beside_the_adapter(model: Any, tmp_path: Path) -> None:
    lora = LoraConfig(
        target_modules=["q_proj", "v_proj"],
        exclude_modules=r".*fusion.*",
        modules_to_save=["projector", "fusion"],
    )
    tuned = get_peft_model(model, lora)
    inputs = {**left_padded(), "visual_features": pictures(), "labels": left_padded()["input_ids"]}
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.5)
    losses = []
    for _ in range(3):
        loss = tuned(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    tuned.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(visual("llama", model.config.fusion), tmp_path).eval()
    with torch.no_grad():
        expected = tuned.eval()(**inputs).logits
        assert torch.allclose(loaded(**inputs).logits, expected, atol=SAME)
        assert (
            loaded.generate(
                **left_padded(), visual_features=pictures(), max_new_tokens=3, pad_token_id=0
            ).shape[1]
            == 10
        )


@torch.no_grad()
def test_losses_are_averaged_as_the_trainer_asks(model: Any) -> None:
    inputs = {**left_padded(), "visual_features": pictures(), "labels": left_padded()["input_ids"]}
    mean, total = model(**inputs).loss, model(**inputs, num_items_in_batch=3).loss
    assert total.item() == pytest.approx(mean.item() * 12 / 3, rel=1e-5)  # 2 x 6 next tokens


@torch.no_grad()
def test_lora_that_was_there_before_stays(model: Any) -> None:
    base = get_peft_model(
        visual("llama", model.config.fusion).language_model, LoraConfig(target_modules=["q_proj"])
    )
    for name, parameter in base.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    before = base(**left_padded()).logits
    config = VLMIGConfig(text_config=base.config, vision_width=12, vision_patches=5, fusion_heads=4)
    wrapped = VLMIGForCausalLM(config, base.base_model.model)
    assert torch.equal(wrapped(**left_padded()).logits, before)


@torch.no_grad()
def test_resized_vocabulary(model: Any) -> None:
    before = model(**left_padded(), visual_features=pictures(1)).logits
    model.resize_token_embeddings(120, mean_resizing=False)
    after = model(**left_padded(), visual_features=pictures(1)).logits
    assert after.shape[-1] == 120
    # Old words keep their odds against each other; new ones take some of the probability.
    assert torch.allclose(after[..., :97].log_softmax(-1), before, atol=SAME)


def test_settings_reach_the_base_lm(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = VLMIGForCausalLM.from_pretrained(
        saved, dtype=torch.bfloat16, attn_implementation="eager", device_map="cpu", mix="logit"
    )
    assert loaded.language_model.dtype == loaded.projector.layers[0].weight.dtype == torch.bfloat16
    assert loaded.language_model.config._attn_implementation == "eager"
    assert loaded.config.mix == "logit"
    asked: dict[str, Any] = {}

    def load(name: str, **settings: Any) -> Any:
        asked.update(settings)
        raise OSError("no quantizer here")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(VLMIGError, match="no quantizer here"):
        VLMIGForCausalLM.from_pretrained(saved, quantization_config="eight bits")
    assert asked["quantization_config"] == "eight bits"


def test_pushed_to_a_hub_and_loaded_again(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local folder acts as the hub."""

    def upload(api: Any, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        shutil.copytree(folder_path, tmp_path / repo_id)
        return f"hub/{repo_id}"

    monkeypatch.setattr(
        "huggingface_hub.HfApi.create_repo", lambda api, name, **_: SimpleNamespace(repo_id=name)
    )
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    assert model.push_to_hub("lab/visual-llama", save_base=True) == "hub/lab/visual-llama"
    pushed = tmp_path / "lab" / "visual-llama"
    card = (pushed / "README.md").read_text()
    assert "library_name: vlmig" in card and model.config.fusion in card and "untrained" in card
    assert str(tmp_path) not in card + (pushed / "config.json").read_text()
    loaded = VLMIGForCausalLM.from_pretrained(pushed)
    with torch.no_grad():
        expected = model(**left_padded(), visual_features=pictures()).logits
        found = aligned(loaded)(**left_padded(), visual_features=pictures()).logits
        assert torch.equal(found, expected)


def test_the_pushed_checkpoint_brings_its_parts(tiny: VLMIG, parts: Path, tmp_path: Path) -> None:
    """Parts inside the checkpoint travel with it, and the tokenizer with its LM."""
    expected = tiny.loglikelihood([("A cat is", " red")], k=2)
    for field, name in (
        ("language_model", "language_model"),
        ("vision_encoder", "vision_encoder"),
        ("imaginer", "generator"),
    ):
        setattr(tiny.config, field, f"./{name}")
    tiny.config.name_or_path = str(parts)
    tiny.model.save_pretrained(tmp_path / "copy")
    again = VLMIG.from_pretrained(tmp_path / "copy", store=tmp_path / "store")
    assert again.loglikelihood([("A cat is", " red")], k=2) == expected
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "copy" / "language_model").eos_token
        == "<|endoftext|>"
    )


@torch.no_grad()
def peak_memory(run: Callable[[], Any]) -> int:
    """Return the largest number of bytes that tensors made by ``run`` hold at one time."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


@torch.no_grad()
def test_the_lm_runs_once_and_the_head_sees_no_visual_position(model: Any) -> None:
    lm_calls, head_rows = [], []
    model.trunk.register_forward_hook(lambda *_: lm_calls.append(1))
    model.get_output_embeddings().register_forward_hook(
        lambda _, args, __: head_rows.append(args[0].numel() // 32)
    )
    for k in (1, 4, 10):
        lm_calls.clear(), head_rows.clear()
        model(**left_padded(), visual_features=pictures(k))
        assert len(lm_calls) == 1
        assert sum(head_rows) == 2 * 7 * (
            k + 1
        )  # text positions, alone and beside each image; never an image's own


@pytest.mark.parametrize("mix", ["prob", "evidence"])
def test_ten_images_need_little_more_memory_than_text_alone(model: Any, mix: str) -> None:
    base = model.language_model
    base.resize_token_embeddings(128_000, mean_resizing=False)
    shape = {"vision_width": 12, "vision_patches": 49, "fusion_heads": 4}
    model = VLMIGForCausalLM(
        VLMIGConfig(text_config=base.config, mix=mix, fusion=model.config.fusion, **shape), base
    ).eval()
    ids, features = torch.randint(3, 128_000, (1, 64)), torch.randn(1, 10, 49, 12)
    alone = peak_memory(lambda: model(ids))
    assert (
        alone > 64 * 128_000 * 4
    )  # the logits; the model's weights are not counted on either side
    # (K, T, V) would be ten times as much; what the images add is a few rows of the vocabulary at
    # a time.
    assert peak_memory(lambda: model(ids, visual_features=features)) < 1.5 * alone + features.nbytes


def test_wrong_use_is_one_clear_line(model: Any, saved: Path, parts: Path, tmp_path: Path) -> None:
    names = {"vision": str(parts / "vision_encoder"), "generator": str(parts / "generator")}
    T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(
        VLMIGError,
        match="t5 is an encoder-decoder LM; expected a causal or a masked one, such as gpt2",
    ):
        VLMIG.from_base(str(tmp_path / "t5"), **names)
    with pytest.raises(
        VLMIGError,
        match=r"cannot load the language model lab/gated: .*hf auth login.*gpt2 is not gated",
    ):
        VLMIG.from_base("lab/gated", **names)
    described = VLMIGConfig.from_pretrained(saved)
    described.vision_width = 13
    with pytest.raises(VLMIGError, match=r"adapter weight .* has shape .*, the config asks for .*"):
        VLMIGForCausalLM.from_pretrained(saved, config=described)
    for weights in (torch.ones(2, 5), torch.ones(3), torch.ones(1, 3)):
        with pytest.raises(
            VLMIGError, match=r"image_weights of shape .*; expected one per image, \(2, 3\)"
        ):
            model(**left_padded(), visual_features=pictures(), image_weights=weights)
    with pytest.raises(
        VLMIGError, match=r"attention_mask of shape \(2, 1, 7, 7\) with images; expected \(B, S\)"
    ):
        four = torch.ones(2, 1, 7, 7, dtype=torch.bool).tril()
        model(left_padded()["input_ids"], attention_mask=four, visual_features=pictures())
    with (
        torch.no_grad(),
        pytest.raises(VLMIGError, match="a cache of 8 tokens, 1 of them read with images"),
    ):
        cache = text_cache(model(left_padded()["input_ids"], use_cache=True))
        model(
            left_padded()["input_ids"][:, :1], visual_features=pictures(), **cache_argument(cache)
        )
    for features in (pictures()[0], pictures()[:1], pictures()[:, :, 1:], pictures()[..., 1:]):
        with pytest.raises(
            VLMIGError, match=r"expected \(prompts, images, patches, width\) = \(2, K, 5, 12\)"
        ):
            model(**left_padded(), visual_features=features)
