"""An answer, with everything it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image


@dataclass
class Answer:
    """An answer with everything it rests on."""

    question: str
    answer: str
    probabilities: dict[str, float]
    """The mixture over the choices."""
    per_image: list[dict[str, float]]
    text_only: dict[str, float]
    weights: list[float]
    """Alignment of each picture with its prompt (cosine): low means the picture is a guess."""
    images: list[Image.Image]
    """Pictures beside the text: imagined, or given to a late-fusion model."""
    prompt: str
    """What was imagined."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Where the time went since the model was loaded."""
    given: bool = False
    """Whether ``images`` were given rather than imagined."""
    shown: list[Image.Image] = field(default_factory=list)
    """Pictures in the text, those of demonstrations first; ``text_only`` is without them too."""
    rationale: str = ""
    """What was thought before, step by step."""


class Reply(str):
    """A text answer, with what it rests on."""

    rationale: str
    """What was thought before, step by step."""
    prompt: str
    """The text that it follows, with a mark for each picture."""
    shown: list[Image.Image]
    """The pictures that were given, those of demonstrations first."""

    def __new__(cls, text: str, rationale: str = "", prompt: str = "", shown: Sequence[Image.Image] = ()) -> Reply:
        """Make one of its text."""
        reply = super().__new__(cls, text)
        reply.rationale, reply.prompt, reply.shown = rationale, prompt, list(shown)
        return reply


def named(options: Sequence[str], log_probs: np.ndarray) -> dict[str, float]:
    """Normalise over the options and put their names on."""
    probabilities = np.exp(log_probs - log_probs.max())
    return dict(zip(options, map(float, probabilities / probabilities.sum()), strict=True))
