"""Captions of the pocket world's images, and the tokenizer that reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer

from tools.pocket.groups import GROUPS, draw_group_caption
from vlmig.pocket.concepts import Concept, load_concepts
from vlmig.pocket.text import picture_captions

MAX_TOKENS = 24


def draw_caption(concept: Concept, rng: np.random.Generator) -> str:
    """Draw a caption; the bare name is as frequent as all other phrasings together."""
    captions = picture_captions(concept)
    names = len(concept.names)
    return captions[rng.integers(0, names if rng.random() < 0.5 else len(captions))]


def all_captions(groups: bool) -> list[str]:
    """Return every caption of single things, and one of each scene of ``groups`` if asked for."""
    captions = [text for concept in load_concepts() for text in picture_captions(concept)]
    if groups:
        rng = np.random.default_rng(53)
        captions += [draw_group_caption(number, rng) for number in range(GROUPS)]
    return captions


def build_tokenizer(folder: Path, groups: bool = False) -> CLIPTokenizer:
    """Train a byte-level BPE in CLIP's format on the captions, or load that of an interrupted run.

    The trainer numbers equally frequent tokens differently in every process.
    """
    if (folder / "tokenizer.json").exists():
        return CLIPTokenizer.from_pretrained(folder)
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|startoftext|>", "<|endoftext|>"]
    bpe.train_from_iterator(
        all_captions(groups),
        trainers.BpeTrainer(
            vocab_size=2600,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    learned = json.loads(bpe.to_str())["model"]
    vocab = dict(learned["vocab"])
    for token in [*sorted(c + "</w>" for c in alphabet if c + "</w>" not in vocab), *specials]:
        vocab.setdefault(token, len(vocab))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    merges = [m if isinstance(m, str) else " ".join(m) for m in learned["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS
    ).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Turn captions into padded ids, (B, MAX_TOKENS)."""
    return tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
