"""Documents with images between their sentences, in the forms of MMC4 and OBELICS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from vlmig.data.images import is_number
from vlmig.data.pairs import Pair, captioned, inert
from vlmig.data.records import ADDRESS, Records
from vlmig.errors import VLMIGError
from vlmig.io.rows import Bad, Row, is_unicode
from vlmig.models.config import IMAGE

LOSSES = ("all", "after_picture")
FIELDS = ("texts", "url")
"""Columns that are read of a dataset beside its images."""


class Interleaved:
    """Web pages as sentences; an image that was matched to a sentence is directly before it.

    A record is ``{text_list: [sentence], image_info: [{image_name, matched_text_index,
    matched_sim}]}`` (MMC4), or ``{texts, images}``, two lists of one length, of which one has None
    where the other has a text, or an image's name (OBELICS). Images that were not downloaded are
    left out, and so are documents without any.

    Args:
        path: a ``.jsonl``, ``.jsonl.zip`` or ``.parquet`` file, a folder of them, a pattern such as
            ``shards/docs_*.jsonl``, or a hub id.
        images: folder that ``image_name`` starts from (default: that of the first file).
        max_pictures: number of images of a document to keep, the first of its list.
        min_similarity: images whose ``matched_sim`` is lower, or not a number, are left out.
        loss: ``all`` learns every sentence, ``after_picture`` only those with an image before them.
        break_up: make a pair of every image and its sentence instead of a document, as a control in
            the VILA paper.

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
        self.name = f"interleaved {path}"
        self.max_pictures, self.break_up = max_pictures, break_up
        self.min_similarity = min_similarity
        self.after_picture = loss == "after_picture"
        if loss not in LOSSES:
            raise VLMIGError(
                f"loss {loss!r} of interleaved; expected {' or '.join(LOSSES)}; correct it"
            )
        if max_pictures < 1:
            raise VLMIGError(
                f"max_pictures {max_pictures} of interleaved; expected a number from 1; correct it"
            )
        self.records = Records(path, "documents", images)
        columns = self.records.columns or []
        self.columns = [name for name in FIELDS if name in columns]
        self.records.column = "images" if "images" in columns else None
        if self.records.columns is not None and "texts" not in columns:
            raise VLMIGError(
                f"{path} has the columns {', '.join(columns)}; expected texts and images; name "
                "another source"
            )

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every document, file by file.

        Raises:
            VLMIGError: a file cannot be read.
        """
        for row in self.records.read(self.columns):
            if isinstance(row, Bad):
                yield row
            else:
                yield from self._document(*row)

    def open(self, pair: Pair) -> Image.Image:
        """Read a document's image: RGB.

        Raises:
            BadImage: it is missing, truncated, or not an image.
        """
        return self.records.open(pair)

    def _document(self, location: str, row: Row) -> Iterator[Pair | Bad]:
        content = _content(row)
        if isinstance(content, str):
            yield Bad(location, content)
            return
        sentences, listed = content
        images, reason = self._choose(listed)
        if reason:
            yield Bad(location, reason, dropped=True)
            return
        url = row.get("url")
        group = url if isinstance(url, str) and is_unicode(url) else location
        if not self.break_up:
            yield self._whole(location, sentences, images, group)
            return
        for number, image in enumerate(images, 1):
            pair = Pair("", image.name, group=group, version=image.version)
            yield from captioned(sentences[image.sentence], f"{location}, image {number}", pair)

    def _choose(self, listed: list[_Placed]) -> tuple[list[_Placed], str]:
        """Choose a document's images, in the order of their sentences; if there are none, say
        why."""
        least, reason = self.min_similarity, "no image fetched" if listed else "no image listed"
        chosen, addressed = [], False
        for image in listed:
            version = self.records.version(image.name)
            if not version:
                addressed = addressed or bool(ADDRESS.match(image.name))
                continue
            if least is not None and not (is_number(image.alike) and image.alike >= least):
                reason = f"similarity under {least:g}"
                continue
            chosen.append(image._replace(version=version))
        if not chosen:
            return [], "web addresses in place of image files" if addressed else reason
        return sorted(chosen[: self.max_pictures], key=lambda image: image.sentence), ""

    def _whole(
        self, location: str, sentences: list[str], images: list[_Placed], group: str
    ) -> Pair | Bad:
        """Write a document as one text."""
        text, learnt = "", []
        for number, sentence in enumerate(sentences):
            marks = IMAGE * sum(image.sentence == number for image in images)
            if not marks and not sentence:
                continue
            text += (" " if text else "") + marks + sentence
            if marks and sentence:
                learnt.append((len(text) - len(sentence), len(text)))
        if not is_unicode(text):
            return Bad(location, "not Unicode")
        if self.after_picture and not learnt:
            return Bad(location, "no sentence behind an image")
        if not any(sentences):  # only placeholders would be learnt
            return Bad(location, "no sentence")
        return Pair(
            text,
            images[0].name,
            group=group,
            version="\n".join(image.version for image in images),
            more=tuple(image.name for image in images[1:]),
            learnt=tuple(learnt) if self.after_picture else (),
        )


class _Placed(NamedTuple):
    """An image of a document."""

    name: str
    sentence: int
    alike: Any
    """Similarity of image and sentence; unchecked."""
    version: str = ""


def _content(row: Row) -> tuple[list[str], list[_Placed]] | str:
    """Return a document's sentences and images, or the reason why it is bad."""
    if isinstance(row.get("texts"), list) and isinstance(row.get("images"), list):
        return _obelics(row["texts"], row["images"])
    sentences, infos = row.get("text_list"), row.get("image_info")
    if not isinstance(sentences, list):
        return "no text_list"
    if not all(isinstance(sentence, str) for sentence in sentences):
        return "sentence is no text"
    if not isinstance(infos, list):
        return "no image_info"
    images = []
    for info in infos:
        if not isinstance(info, dict):
            return "image_info holds no object"
        name, index = info.get("image_name"), info.get("matched_text_index")
        if not isinstance(name, str) or not name:
            return "image name is no text"
        if not is_unicode(name):
            return "not Unicode"
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(sentences):
            return "matched_text_index out of range"
        images.append(_Placed(name, index, info.get("matched_sim")))
    return [inert(sentence).strip() for sentence in sentences], images


def _obelics(texts: list[Any], images: list[Any]) -> tuple[list[str], list[_Placed]] | str:
    """Read OBELICS's form: an image stands before the text that follows it, or after the last."""
    if len(texts) != len(images):
        return "texts and images of other lengths"
    sentences: list[str] = []
    placed: list[_Placed] = []
    for text, image in zip(texts, images, strict=True):
        if isinstance(image, dict):
            image = image.get("path") or image.get("url")
        if isinstance(text, str):
            sentences.append(inert(text).strip())
        elif text is not None:
            return "sentence is no text"
        elif isinstance(image, str) and image:
            if not is_unicode(image):
                return "not Unicode"
            placed.append(_Placed(image, len(sentences), None))
    if any(one.sentence == len(sentences) for one in placed):
        sentences.append("")
    return sentences, placed
