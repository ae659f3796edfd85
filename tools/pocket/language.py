"""The pocket language model: a small GPT-2 with a byte-level BPE, trained on text with reporting
bias."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tools.pocket.fitting import fit_alone
from vlmig.pocket.size_text import size_corpus
from vlmig.pocket.text import CORPUS_SEED, SENTENCES, language_corpus
from vlmig.runtime import cpu_autocast

logger = logging.getLogger(__name__)
END = "<|endoftext|>"


def train_language_model(
    out: Path, work: Path, *, steps: int, batch: int, size_sentences: int = 0
) -> None:
    """Train tokenizer and GPT-2 on the corpus and save both in transformers format, weights in half
    precision.

    Args:
        size_sentences: sentences of ``size_corpus`` beside it.
    """
    corpus = language_corpus(CORPUS_SEED, SENTENCES) + size_corpus(CORPUS_SEED, size_sentences)
    tokenizer = build_tokenizer(corpus)
    torch.manual_seed(6)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=192,
        n_embd=192,
        n_layer=4,
        n_head=6,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((7, step))
        rows = tokenizer(
            [corpus[i] + END for i in rng.integers(0, len(corpus), batch)],
            padding=True,
            return_tensors="pt",
        )
        labels = rows.input_ids.masked_fill(rows.attention_mask == 0, -100)
        with cpu_autocast():
            return model(**rows, labels=labels).loss

    model.train()
    fit_alone(
        model, loss_at, work / "language", steps=steps, learning_rate=1.5e-3, weight_decay=0.05
    )
    model.eval().half().save_pretrained(out)
    tokenizer.save_pretrained(out)


def build_tokenizer(corpus: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of at most 3,600 entries; ``<|endoftext|>`` begins every text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, 0)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=3600, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=192,
        padding_side="right",
    )
