"""Tokens at the edge: what our models read and score of a context and its continuation, beside
what lm-eval's own model reads and scores, by kind of tokenizer."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from conftest import WORDS, byte_vocabulary
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vlmig import VLMIGError
from vlmig.processing.pairs import TextTokenizer, score_requests

LIMIT = 24
"""Positions of the tiny LM."""
Row = tuple[list[int], list[int]]
"""What the LM reads, and what is scored at its end."""


def finished(tokenizer: Tokenizer, frame: str, bos: str, eos: str, **names: str) -> Any:
    """A tokenizer that writes ``frame`` ($A is the text)."""
    tokenizer.add_special_tokens([bos, eos])
    special = [(token, tokenizer.token_to_id(token)) for token in (bos, eos)]
    if frame != "$A":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=frame, special_tokens=special
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, **names
    )


def byte_level(frame: str, bos: str, eos: str) -> Any:
    """As GPT-2's and Llama-3's: bytes and merges, a space belongs to the word behind it."""
    vocabulary = {token: i for i, token in enumerate(byte_vocabulary())}
    merges = [("Ġ", "r"), ("e", "d"), ("Ġr", "ed"), ("Ġ", "c"), ("a", "t"), ("s", "e")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return finished(tokenizer, frame, bos, eos)


def sentencepiece(frame: str) -> Any:
    """As T5's, Llama-2's and Gemma's: pieces, a space before every text."""
    pieces = ["▁red", "▁re", "d", "▁cat", "▁The", "▁is", "▁", "se", "\n", "r", "e", "a"]
    scores = [("<unk>", 0.0), *((piece, -1.0 - i / 10) for i, piece in enumerate(pieces))]
    tokenizer = Tokenizer(models.Unigram(scores, 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return finished(tokenizer, frame, "<s>", "</s>", unk_token="<unk>")


def wordpiece(frame: str) -> Any:
    """As BERT's: spaces are no tokens."""
    vocabulary = {word: i for i, word in enumerate([*WORDS, "The", "\n"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return finished(tokenizer, frame, "[CLS]", "[SEP]", unk_token="[UNK]")


KINDS = {
    "gpt2": byte_level("$A", "<|endoftext|>", "<|endoftext|>"),
    "llama3": byte_level("<|begin|> $A", "<|begin|>", "<|end|>"),
    "llama2": sentencepiece("<s> $A"),
    "sentencepiece": sentencepiece("$A"),
    "wordpiece": wordpiece("[CLS] $A"),
}
APPENDING = {
    "llama3": byte_level("<|begin|> $A <|end|>", "<|begin|>", "<|end|>"),
    "llama2": sentencepiece("<s> $A </s>"),
    "sentencepiece": sentencepiece("$A </s>"),
    "wordpiece": wordpiece("[CLS] $A [SEP]"),
}
"""The same, but they write an EOS behind every text."""
PAIRS = [
    ("The cat is", " red"),
    ("The cat is ", "red"),
    ("The cat is  ", "red"),
    ("The cat is ", " red"),
    ("The cat is\n", "red cat"),
    ("", "red cat"),
    ("", " red"),
    ("BOS", "red"),
    ("BOSThe cat is", " red"),
    ("BOSThe cat is ", "red"),
    ("", "BOSred cat"),
    ("BOS BOSThe cat is", " red"),  # a user's own two: as written
]
LONG = [("The cat is" + " red cat" * 20, " red cat"), ("red " * LIMIT + "cat", " red" * 3)]


@pytest.fixture(scope="module")
def hflms() -> dict[str, HFLM]:
    """lm-eval's own model of a tiny LM with each tokenizer."""
    found = {}
    for name, tokenizer in KINDS.items():
        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=LIMIT, n_embd=8, n_layer=1, n_head=1
        )
        found[name] = HFLM(GPT2LMHeadModel(config), tokenizer=tokenizer, batch_size=1, device="cpu")
    return found


def theirs(model: HFLM, context: str, continuation: str) -> Row:
    """What lm-eval's own model reads and scores: its LM's input, and its continuation's ids."""
    read, scored = [], []
    call, tokens = model._model_call, model._loglikelihood_tokens

    def seen(inputs: torch.Tensor, **settings: Any) -> torch.Tensor:
        read.append(inputs[0].tolist())
        return call(inputs, **settings)

    def asked(requests: list, **settings: Any) -> list:
        scored.append(requests[0][2])
        return tokens(requests, **settings)

    model._model_call, model._loglikelihood_tokens = seen, asked  # type: ignore[method-assign]
    try:
        pair = (context, continuation)
        model.loglikelihood([Instance("loglikelihood", {}, pair, 0)], disable_tqdm=True)
    finally:
        del model._model_call, model._loglikelihood_tokens
    return read[0], scored[0]


def ours(tokenizer: Any, context: str, continuation: str) -> Row:
    (request,) = score_requests(TextTokenizer(tokenizer), [context], [[continuation]], [LIMIT])
    return request.ids, request.targets[0][1]


def written(tokenizer: Any, pair: tuple[str, str]) -> list[str]:
    return [text.replace("BOS", tokenizer.bos_token) for text in pair]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", KINDS)
def test_the_same_tokens_as_lm_evals_own_model(
    hflms: dict[str, HFLM], name: str, pair: tuple[str, str]
) -> None:
    texts = written(KINDS[name], pair)
    expected = theirs(hflms[name], *texts)
    assert ours(KINDS[name], *texts) == expected
    assert len(expected[1]) <= len(expected[0]) < LIMIT, "nothing was cut"


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", APPENDING)
def test_an_eos_that_a_tokenizer_appends_is_not_there(name: str, pair: tuple[str, str]) -> None:
    """lm-eval's own model scores it, and loses the first token for it: so we compare with the same
    tokenizer without it."""
    texts = written(KINDS[name], pair)
    assert APPENDING[name]("red").input_ids[-1] == APPENDING[name].eos_token_id
    assert ours(APPENDING[name], *texts) == ours(KINDS[name], *texts)
    reader, other = TextTokenizer(APPENDING[name]), TextTokenizer(KINDS[name])
    assert reader.text(texts[0]) == other.text(texts[0]), "a text to continue has none either"


@pytest.mark.parametrize("pair", LONG)
@pytest.mark.parametrize("name", KINDS)
def test_long_texts_are_cut_as_long_as_lm_evals_but_keep_their_beginning(
    hflms: dict[str, HFLM], name: str, pair: tuple[str, str]
) -> None:
    tokenizer = KINDS[name]
    read, scored = ours(tokenizer, *pair)
    their_read, their_scored = theirs(hflms[name], *pair)
    assert scored == their_scored and len(read) == len(their_read) == LIMIT
    begin = tokenizer("").input_ids
    assert read == begin + their_read[len(begin) :]


def test_where_lm_evals_own_model_is_no_guide(hflms: dict[str, HFLM]) -> None:
    """What docs/evaluation.md says of it, so that we notice when it changes."""
    with pytest.raises(AssertionError):  # nothing is left of a continuation across the join
        theirs(hflms["gpt2"], "The r", "ed")
    tokenizer = APPENDING["llama2"]
    model = HFLM(hflms["llama2"].model, tokenizer=tokenizer, batch_size=1, device="cpu")
    assert theirs(model, "The cat", " red")[1] == [tokenizer.eos_token_id]
    rolled = hflms["llama3"].tok_encode("red")  # all of which it predicts, after BOS
    assert rolled[0] == KINDS["llama3"].bos_token_id == hflms["llama3"].prefix_token_id


@pytest.mark.parametrize("name", ["gpt2", "llama3"])
def test_no_token_is_lost_where_the_join_is_inside_one(name: str) -> None:
    tokenizer, begin = KINDS[name], KINDS[name]("").input_ids
    for context, continuation in (("The c", "at"), ("The r", "ed"), ("The red", "s")):
        read, scored = ours(tokenizer, context, continuation)
        assert [*read, scored[-1]] == tokenizer(context + continuation).input_ids
        assert tokenizer.decode(scored).endswith(continuation)
    assert ours(tokenizer, "The r", "ed")[1] == tokenizer(" red").input_ids[len(begin) :]


def test_what_has_nothing_to_score_or_to_begin_with_is_refused() -> None:
    reader = TextTokenizer(KINDS["wordpiece"])
    with pytest.raises(VLMIGError, match="the continuation '  ' has no token of its own"):
        reader.pair("The cat is ", " ", LIMIT)
    bare = TextTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=KINDS["gpt2"].backend_tokenizer, pad_token="a")
    )
    with pytest.raises(VLMIGError, match="an empty context, and a tokenizer without BOS and EOS"):
        bare.pair("", "red", LIMIT)
    with pytest.raises(VLMIGError, match="a continuation of 25 tokens; at most 24 fit this model"):
        ours(KINDS["gpt2"], "a", "b" * 25)
    assert len(ours(KINDS["gpt2"], "a", "b" * 24)[1]) == 24


def test_a_cut_is_told_once_with_both_lengths(caplog: pytest.LogCaptureFixture) -> None:
    reader = TextTokenizer(KINDS["gpt2"])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            reader.pair("a" * 40, "b", LIMIT)
            reader.text("a" * 41, LIMIT)
    assert [record.getMessage() for record in caplog.records] == [
        "a text of 40 tokens was cut to 24, all that fits this model, and lost its left end; "
        "others are cut too, and this is said once"
    ]


def test_a_candidate_that_the_lm_cannot_write_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for reader in (
        TextTokenizer(wordpiece("[CLS] $A [SEP]"), masked=False),
        TextTokenizer(KINDS["llama2"]),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            reader.pair("The cat is", " red", LIMIT)
            assert not caplog.records
            reader.pair("The cat is", " zebra", LIMIT)
            reader.pair("The cat is", " okapi", LIMIT)
        (record,) = caplog.records
        unk = reader.tokenizer.unk_token
        assert record.getMessage().startswith(
            f"the candidate 'zebra' holds a word that this LM does not know and reads as {unk}"
        )
        reader.refuse_unknown(["red", unk])  # asked for by name
        with pytest.raises(VLMIGError, match="the choice 'zebra' holds a word that this LM does"):
            reader.refuse_unknown(["red", "zebra"])
    TextTokenizer(KINDS["gpt2"]).refuse_unknown(["zebra", "<|endoftext|>"])  # bytes know all words
