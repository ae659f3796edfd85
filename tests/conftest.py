"""Tiny real components: real classes, tiny configurations, random weights, saved in the standard
formats."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it: tests never ask a hub

import numpy as np
import pytest
import torch
import yaml
from benchmark_files import FILES, GENOME
from chat_endpoint import Endpoint, endpoints, write_genome
from data_files import noise
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from vlmig import VLMIG

CONTEXT = 77
WORDS = "[PAD] [CLS] [SEP] [MASK] [UNK] question : answer a cat is dark red blue green the color of what ? . s ##ea ##t".split()


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep tests out of the user's store."""
    os.environ["VLMIG_STORE"] = str(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``language_model``, ``vision_encoder`` and ``generator``, each loadable by its
    own library."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    save_language_model(folder / "language_model")
    save_vision_encoder(folder / "vision_encoder")
    save_generator(folder / "generator")
    return folder


def byte_vocabulary() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def save_language_model(folder: Path) -> None:
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *byte_vocabulary()])}
    merges = [("Ġ", "r"), ("e", "d")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    bpe = Tokenizer(models.BPE(vocabulary, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=end, eos_token=end, pad_token=end
    ).save_pretrained(folder)
    config = GPT2Config(vocab_size=len(vocabulary), n_positions=96, n_embd=32, n_layer=2, n_head=2)
    config.bos_token_id = config.eos_token_id = 0
    # Small random weights give near-uniform predictions; larger ones make differences visible.
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():
        parameter.data.mul_(4.0)
    model.save_pretrained(folder)


def save_vision_encoder(folder: Path) -> None:
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "patch_size": 8,
            "layers": 2,
            "width": 24,
            "head_width": 12,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    folder.mkdir()
    model = CLIP(**config)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )


def save_generator(folder: Path) -> None:
    vocabulary = {
        token: i
        for i, token in enumerate([*byte_vocabulary(), *(t + "</w>" for t in byte_vocabulary())])
    }
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[token] = len(vocabulary)
    folder.mkdir()
    (folder / "v.json").write_text(json.dumps(vocabulary))
    (folder / "m.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "v.json"), str(folder / "m.txt"), model_max_length=CONTEXT
    )
    text = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(4, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=2,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            block_out_channels=(4, 8),
            layers_per_block=1,
            sample_size=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            norm_num_groups=2,
        ),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    words = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
        "unk_token": "[UNK]",
    }
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    model = BertForMaskedLM(BertConfig(vocab_size=len(WORDS), max_position_embeddings=96, **shape))
    for parameter in model.parameters():
        parameter.data.mul_(4.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture()
def tiny(parts: Path, tmp_path: Path) -> VLMIG:
    """A predictor on the tiny parts whose gates are open, so that pictures matter; marked as
    trained."""
    torch.manual_seed(1)
    model = VLMIG.from_base(
        str(parts / "language_model"),
        vision=str(parts / "vision_encoder"),
        generator=str(parts / "generator"),
        store=tmp_path / "store",
        fusion_heads=4,
        imaginer_size=32,
        imaginer_steps=2,
    )
    open_gates(model)
    return model


def aligned(model: Any) -> Any:
    """Make a loaded model's weights like a built one's, whose products a CPU rounds alike: in
    memory of their own (in a file they may lie unaligned), and training (where they are frozen,
    torch 2.8's matmul multiplies row by row)."""
    for weight in model.parameters():
        weight.data = weight.data.clone()
    return model.requires_grad_(True)


def open_gates(model: VLMIG) -> None:
    """Let the pictures in, as training would."""
    for gate in (model.model.fusion.attention_gate, model.model.fusion.feed_gate):
        torch.nn.init.constant_(gate, 1.0)
    model.config.trained = True


@pytest.fixture()
def checkpoint(tiny: VLMIG, tmp_path: Path) -> Path:
    """A folder that another process can load."""
    tiny.model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="session")
def colored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``pairs.jsonl``: 48 plain pictures in noise, each with a caption that says its
    colour."""
    folder = tmp_path_factory.mktemp("colored")
    rng = np.random.default_rng(0)
    lines = []
    for i in range(48):
        pixels = rng.integers(0, 60, (40, 40, 3), dtype=np.uint8)
        pixels[..., i % 3] += 150
        Image.fromarray(pixels).save(folder / f"{i}.png")
        caption = (
            f"the color of a cat is {('red', 'green', 'blue')[i % 3]} ."
            + " what ? a ?"[: 3 * (i % 4)]
        )
        lines.append(json.dumps({"image": f"{i}.png", "caption": caption}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture()
def recipe(parts: Path, colored: Path, tmp_path: Path) -> Path:
    """A recipe that trains on them around the tiny parts."""
    settings = {
        "model": {
            "language_model": str(parts / "language_model"),
            "vision": str(parts / "vision_encoder"),
            "generator": str(parts / "generator"),
            "fusion_heads": 4,
            "imaginer_size": 32,
            "imaginer_steps": 2,
        },
        "seed": 3,
        "validation": {"share": 0.25, "every": 10, "samples": 8},
        "stages": [
            {
                "name": "colors",
                "data": [{"path": str(colored / "pairs.jsonl")}],
                "steps": 20,
                "batch": 8,
                "learning_rate": 3e-3,
            }
        ],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a tiny file for every task."""
    folder = tmp_path_factory.mktemp("data")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "visual_genome/VG_100K").mkdir()
    for number in GENOME:
        noise(number).save(folder / f"visual_genome/VG_100K/{number}.jpg", quality=95)
    return folder


@pytest.fixture()
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture()
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Endpoint]]:
    """Starts servers that speak OpenAI's protocol."""
    with endpoints(monkeypatch) as start:
        yield start


@pytest.fixture(scope="session")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Visual Genome."""
    return write_genome(tmp_path_factory.mktemp("genome"))
