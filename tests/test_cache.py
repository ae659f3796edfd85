"""The cache of transformers, by its older and by its newer name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from test_families import SAME, left_padded, pictures, visual
from transformers import DynamicCache
from transformers.utils import logging as transformers_logging

from vlmig import VLMIGError
from vlmig.models.cache import NAME, cache_argument, text_cache

FUSIONS = ("cross_attention", "decoder_layer", "prefix")


class Kept(logging.Handler):
    """Keeps what transformers logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_either_name_continues_a_text(fusion: str) -> None:
    model, batch, features = visual("llama", fusion), left_padded(), pictures()
    whole = model(**batch, visual_features=features).logits[:, -1]
    first = {
        "input_ids": batch["input_ids"][:, :-1],
        "attention_mask": batch["attention_mask"][:, :-1],
    }
    last = {**batch, "input_ids": batch["input_ids"][:, -1:]}
    for name in ("cache", "past_key_values"):
        cache = text_cache(model(**first, visual_features=features, use_cache=True))
        followed = model(**last, visual_features=features, **{name: cache}).logits[:, -1]
        assert (followed - whole).abs().max() < SAME
    with pytest.raises(
        VLMIGError, match="a cache as cache and another as past_key_values; expected one"
    ):
        model(
            **last, visual_features=features, cache=DynamicCache(), past_key_values=DynamicCache()
        )


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_generation_goes_on_from_a_cache_and_begins_with_embeddings(fusion: str) -> None:
    model: Any = visual("llama", fusion)
    batch, settings = left_padded(), {"visual_features": pictures(), "pad_token_id": 0}

    def write(count: int, **inputs: Any) -> Any:
        return model.generate(
            **inputs, **settings, max_new_tokens=count, min_new_tokens=count, do_sample=False,
            return_dict_in_generate=True,
        )  # fmt: skip

    whole = write(6, **batch).sequences
    words = model.get_input_embeddings()(batch["input_ids"])
    embedded = write(6, inputs_embeds=words, attention_mask=batch["attention_mask"])
    assert torch.equal(embedded.sequences, whole[:, 7:])
    begun = write(3, **batch)
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, 3), value=1)
    kept = cache_argument(text_cache(begun))
    rest = write(3, input_ids=begun.sequences, attention_mask=mask, **kept)
    assert torch.equal(rest.sequences, whole)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_generation_warns_of_nothing(fusion: str) -> None:
    kept, logger = Kept(), transformers_logging.get_logger("transformers")
    logging.Logger.warning_once.cache_clear()  # type: ignore[attr-defined]
    model: Any = visual("llama", fusion)
    logger.addHandler(kept)
    try:
        model.generate(
            **left_padded(),
            visual_features=pictures(),
            max_new_tokens=3,
            do_sample=False,
            pad_token_id=0,
        )
        logger.warning("said")
    finally:
        logger.removeHandler(kept)
    assert kept.lines == ["said"]


def test_one_module_says_the_names() -> None:
    """Elsewhere only ``forward`` lists them, since users hand a cache over by either."""
    package = Path(__file__).parents[1] / "vlmig"
    told = {path.name for path in package.rglob("*.py") if "past_key_values" in path.read_text()}
    assert told == {"cache.py", "modeling.py"}
    assert NAME in ("cache", "past_key_values")
