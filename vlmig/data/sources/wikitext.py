"""Text without images: articles cut into blocks, each with one of its sentences to imagine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from vlmig.data.pairs import Pair, inert
from vlmig.errors import VLMIGError
from vlmig.imagination.prompts import sentences
from vlmig.io.hashing import number_of, share_of
from vlmig.io.hub_datasets import load_dataset
from vlmig.io.rows import Bad, parquet_rows, require, text_lines
from vlmig.vision.files import BadImage

HEADING = re.compile(r"\s*((?:= )+)(.+?)((?: =)+)\s*")
LONGEST = 200_000
"""Characters after which a text without headings starts a new document, to keep memory flat."""
FRAGMENT = 3
"""Sentences of fewer words are imagined only if a block has no others."""


class Wikitext:
    """Articles of WikiText, or any text in its form, in blocks within one article.

    Args:
        path: a text file, a folder with ``wiki.train.raw``, ``wiki.train.tokens`` or parquet files,
            or a hub id.
        tokenizer: the language model's, a fast one of transformers.
        tokens: longest block (published: 447).
        share: share of the articles to take, chosen by a hash of each (published: 0.02).
        imagine: give each block one of its sentences as prompt; otherwise its image is blank.
        seed: chooses articles and sentences.
        subset: configuration of a hub dataset.
        split: split of a folder or hub dataset.

    Raises:
        VLMIGError: wrong numbers, or a tokenizer without character offsets.
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: Any,
        tokens: int = 447,
        share: float = 1.0,
        imagine: bool = True,
        seed: int = 0,
        subset: str = "wikitext-103-raw-v1",
        split: str = "train",
    ) -> None:
        if tokens < 1 or not 0 < share <= 1:
            raise VLMIGError(
                f"tokens {tokens} and share {share} of wikitext; expected tokens from 1 and share "
                "within 0 and 1"
            )
        if not getattr(tokenizer, "is_fast", False):
            raise VLMIGError(
                f"wikitext got the tokenizer {type(tokenizer).__name__}; expected a fast one, "
                "which says where its tokens begin; save the LM's tokenizer with a tokenizer.json"
            )
        self.path, self.tokenizer, self.tokens, self.share = Path(path), tokenizer, tokens, share
        self.imagine, self.seed, self.subset, self.split = imagine, seed, subset, split
        self.name = f"wikitext {path}"

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every block, article by article.

        Raises:
            VLMIGError: no such text, or it is not UTF-8.
        """
        for title, text in self._documents():
            if self.share == 1 or share_of(f"{title}\n{text[:200]}", self.seed) < self.share:
                for block in self._blocks(inert(text)):
                    yield Pair(
                        block, prompt=self._prompt(block) if self.imagine else "", group=title
                    )

    def open(self, pair: Pair) -> Image.Image:
        """Refuse: a text has no image.

        Raises:
            BadImage: always.
        """
        raise BadImage("no such image")

    def _documents(self) -> Iterator[tuple[str, str]]:
        """Join each article's paragraphs; headings and blank lines are dropped."""
        title, size = "", 0
        lines: list[str] = []
        for line in self._lines():
            heading = HEADING.fullmatch(line)
            opens = heading is not None and heading[1] == "= " and heading[3] == " ="
            if (opens or size > LONGEST) and lines:
                yield title, "\n".join(lines)
                lines, size = [], 0
            if heading is None and line.strip():
                lines.append(line.strip())
                size += len(line)
            elif heading is not None and opens:
                title = heading[2]
        if lines:
            yield title, "\n".join(lines)

    def _lines(self) -> Iterator[str]:
        named = [self.path / f"wiki.{self.split}.{ending}" for ending in ("raw", "tokens")]
        file = next((path for path in (self.path, *named) if path.is_file()), None)
        if file and file.suffix != ".parquet":
            yield from text_lines(file)
        elif file or self.path.is_dir():
            for shard in [file] if file else self._shards():
                for _, row in parquet_rows(shard, ("text",)):
                    yield row["text"] or ""
        else:
            yield from self._hub()

    def _shards(self) -> list[Path]:
        every = sorted(self.path.rglob("*.parquet"))
        shards = [path for path in every if self.split in path.name] or every
        if not shards:
            raise VLMIGError(
                f"no text in {self.path}; expected wiki.{self.split}.raw, wiki.{self.split}.tokens "
                "or .parquet files; correct the path"
            )
        return shards

    def _hub(self) -> Iterator[str]:
        expected = "a text file, a folder, or a hub id"
        rows = load_dataset(self.path, expected, self.split, self.subset)
        require(("text",), rows.column_names, self.path)
        for row in rows:
            yield row["text"] or ""

    def _blocks(self, text: str) -> Iterator[str]:
        """Cut a text between words into blocks of at most ``tokens`` tokens."""
        offsets = self._encode(text)["offset_mapping"]
        starts = [start for start, _ in offsets]
        first = 0
        while first < len(starts):
            block, first = self._block(text, starts, first)
            if block:
                yield block

    def _block(self, text: str, starts: list[int], first: int) -> tuple[str, int]:
        """Return the longest block from a token on, and the token after it."""
        last = min(first + self.tokens, len(starts))
        while True:
            end = last
            while first < end < len(starts) and not _between_words(text, starts[end]):
                end -= 1
            end = last if end == first else end  # a word longer than a block is cut inside
            block = text[starts[first] : starts[end] if end < len(starts) else len(text)].strip()
            # Tokenized alone, a block may have other tokens at its ends than within its text.
            extra = len(self._encode(block)["input_ids"]) - self.tokens
            if extra <= 0 or end == first + 1:
                return block, end
            last = max(first + 1, end - extra)

    def _encode(self, text: str) -> Any:
        return self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )

    def _prompt(self, block: str) -> str:
        every = sentences(block)
        whole = [sentence for sentence in every if len(sentence.split()) >= FRAGMENT] or every
        return whole[number_of(block, self.seed) % len(whole)]


def _between_words(text: str, position: int) -> bool:
    return position == 0 or text[position].isspace() or text[position - 1].isspace()
