"""Importing LLaVA from transformers' own format: the checkpoint predicts what
LlavaForConditionalGeneration predicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import byte_vocabulary
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoConfig,
    BitImageProcessor,
    CLIPImageProcessor,
    GPT2Tokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    SiglipImageProcessor,
)

from vlmig import VLMIG
from vlmig.cli.main import main
from vlmig.vision import VisionEncoder, as_tensor

# The same fp32 weights, and sums in another order: one batch of pictures there, filled-up batches
# here.
SAME = 1e-5
# The encoder's features are kept in half precision: 11 bits of numbers around 1, through the
# projector and two layers.
HALF = 5e-3
PLACE, VOCABULARY, SIDE, PATCH = 259, 262, 28, 14
PATCHES = (SIDE // PATCH) ** 2
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SEEN = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
GROUPED = {
    **TEXT,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROUPED |= {"num_key_value_heads": 2, "max_position_embeddings": 256}
TEXTS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "qwen2": {**GROUPED, "tie_word_embeddings": True},
    "gpt2": {
        **TEXT,
        "n_embd": 48,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
        "tie_word_embeddings": False,
    },
}
CROPPED = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
TOWERS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "clip_vision_model": (
        {**SEEN, "intermediate_size": 64},
        CLIPImageProcessor(**CROPPED),
        "default",
    ),
    "siglip_vision_model": (
        {**SEEN, "intermediate_size": 64},
        SiglipImageProcessor(size={"height": SIDE, "width": SIDE}),
        "full",
    ),
    "dinov2": ({**SEEN, "mlp_ratio": 2}, BitImageProcessor(**CROPPED), "default"),
}
KINDS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama_clip": ("llama", "clip_vision_model", {}, {}),
    "qwen2_tied_siglip": ("qwen2", "siglip_vision_model", {}, {}),
    "gpt2_untied_clip_linear": (
        "gpt2",
        "clip_vision_model",
        {},
        {"projector_hidden_act": "linear"},
    ),
    "llama_siglip_headless_third_layer": (
        "llama",
        "siglip_vision_model",
        {"vision_use_head": False},
        {"vision_feature_layer": 2, "multimodal_projector_bias": False},
    ),
    "qwen2_dinov2_last_layer": ("qwen2", "dinov2", {}, {"vision_feature_layer": -1}),
}


def save_llava(
    folder: Path, text: str, tower: str, seen: dict[str, Any], fields: dict[str, Any]
) -> None:
    """Save a random LLaVA with processor and tokenizer, its weights large enough that pictures
    matter."""
    torch.manual_seed(0)
    described, images, strategy = TOWERS[tower]
    settings = {
        "vision_feature_select_strategy": strategy,
        "image_token_index": PLACE,
        "image_seq_length": PATCHES,
    }
    config = LlavaConfig(
        vision_config=AutoConfig.for_model(tower, **described | seen),
        text_config=AutoConfig.for_model(text, **TEXTS[text]),
        **settings | fields,
    )
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(3.0)
    model.save_pretrained(folder)
    processor = LlavaProcessor(
        images,
        tokenizer_of(text),
        patch_size=PATCH,
        vision_feature_select_strategy=settings["vision_feature_select_strategy"],
        num_additional_image_tokens=int(strategy == "default"),
        chat_template="{% for m in messages %}USER: {{ m['content'] }} {% endfor %}ASSISTANT:",
    )
    processor.save_pretrained(folder)


def tokenizer_of(text: str) -> Any:
    """Make a tokenizer of bytes, of the class that transformers wants beside such a language
    model."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *byte_vocabulary()])}
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "padding_side": "left"}
    if text == "llama":
        bpe = Tokenizer(models.BPE(vocabulary, []))
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **names)
    else:
        tokenizer = {"gpt2": GPT2Tokenizer, "qwen2": Qwen2Tokenizer}[text](
            vocab=vocabulary, merges=[], unk_token="<pad>", **names
        )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<image>", normalized=False, special=True)]}
    )
    assert tokenizer.convert_tokens_to_ids("<image>") == PLACE
    return tokenizer


