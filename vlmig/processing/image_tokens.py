"""Pictures that are shown in a text: their marks, the places of their visual tokens, and their features.

Axes: B texts, M shown pictures per text, P patches, C vision width, N visual tokens per picture.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.models.config import IMAGE, VLMIGConfig

logger = logging.getLogger(__name__)


class Places(NamedTuple):
    """How a model's token ids hold pictures."""

    token: int
    """The id that holds the place of a visual token."""
    each: int
    """N, places per picture."""

    def count(self, ids: Sequence[int]) -> int:
        """Count the pictures that have places among token ids."""
        return ids.count(self.token) // self.each


def places_of(config: VLMIGConfig) -> Places | None:
    """Say how a model's texts hold pictures; None where it looks at them beside the text."""
    return Places(config.placeholder_id, config.visual_tokens) if config.images_in_text else None


def marked(text: str, pictures: int, line: bool = False) -> str:
    """Return a text with a mark for each of its pictures; in one without any, the pictures go first.

    Args:
        line: each on a line of its own, as LLaVA and VILA put them before a question. Captions and other texts that are to be
            continued have them right in front, as in training.

    Raises:
        VLMIGError: more or fewer marks than pictures.
    """
    marks = text.count(IMAGE)
    if marks not in (0, pictures) or marks > pictures:
        raise VLMIGError(
            f"{pictures} pictures for {marks} {IMAGE} in {_short(text)}; expected a picture for each mark, or no marks at all"
        )
    if marks or not pictures:
        return text
    return (f"{IMAGE}\n" * pictures + text.strip()).strip() if line else IMAGE * pictures + text


def unmarked(text: str) -> str:
    """Return a text without the marks of pictures, for what reads words only."""
    return text.replace(f"{IMAGE}\n", "").replace(IMAGE, "")


def refuse_marks(texts: Sequence[str], why: str) -> None:
    """Insist on texts without marks.

    Raises:
        VLMIGError: one has a mark.
    """
    for text in texts:
        if IMAGE in text:
            raise VLMIGError(f"{IMAGE} in {_short(text)}; expected none: {why}")


def written(text: str, pictures: int, config: VLMIGConfig) -> str:
    """Write out the places of a text's shown pictures, where a model has them in its texts.

    Raises:
        VLMIGError: more or fewer marks than pictures.
    """
    if not config.images_in_text:
        return text
    return marked(text, pictures).replace(IMAGE, IMAGE * config.visual_tokens)


def stacked(rows: Sequence[list[int]], shown: Sequence[Tensor], places: Places | None) -> Tensor | None:
    """Stack the features of the pictures whose places are in token ids, (B, M, P, C); None where there are none.

    Args:
        shown: of the whole texts, (M, P, C) each. Where a text was cut its last pictures are left.

    Returns:
        Rows with fewer pictures are filled up at their end.
    """
    if places is None or not any(map(len, shown)):
        return None
    counts = [places.count(row) for row in rows]
    if cut := sum(count < len(own) for count, own in zip(counts, shown, strict=True)):
        logger.warning("texts that are longer than the model reads lost their first pictures: %d of %d", cut, len(rows))
    if not any(counts):
        return None
    some = next(own for own in shown if len(own))
    out = some.new_zeros(len(rows), max(counts), *some.shape[1:])
    for row, own, count in zip(out, shown, counts, strict=True):
        if count:
            row[:count] = own[-count:]
    return out


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
