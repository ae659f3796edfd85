"""What each field of a configuration may be: one check when it is made or read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from vlmig.errors import VLMIGError

MOST = 2**20
"""Largest count or width that makes sense; a larger one would only fill the memory."""
COUNTS = {
    "vision_width": MOST,
    "vision_patches": MOST,
    "projector_queries": MOST,
    "fusion_heads": 1024,
    "imaginer_steps": 10_000,
    "imaginer_size": 2**14,
    "imaginer_batch": 2**12,
    "projector_width": MOST,
    "fusion_width": MOST,
}
"""Whole numbers from 1, and the largest."""
NUMBERS = {
    "imaginer_guidance": (0.0, 1000.0),
    "strength": (0.0, 1000.0),
    "doubt": (0.0, 1000.0),
    "alignment_floor": (-1.0, 1.0),
}
PLACES = ("language_model", "vision_encoder", "imaginer", "imaginer_vae")
TEXTS = (
    *("language_model", "language_model_revision", "vision_encoder", "imaginer"),
    *("imaginer_revision", "imaginer_vae", "chat_template"),
)
FLAGS = ("imaginer_compile", "trained")
MAPPINGS = ("auto", "learned", "training")
WHOLE = {"vision_layer": (-1000, 1000), "image_token_id": (0, 2**31)}
OPTIONAL = {
    *("imaginer_steps", "imaginer_size", "imaginer_batch", "projector_width", "fusion_width"),
    *("imaginer_guidance", "language_model_revision", "imaginer_revision", "imaginer_vae"),
    *("auto", "learned", "training", "image_token_id"),
}


def check_fields(values: Mapping[str, Any]) -> None:
    """Compare each field with what it may be.

    Raises:
        VLMIGError: the first that is of another type, or out of its range, by name.
    """
    for name, value in values.items():
        expected = None if value is None and name in OPTIONAL else _expected(name, value)
        if expected:
            none = ", or null" if name in OPTIONAL else ""
            raise VLMIGError(
                f"{name}={value!r} in the configuration; expected {expected}{none}; correct it"
            )


def _expected(name: str, value: Any) -> str | None:
    """Return what a field should be, if it is something else."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if name in COUNTS or name in WHOLE:
        low, high = WHOLE.get(name) or (1, COUNTS[name])
        return None if is_whole and low <= value <= high else f"a whole number from {low} to {high}"
    if name in NUMBERS:
        least, most = NUMBERS[name]
        is_number = (is_whole or isinstance(value, float)) and math.isfinite(value)
        return None if is_number and least <= value <= most else f"a number from {least} to {most}"
    if name in TEXTS:
        if not (isinstance(value, str) and value.strip()):
            return "a text"
        # What is inside a checkpoint is copied with it.
        place = value.rpartition(":")[2].split("/") if name in PLACES else []
        leaves = place[:1] == ["."] and ".." in place
        return "a folder inside the checkpoint" if leaves else None
    if name in FLAGS:
        return None if isinstance(value, bool) else "true or false"
    if name in MAPPINGS:
        return None if isinstance(value, dict) else "a mapping"
    return None


def check_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse fields that look like a misspelled one; transformers adds others of its own.

    Raises:
        VLMIGError: with the field that was probably meant.
    """
    names = list(known)
    for name in given:
        near = get_close_matches(name, names, 1, cutoff=0.8)
        if near and name not in names:
            raise VLMIGError(
                f"unknown field {name!r} in the configuration; did you mean {near[0]}?"
            )
