"""Answers, with everything they are based on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import softmax

from vlmig.imagination.visuals import Visuals
from vlmig.models.mixture import Mixture
from vlmig.predict.attribution import Attribution
from vlmig.predict.scores import Scores

UNMOVED = 1e-6
"""A change of probabilities that is only rounding."""


@dataclass(frozen=True)
class AskOptions:
    """Settings of ``VLMIG.ask`` that are seldom needed."""

    prompt: str | None = None
    """What to imagine; when None what the checkpoint's ``prompt_policy`` makes of the question."""
    seed: int = 0
    mix: str | None = None
    """A rule of ``vlmig.models.mixture``; the checkpoint's when None."""
    weights: str | None = None
    """A kind of weights of ``vlmig.models.mixture``; the checkpoint's when None."""
    max_new_tokens: int | None = None
    """Of the chain of thought."""
    why: bool = False
    """Whether to compute ``Answer.attribution``."""


@dataclass(repr=False)
class Answer:
    """The answer to a question with choices. A notebook shows it as ``vlmig ask --html`` does."""

    question: str
    answer: str
    probabilities: dict[str, float]
    """The mixture over the choices."""
    per_image: list[dict[str, float]]
    text_only: dict[str, float]
    weights: list[float]
    """The earlier name of ``alignment``: similarities, not the mixture's shares."""
    images: list[Image.Image]
    """Images beside the text: imagined, or given to a late-fusion model."""
    prompt: str
    """What was imagined, the prompts joined."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds spent in each step since the model was loaded."""
    given: bool = False
    """Whether ``images`` were given rather than imagined."""
    shown: list[Image.Image] = field(default_factory=list)
    """Images in the text, those of few-shot examples first; ``text_only`` is without them too."""
    rationale: str = ""
    """The chain of thought before the answer."""
    floor: float | None = None
    """Similarity below which an image does not count; None where all of them do."""
    attribution: Attribution | None = None
    """How far each image, and each patch of it, moved the answer; None unless ``why=True`` asked
    for it."""

    def __repr__(self) -> str:
        """Say the answer and what it rests on, in one line."""
        alone = max(self.text_only, key=lambda name: self.text_only[name])
        source = "given" if self.given else f"of {self.prompt!r}"
        images = f", {len(self.images)} images {source}" if self.images else ""
        p = self.probabilities[self.answer]
        return f"Answer({self.answer!r}, p={p:.2f}, text only {alone!r}{images})"

    def _repr_html_(self) -> str:
        """Draw the answer in a notebook."""
        # By its name: pages lie above answers.
        return import_module("vlmig.report.answer").framed(self)

    @property
    def alignment(self) -> list[float]:
        """CLIP similarity of each image and its prompt; NaN where the encoder has no text side. Low
        means an imagined image is a guess. A given image is trusted whatever its similarity."""
        return self.weights

    @property
    def listened(self) -> bool:
        """Whether the images beside the text changed the probabilities at all."""
        moved = [abs(p - self.text_only[name]) for name, p in self.probabilities.items()]
        return bool(self.images) and max(moved) > UNMOVED

    @classmethod
    def of(
        cls,
        options: Sequence[str],
        scores: Scores,
        text_only: np.ndarray,
        visuals: Visuals,
        mixture: Mixture,
        given: list[Image.Image],
        **fields: Any,
    ) -> Answer:
        """Mix the scores of options; ``fields`` are the fields that do not follow from them.

        Args:
            text_only: log-probabilities without any image, (C,).
            given: images of the question and its examples.
        """
        in_text = len(visuals.shown) > 0
        beside_text = bool(given) and not in_text  # these count whatever their similarity
        mixed = np.exp(scores.mixed(len(visuals.features), mixture))
        return cls(
            answer=options[int(mixed.argmax())],
            probabilities=_named(options, mixed),
            per_image=[_named(options, row) for row in softmax(scores.per_image, -1)],
            text_only=_named(options, softmax(text_only)),
            weights=visuals.alignment.tolist(),
            images=visuals.images,
            prompt=" / ".join(dict.fromkeys(visuals.prompts)),
            given=beside_text,
            shown=given if in_text else [],
            floor=None if beside_text else mixture.floor,
            **fields,
        )


def _named(options: Sequence[str], probabilities: np.ndarray) -> dict[str, float]:
    return dict(zip(options, probabilities.tolist(), strict=True))


class Reply(str):
    """An answer in words."""

    rationale: str
    """The chain of thought before the answer."""
    prompt: str
    """The text that it follows, with a placeholder for each image."""
    shown: list[Image.Image]
    """The images that were given, those of few-shot examples first."""

    def __new__(
        cls, text: str, rationale: str = "", prompt: str = "", shown: Sequence[Image.Image] = ()
    ) -> Reply:
        """Attach the fields to a text."""
        reply = super().__new__(cls, text)
        reply.rationale, reply.prompt, reply.shown = rationale, prompt, list(shown)
        return reply