@pytest.fixture(scope="module", params=KINDS)
def both(
    request: pytest.FixtureRequest, parts: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, VLMIG]:
    """A LLaVA as transformers loads it, and as it is here."""
    folder = tmp_path_factory.mktemp("llava")
    save_llava(folder / "theirs", *KINDS[request.param])
    assert converted(folder / "theirs", parts, folder / "ours") == 0
    ours = VLMIG.from_pretrained(folder / "ours", store=folder / "store")
    return LlavaForConditionalGeneration.from_pretrained(folder / "theirs").eval(), ours


def converted(source: Path, parts: Path, out: Path, *more: str) -> int:
    return main(
        ["convert", str(source), "--generator", str(parts / "generator"), "--out", str(out), *more]
    )


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (30 + 9 * i, 44, 3), dtype=np.uint8))
        for i in range(count)
    ]


ROWS = [
    [1, 5, *[PLACE] * PATCHES, *[PLACE] * PATCHES, 6, 7],  # two in a row
    [1, 8, 9, 10, *[PLACE] * PATCHES],  # one at the end
    [1, 11, 12],  # none
    [*[PLACE] * PATCHES, 13, 14],
]
COUNTS = [2, 1, 0, 1]


def batch(rows: list[list[int]]) -> dict[str, Tensor]:
    length = max(map(len, rows))
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp_min(0),
    }


def shown(features: Tensor) -> Tensor:
    """Give each row its pictures in reading order, filled up with zeros: (n, P, C) -> (B, M, P,
    C)."""
    rows = torch.zeros(len(COUNTS), max(COUNTS), *features.shape[1:])
    for row, count, own in zip(rows, COUNTS, features.split(COUNTS), strict=True):
        row[:count] = own
    return rows


@torch.no_grad()
def test_logits_are_the_originals(both: tuple[Any, VLMIG]) -> None:
    theirs, ours = both
    encoder = VisionEncoder(ours.folder / "vision_encoder", ours.config.vision_layer)
    pixels = encoder.tower.prepare([as_tensor(picture) for picture in pictures(sum(COUNTS))])
    expected = theirs(**batch(ROWS), pixel_values=pixels).logits
    precise = shown(encoder.tower.encode_images(pixels, encoder.layer)[0])
    stored = shown(encoder.encode(pictures(sum(COUNTS)))[0].float())
    real = batch(ROWS)["attention_mask"].bool()
    for features, tolerance in ((precise, SAME), (stored, HALF)):
        logits = ours.model(**batch(ROWS), shown_features=features).logits
        assert (logits - expected)[real].abs().max() < tolerance
    for i, (row, count) in enumerate(
        zip(ROWS, COUNTS, strict=True)
    ):  # each by itself, by them and by us
        start, ids = sum(COUNTS[:i]), torch.tensor([row])
        own = theirs(
            input_ids=ids, pixel_values=pixels[start : start + count] if count else None
        ).logits
        alone = ours.model(input_ids=ids, shown_features=precise[i : i + 1, :count]).logits
        assert (alone - own).abs().max() < SAME
    swapped = ours.model(
        **batch(ROWS), shown_features=precise.flip(0)[:, [1, 0]][[3, 2, 1, 0]]
    ).logits
    assert (swapped - expected)[0].abs().max() > 10 * HALF, "pictures say too little to compare by"


