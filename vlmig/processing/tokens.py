"""Token ids: image tokens, cutting, padding, words.

Axes: B texts, M images in a text, P patches, C vision width, N visual tokens per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmig.errors import VLMIGError
from vlmig.models.config import IMAGE, VLMIGConfig


class ImageTokens(NamedTuple):
    """How token ids hold the images of a text: each image is N placeholder ids."""

    placeholder: int
    each: int
    """N."""

    @classmethod
    def of(cls, config: VLMIGConfig) -> ImageTokens | None:
        """Return those of a model; None where it looks at images beside the text."""
        return cls(config.placeholder_id, config.visual_tokens) if config.images_in_text else None

    def count(self, ids: Sequence[int]) -> int:
        """Count the images in token ids."""
        return ids.count(self.placeholder) // self.each

    def expand(self, text: str) -> str:
        """Write N placeholders for each image of a text."""
        return text.replace(IMAGE, IMAGE * self.each)

    def stack(self, rows: Sequence[list[int]], images: Sequence[Tensor]) -> Tensor | None:
        """Stack the features of the images whose placeholders are in token ids, (B, M, P, C); None
        without any.

        Args:
            images: features of each whole text's images, (M, P, C) each. Where a text was cut, its
                last ones are used.

        Returns:
            Rows with fewer images are padded at their end.
        """
        filled = [features for features in images if len(features)]
        if not filled:
            return None
        counts = [self.count(row) for row in rows]
        if not any(counts):
            return None
        stacked = filled[0].new_zeros(len(rows), max(counts), *filled[0].shape[1:])
        for row, features, count in zip(stacked, images, counts, strict=True):
            if count:
                row[:count] = features[-count:]
        return stacked


def cut_left(
    ids: list[int], limit: int | None, protected: int, image_tokens: ImageTokens | None = None
) -> list[int]:
    """Cut off the left end of a text longer than ``limit``, behind its first ``protected`` tokens
    (BOS).

    An image at the cut goes as a whole.

    Raises:
        VLMIGError: the text's images alone do not fit.
    """
    if limit is None or len(ids) <= limit:
        return ids
    start = len(ids) - limit + protected
    if image_tokens is not None:
        images = image_tokens.count(ids)
        if images * image_tokens.each + protected >= limit:
            raise VLMIGError(
                f"{images} images of {image_tokens.each} tokens in a text; at most {limit} "
                "tokens fit this model: show fewer"
            )
        start += -ids[:start].count(image_tokens.placeholder) % image_tokens.each
    return ids[:protected] + ids[start:]


def likely_words(
    tokenizer: PreTrainedTokenizerBase, probabilities: Tensor, count: int
) -> dict[str, float]:
    """Return the likeliest words among the tokens, (V,): one with and one without a leading space
    are one word."""
    likely = probabilities.topk(min(8 * count, len(probabilities)))
    words: dict[str, float] = {}
    for i, p in zip(likely.indices.tolist(), likely.values.tolist(), strict=True):
        word = tokenizer.decode([i]).strip()
        if word and (word in words or len(words) < count):
            words[word] = words.get(word, 0.0) + p
    return words
