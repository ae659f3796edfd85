"""Choose pairs to learn from: rules on captions, repeats and CLIP similarity, and a held-out
share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from vlmig.data.index import Index
from vlmig.data.pairs import Pair
from vlmig.errors import VLMIGError
from vlmig.io.config_file import Checked, parse

PORTION = 1024
"""Pairs that are compared with their images together."""
Alignment = Callable[[Sequence[Pair]], Sequence[float] | np.ndarray]
"""From pairs to the CLIP similarities of image and caption; NaN without an image."""


class Curation(Checked):
    """Rules that drop pairs; none of them by default."""

    min_words: Annotated[int, Field(ge=0)] | None = None
    """Fewest words of a caption."""
    max_words: Annotated[int, Field(ge=0)] | None = None
    """Most words of a caption."""
    duplicates: bool = False
    """Whether to drop repeats: same images, box and caption, ignoring case, spaces and final
    marks."""
    min_alignment: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Lowest CLIP similarity of image and caption, by the vision encoder; from -1 to 1."""

    @model_validator(mode="after")
    def _check(self) -> Curation:
        fewest, most = self.min_words, self.max_words
        if fewest is not None and most is not None and fewest > most:
            raise ValueError(f"has min_words {fewest} above max_words {most}; correct one of them")
        return self

    @classmethod
    def from_mapping(cls, rules: Mapping[str, Any] | None) -> Curation:
        """Read the rules of a recipe; None for no rules.

        Raises:
            VLMIGError: an unknown rule, or a wrong value.
        """
        given = {} if rules is None else rules
        return parse(cls, given, "curate", "; correct the rule of curation")


def curate(
    index: Index, rules: Curation, alignment: Alignment | None = None
) -> tuple[np.ndarray, dict[str, int]]:
    """Apply rules one after the other; of repeats the first stays.

    Args:
        alignment: called, in portions, on what the other rules left; pairs with NaN are kept.

    Returns:
        The rows kept, int64 and ascending, and the number of rows that each rule dropped.

    Raises:
        VLMIGError: ``min_alignment`` without ``alignment``.
    """
    if rules.min_alignment is not None and alignment is None:
        raise VLMIGError(
            "min_alignment got no vision encoder; expected one that compares images with "
            "captions; name a model"
        )
    rows, dropped = np.arange(len(index)), {}

    def keep(rule: str, mask: np.ndarray) -> None:
        nonlocal rows
        dropped[rule] = int((~mask).sum())
        rows = rows[mask]

    if rules.min_words is not None or rules.max_words is not None:
        words = caption_words(index)
        if rules.min_words is not None:
            keep("min_words", words[rows] >= rules.min_words)
        if rules.max_words is not None:
            keep("max_words", words[rows] <= rules.max_words)
    if rules.duplicates:
        first = np.zeros(len(rows), dtype=bool)
        first[np.unique(index.hashed(_contents)[rows], return_index=True)[1]] = True
        keep("duplicates", first)
    if rules.min_alignment is not None and alignment is not None:
        cosines = np.empty(len(rows))
        for start in range(0, len(rows), PORTION):
            pairs = [index[int(row)] for row in rows[start : start + PORTION]]
            cosines[start : start + len(pairs)] = alignment(pairs)
        keep("min_alignment", ~(cosines < rules.min_alignment))
    return rows, dropped


def caption_words(index: Index) -> np.ndarray:
    """Count the words of every caption, int32 (rows,)."""
    counts = pc.count_substring_regex(index.column("caption"), r"\S+")
    return counts.to_numpy().astype(np.int32)


def split(
    index: Index, rows: np.ndarray, share: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of the groups, by a hash of each, whatever the order and the other groups.

    A pair without a group is a group alone, with its repeats.

    Returns:
        The rows to learn from and the rows held out, in their order.
    """
    held_out = index.hashed(_groups, seed)[rows] < np.float64(share) * 2.0**64
    return rows[~held_out], rows[held_out]


def _groups(batch: pa.RecordBatch) -> Iterator[str]:
    """Yield the group of each pair; the content of a pair without a group."""
    groups = batch["group"].to_pylist()
    contents = _contents(batch) if "" in groups else groups
    for group, content in zip(groups, contents, strict=True):
        yield f"group {group}" if group else content


def _contents(batch: pa.RecordBatch) -> list[str]:
    """Join what each pair holds: images, box, prompt, and the caption in lower case without
    marks."""
    more = pc.binary_join(batch["more"], "\n")
    several = pc.binary_join_element_wise(batch["picture"], more, "\n")
    images = pc.if_else(pc.equal(more, ""), batch["picture"], several)
    box = pc.fill_null(pc.binary_join(batch["box"].cast(pa.list_(pa.string())), ","), "")
    caption = pc.replace_substring_regex(pc.utf8_lower(batch["caption"]), r"\s+", " ")
    caption = pc.utf8_rtrim(pc.utf8_trim_whitespace(caption), " .,;:!?…")
    return pc.binary_join_element_wise(images, box, batch["prompt"], caption, "\0").to_pylist()