@torch.no_grad()
def test_generation_and_pixels_are_the_originals(both: tuple[Any, VLMIG]) -> None:
    """Their processor and their generate, beside our encoder and ours."""
    theirs, ours = both
    source = ours.folder.parent / "theirs"
    processor = LlavaProcessor.from_pretrained(source)
    texts, seen = ["a cat <image> is red", "<image> the color <image> ?"], pictures(3)
    inputs = processor(text=texts, images=[seen[:1], seen[1:]], padding=True, return_tensors="pt")
    settings: dict[str, Any] = {
        "max_new_tokens": 5,
        "min_new_tokens": 5,
        "do_sample": False,
        "pad_token_id": 0,
    }
    expected = theirs.generate(
        **inputs, **settings, suppress_tokens=[PLACE]
    )  # ours never writes one
    encoder = VisionEncoder(ours.folder / "vision_encoder", ours.config.vision_layer)
    pixels = torch.cat([encoder.tower.prepare([as_tensor(picture)]) for picture in seen])
    assert torch.allclose(pixels, inputs["pixel_values"], atol=1e-6)
    features = encoder.tower.encode_images(pixels, encoder.layer)[0]
    filled = torch.stack([torch.stack([features[0], torch.zeros_like(features[0])]), features[1:]])
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(ours.model.generate(**text, shown_features=filled, **settings), expected)
    ids = ours.tokenizer(texts[0].replace("<image>", "<image>" * PATCHES)).input_ids
    assert ids == inputs["input_ids"][0][inputs["attention_mask"][0] == 1].tolist()


@torch.no_grad()
def test_asking_about_pictures_gives_the_originals_probabilities(both: tuple[Any, VLMIG]) -> None:
    """From a picture to the answers' log-likelihoods, all of it ours; features in half precision,
    as they are stored."""
    theirs, ours = both
    processor = LlavaProcessor.from_pretrained(ours.folder.parent / "theirs")
    text, answers, seen = "a cat <image> <image> is", [" red", " dark blue", " a"], pictures(2)
    scored = ours.score([text], [answers], ours.look([seen], [text], 0), verbatim=True)[0].text
    for answer, found in zip(answers, scored, strict=True):
        inputs = processor(text=text + answer, images=[seen], return_tensors="pt")
        ids, length = inputs["input_ids"][0], len(ours.tokenizer(answer).input_ids)
        log_probs = theirs(**inputs).logits[0].log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]
        assert found == pytest.approx(log_probs[-length:].sum().item(), abs=HALF)
    asked = ours.ask("the color of a cat ?", [" red", " blue"], images=seen)
    assert asked.answer and len(asked.shown) == 2 and asked.text_only != asked.probabilities


def test_what_is_written(both: tuple[Any, VLMIG]) -> None:
    theirs, ours = both
    config, folder = ours.config, ours.folder
    assert (config.fusion, config.mix, config.weights, config.trained) == (
        "prefix",
        "prob",
        "uniform",
        True,
    )
    assert (config.image_token_id, config.chat_template, config.visual_tokens) == (
        PLACE,
        "vicuna",
        PATCHES,
    )
    assert {"language_model", "vision_encoder", "config.json", "model.safetensors"} <= {
        p.name for p in folder.iterdir()
    }
    assert set(load_file(folder / "model.safetensors")) == set(ours.model.adapter_state())
    assert "Early fusion: a projector" in (folder / "README.md").read_text()
    tied = theirs.config.text_config.tie_word_embeddings
    assert (
        json.loads((folder / "language_model/config.json").read_text())["tie_word_embeddings"]
        is tied
    )
    assert ("lm_head.weight" in load_file(folder / "language_model/model.safetensors")) is not tied
    assert str(folder.parent) not in (folder / "config.json").read_text().replace(
        config.imaginer, ""
    )


def test_half_precision_stays(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_llava(tmp_path / "theirs", *KINDS["llama_clip"])
    LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "theirs", dtype=torch.float16
    ).save_pretrained(tmp_path / "theirs")
    assert converted(tmp_path / "theirs", parts, tmp_path / "ours") == 0
    said = capsys.readouterr().out
    assert (
        "language model: llama" in said
        and "float16" in said
        and "4 visual tokens per image" in said
    )
    base = load_file(tmp_path / "ours/language_model/model.safetensors")
    assert {value.dtype for value in base.values()} == {torch.float16}
    assert (
        VLMIG.from_pretrained(
            tmp_path / "ours", store=tmp_path / "store", dtype="float16"
        ).model.dtype
        == torch.float16
    )


