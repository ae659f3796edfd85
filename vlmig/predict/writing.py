"""Text that the LM writes, its images mixed in at every token: continuations and answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from vlmig.errors import VLMIGError
from vlmig.imagination.visuals import Visuals
from vlmig.models.config import IMAGE
from vlmig.models.mixture import Mixture
from vlmig.predict.adaptive_k import Draw, Stopping, score_until_safe
from vlmig.predict.batching import pad_rows, same_size, stack_shown
from vlmig.predict.scorer import Scorer
from vlmig.processing.conversation import THINKING, Conversation, spaced

ANSWER_TOKENS = 128
"""The most tokens of an answer in words."""
WORDS = 8
"""Likeliest next words between which ``k="auto"`` decides before a text is written."""


class Until(StoppingCriteria):
    """Stop a row as soon as its new text contains one of the stop texts.

    Args:
        blank: whether they count before the first word too.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str], blank: bool = True) -> None:
        self.tokenizer, self.until, self.blank, self.start = tokenizer, until, blank, 0

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self.start = self.start or input_ids.shape[1] - 1  # first called after the first new token
        done = []
        for text in self.tokenizer.batch_decode(
            input_ids[:, self.start :], skip_special_tokens=True
        ):
            written = text if self.blank else text.lstrip()
            done.append(any(stop in written for stop in self.until))
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def generate(
    scorer: Scorer,
    prompts: Sequence[str],
    visuals: Sequence[Visuals],
    batch: int = 8,
    **settings: Any,
) -> list[str]:
    """Continue each prompt, its images mixed in at every token, see ``VLMIG.generate``."""
    model, count = scorer.causal("generate"), settings.setdefault("max_new_tokens", 20)
    for images in visuals:
        room = scorer.limit(images)
        if room is not None and count >= room:
            raise VLMIGError(f"max_new_tokens={count}; this model has {room} places")
    texts: dict[int, list[str]] = {}
    batch = 1 if scorer.model.padding_counts else batch
    for members in same_size([len(images.features) for images in visuals], batch):
        rows = [scorer.ids(prompts[i], visuals[i], count) for i in members]
        inputs = _inputs(scorer, rows, [visuals[i] for i in members])
        with torch.inference_mode():
            output = model.generate(**inputs, pad_token_id=scorer.pad, **settings)
        output = output[:, inputs["input_ids"].shape[1] :].unflatten(0, (len(members), -1))
        for i, sequences in zip(members, output, strict=True):
            texts[i] = scorer.tokenizer.batch_decode(sequences, skip_special_tokens=True)
    return list(chain(*(texts[i] for i in range(len(prompts)))))


def images_to_begin(
    scorer: Scorer, contexts: Sequence[str], rule: Stopping, draw: Draw
) -> list[Visuals]:
    """Return as many images of each text as it takes until its next word is safe.

    ``k="auto"`` decides between answers; here they are the likeliest next words by text alone, and
    those that the images make likelier, until the likeliest is among them.
    """
    visuals = []
    for i, context in enumerate(contexts):

        def draw_one(_: Sequence[int], k: int, number: int = i) -> Sequence[Visuals]:
            return draw([number], k)

        visuals.append(_to_begin(scorer, context, rule, draw_one))
    return visuals


def _to_begin(scorer: Scorer, context: str, rule: Stopping, draw: Draw) -> Visuals:
    mixture, visuals = Mixture.of(scorer.config), Visuals.none(scorer.config)
    likely, words = scorer.likely(context, visuals, WORDS), dict[str, float]()
    while next(iter(likely)) not in words:
        words |= likely
        question = (context, spaced(context, list(words)))
        (safe,) = score_until_safe(scorer, [question], rule, mixture, draw)
        visuals = safe.visuals
        likely = scorer.likely(context, visuals, WORDS)
    return visuals


def think(
    scorer: Scorer,
    conversation: Conversation,
    visuals: Visuals,
    max_new_tokens: int | None,
    **settings: Any,
) -> str:
    """Write the chain of thought before the last answer.

    Raises:
        VLMIGError: the model writes none.
    """
    start = conversation.begin_answer(THINKING)
    rationale = write_answer(scorer, conversation, start, visuals, max_new_tokens, **settings)
    if not rationale:
        raise VLMIGError(
            "steps have no effect: this model writes none; leave --steps (steps=True) out"
        )
    return rationale


def write_answer(
    scorer: Scorer,
    conversation: Conversation,
    text: str,
    visuals: Visuals,
    max_new_tokens: int | None,
    **settings: Any,
) -> str:
    """Continue ``text``, which begins an answer of the conversation, up to the answer's end."""
    room = scorer.limit(visuals) or 4 * ANSWER_TOKENS
    stop = conversation.stop
    defaults = {"do_sample": False, "stop_strings": [stop], "tokenizer": scorer.tokenizer}
    settings = {**defaults, **settings}
    settings["max_new_tokens"] = max_new_tokens or min(ANSWER_TOKENS, room // 4)
    written = generate(scorer, [text], [visuals], **settings)[0]
    return written.partition(stop)[0].replace(IMAGE, "").strip()


def _inputs(scorer: Scorer, rows: list[list[int]], visuals: list[Visuals]) -> dict[str, Tensor]:
    """Combine token ids and images to the model's inputs."""
    inputs = pad_rows(rows, scorer.pad, scorer.model.device)
    shown = stack_shown(scorer.image_tokens, rows, visuals)
    if shown is not None:
        inputs["shown_features"] = shown.to(scorer.model.device)
    features = torch.stack([images.features for images in visuals])
    if features.shape[1]:
        inputs["visual_features"] = features.to(scorer.model.device)
        inputs["image_weights"] = scorer.trust(visuals)
    return inputs
