"""Documents with pictures between their sentences, as MMC4 has them: JSON lines."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from vlmig.data.pairs import Pair, captioned, inert, is_unicode
from vlmig.data.pictures import cut, is_number, open_picture, version_of
from vlmig.errors import VLMIGError
from vlmig.imagination.sources.given import natural
from vlmig.io.rows import Bad, Row, text_rows
from vlmig.models.config import IMAGE

LOSSES = ("all", "after_picture")


class Interleaved:
    """Pages as sentences, each with the pictures that were matched to it directly before it.

    A record is ``{text_list: [sentence], image_info: [{image_name, matched_text_index, matched_sim}]}``. Pictures that were not
    fetched are left out, and so are documents without any.

    Args:
        path: a ``.jsonl`` file, a folder of them, or a pattern such as ``shards/docs_*.jsonl``.
        images: folder that ``image_name`` starts from (default: that of the first file).
        max_pictures: how many pictures of a document stay, the first of its list.
        min_similarity: pictures whose ``matched_sim`` is lower, or no number, are left out.
        loss: ``all`` learns every sentence, ``after_picture`` only those that a picture stands before.
        break_up: make a pair of every picture and its sentence, instead of a document; the control of the VILA paper.

    Raises:
        VLMIGError: no such files, or a wrong option.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        max_pictures: int = 6,
        min_similarity: float | None = None,
        loss: str = "all",
        break_up: bool = False,
    ) -> None:
        self.shards, self.name = _shards(str(path)), f"interleaved {path}"
        self.max_pictures, self.min_similarity, self.break_up = (
            max_pictures,
            min_similarity,
            break_up,
        )
        self.after_picture = loss == "after_picture"
        if loss not in LOSSES:
            raise VLMIGError(
                f"loss {loss!r} of interleaved; expected {' or '.join(LOSSES)}; correct it"
            )
        if max_pictures < 1:
            raise VLMIGError(
                f"max_pictures {max_pictures} of interleaved; expected a number from 1; correct it"
            )
        self.images = Path(images) if images else self.shards[0].parent
        if not self.images.is_dir():
            raise VLMIGError(
                f"no folder {images}; expected the one that image_name starts from; correct images"
            )

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every document, file by file.

        Raises:
            VLMIGError: a file cannot be read.
        """
        for shard in self.shards:
            for row in text_rows(shard):
                if isinstance(row, Bad):
                    yield row
                else:
                    yield from self._document(*row)

    def open(self, pair: Pair) -> Image.Image:
        """Read a picture.

        Raises:
            BadPicture: it is missing, truncated, or no picture.
        """
        return cut(open_picture(self.images / pair.picture), pair.box)

    def _document(self, place: str, row: Row) -> Iterator[Pair | Bad]:
        found = _parts(row)
        if isinstance(found, str):
            yield Bad(place, found)
            return
        sentences, listed = found
        pictures, reason = self._kept(listed)
        if reason:
            yield Bad(place, reason, dropped=True)
            return
        group = row["url"] if isinstance(row.get("url"), str) and is_unicode(row["url"]) else place
        if not self.break_up:
            yield self._whole(place, sentences, pictures, group)
            return
        for number, own in enumerate(pictures, 1):
            inner = f"{place}, picture {number}"
            yield from captioned(
                sentences[own.sentence], inner, Pair("", own.name, group=group, version=own.version)
            )

    def _kept(self, listed: list[_Picture]) -> tuple[list[_Picture], str]:
        """Choose a document's pictures, in the order of their sentences; without any, say why."""
        versions = ((own, version_of(self.images / own.name)) for own in listed)
        there = [own._replace(version=version) for own, version in versions if version]
        least = self.min_similarity
        alike = (
            there
            if least is None
            else [own for own in there if is_number(own.alike) and own.alike >= least]
        )
        if not alike:
            return [], (
                f"similarity under {least:g}" if there else "no picture fetched"
            ) if listed else "no picture listed"
        return sorted(alike[: self.max_pictures], key=lambda own: own.sentence), ""

    def _whole(
        self, place: str, sentences: list[str], pictures: list[_Picture], group: str
    ) -> Pair | Bad:
        """Write a document as one text."""
        text, learnt = "", []
        for number, sentence in enumerate(sentences):
            marks = IMAGE * sum(own.sentence == number for own in pictures)
            if not marks and not sentence:
                continue
            text += (" " if text else "") + marks + sentence
            if marks and sentence:
                learnt.append((len(text) - len(sentence), len(text)))
        if not is_unicode(text):
            return Bad(place, "not Unicode")
        if not (
            learnt if self.after_picture else any(sentences)
        ):  # or the marks alone would be learnt
            return Bad(
                place, "no sentence behind a picture" if self.after_picture else "no sentence"
            )
        names, version = [own.name for own in pictures], "\n".join(own.version for own in pictures)
        spans = tuple(learnt) if self.after_picture else ()
        return Pair(
            text, names[0], group=group, version=version, more=tuple(names[1:]), learnt=spans
        )


class _Picture(NamedTuple):
    """A picture of a document."""

    name: str
    sentence: int
    alike: Any
    """Similarity of picture and sentence, whatever stands there."""
    version: str = ""


def _parts(row: Row) -> tuple[list[str], list[_Picture]] | str:
    """Read a document's sentences and pictures, or say what is wrong with it."""
    sentences, infos = row.get("text_list"), row.get("image_info")
    if not isinstance(sentences, list):
        return "no text_list"
    if not all(isinstance(sentence, str) for sentence in sentences):
        return "sentence is no text"
    if not isinstance(infos, list):
        return "no image_info"
    pictures = []
    for info in infos:
        if not isinstance(info, dict):
            return "image_info holds no object"
        name, place = info.get("image_name"), info.get("matched_text_index")
        if not isinstance(name, str) or not name:
            return "picture name is no text"
        if not is_unicode(name):
            return "not Unicode"
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(sentences):
            return "matched_text_index out of range"
        pictures.append(_Picture(name, place, info.get("matched_sim")))
    return [inert(sentence).strip() for sentence in sentences], pictures


def _shards(path: str) -> list[Path]:
    """List files: one, those of a folder, or those of a pattern, in natural order."""
    found = [Path(path)] if Path(path).is_file() else []
    if not found:
        found = [
            Path(name)
            for name in glob.glob(f"{glob.escape(path)}/*.jsonl" if Path(path).is_dir() else path)
        ]
    if not found or any(shard.suffix != ".jsonl" for shard in found):
        raise VLMIGError(
            f"no documents at {path}; expected a .jsonl file, a folder of them, or a pattern such as docs_*.jsonl; correct the path, or unpack the files"
        )
    return sorted(found, key=lambda shard: natural(str(shard)))