def test_names_of_older_files(parts: Path, tmp_path: Path) -> None:
    """They have one more part in the names of the tower's weights."""
    save_llava(tmp_path / "theirs", *KINDS["llama_clip"])
    assert converted(tmp_path / "theirs", parts, tmp_path / "new") == 0
    weights = load_file(tmp_path / "theirs/model.safetensors")
    older = {
        name.replace("vision_tower.", "vision_tower.vision_model."): value
        for name, value in weights.items()
    }
    assert older.keys() != weights.keys()
    save_file(older, tmp_path / "theirs/model.safetensors", metadata={"format": "pt"})
    assert converted(tmp_path / "theirs", parts, tmp_path / "old") == 0
    for part in ("vision_encoder", "language_model"):
        new, old = (
            load_file(tmp_path / name / part / "model.safetensors") for name in ("new", "old")
        )
        assert new.keys() == old.keys() and all(torch.equal(new[name], old[name]) for name in new)


def test_an_image_token_of_another_name(parts: Path, tmp_path: Path) -> None:
    """Our mark gets an id of its own; which one holds a place says nothing to the model."""
    save_llava(tmp_path / "theirs", *KINDS["llama_clip"])
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        path = tmp_path / "theirs" / name
        path.write_text(path.read_text().replace("<image>", "<picture>"))
    assert converted(tmp_path / "theirs", parts, tmp_path / "ours") == 0
    ours = VLMIG.from_pretrained(tmp_path / "ours", store=tmp_path / "store")
    assert ours.tokenizer("a <image>").input_ids[-1] == ours.config.image_token_id != PLACE


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("llama_clip", {"vision_feature_layer": [-2, -1]}, "vision_feature_layer=[-2, -1]"),
        (
            "llama_clip",
            {"vision_feature_select_strategy": "full"},
            "'full' makes 5 visual tokens of 4 patches",
        ),
        (
            "qwen2_tied_siglip",
            {"vision_feature_select_strategy": "default"},
            "'default' makes 3 visual tokens of 4",
        ),
        ("llama_clip", {"projector_hidden_act": "relu"}, "projector_hidden_act='relu'"),
    ],
)
def test_what_early_fusion_has_not_is_refused(
    parts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    fields: dict[str, Any],
    message: str,
) -> None:
    text, tower, seen, own = KINDS[kind]
    save_llava(tmp_path / "theirs", text, tower, seen, own | fields)
    capsys.readouterr()
    assert converted(tmp_path / "theirs", parts, tmp_path / "ours") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "ours").exists()


def test_folders_that_are_no_llava(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_llava(tmp_path / "theirs", *KINDS["llama_clip"])
    capsys.readouterr()
    config = json.loads((tmp_path / "theirs/config.json").read_text())
    for change, more, message in (
        ({}, ["--vision", "ViT-B-32/openai"], "a LLaVA has its own"),
        ({"model_type": "llava_next"}, [], "has model_type 'llava_next'; expected 'llava'"),
        ({"model_type": "gpt2"}, [], "no --language-model for"),
    ):
        (tmp_path / "theirs/config.json").write_text(json.dumps(config | change))
        assert converted(tmp_path / "theirs", parts, tmp_path / "ours", *more) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    (tmp_path / "theirs/config.json").write_text(json.dumps(config))
    (tmp_path / "theirs/preprocessor_config.json").unlink(missing_ok=True)
    (tmp_path / "theirs/processor_config.json").unlink()
    assert converted(tmp_path / "theirs", parts, tmp_path / "ours") == 2
    assert "no image processor at" in capsys.readouterr().err
    weights = load_file(tmp_path / "theirs/model.safetensors")
    weights = {name: value for name, value in weights.items() if "linear_2" not in name}
    save_file(weights, tmp_path / "theirs/model.safetensors", metadata={"format": "pt"})
    assert converted(tmp_path / "theirs", parts, tmp_path / "ours") == 2
    assert "lacks 2 weights" in capsys.readouterr().err
