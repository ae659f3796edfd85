"""Images and captions in tar archives, which are never unpacked."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from PIL import Image

from vlmig.data.images import cut, version_of
from vlmig.data.pairs import Pair, captioned
from vlmig.errors import VLMIGError, one_line
from vlmig.io.rows import Bad, below, failed, lowest_values
from vlmig.io.shards import files_of
from vlmig.vision.files import BadImage, read_image

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
CAPTIONS = (".txt", ".json")
LONGEST = 2**20
"""Most bytes of a caption's file."""
BLOCK = 512
"""Bytes of a tar archive's block."""
Members = dict[str, tarfile.TarInfo]
"""A sample's files by ending."""


class WebDataset:
    """Tar archives whose files ``name.jpg`` and ``name.txt`` (or ``name.json`` with ``caption``)
    follow each other.

    Args:
        path: one archive, a folder of them, or a pattern such as ``shards/{00000..00009}.tar``.
        at_least: lowest values by field of ``name.json``, such as ``{clip_similarity_vitb32:
            0.3}``; samples below, or without a number, are left out.

    Raises:
        VLMIGError: there are no such archives.
    """

    def __init__(self, path: str | Path, at_least: Mapping[str, float] | None = None) -> None:
        self.at_least = lowest_values(at_least, path)
        self.name = f"webdataset {path}"
        self.shards = files_of(path, (".tar", ".tar.gz", ".tgz"))
        missing = [shard for shard in self.shards if not shard.is_file()]
        if missing or not self.shards:
            raise VLMIGError(
                f"no archive {missing[0] if missing else f'in {path}'}; expected .tar files, a "
                "folder of them, or a pattern such as shards/{00000..00009}.tar; correct the path"
            )
        self.folder = Path(os.path.commonpath([shard.parent for shard in self.shards]))

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every sample, archive by archive.

        Raises:
            VLMIGError: an archive is compressed, so that its files cannot be reached one by one.
        """
        endings: set[str] = set()
        for shard in self.shards:
            yield from self._shard(shard, endings)
        if endings and not endings & {*IMAGES, *CAPTIONS}:
            raise VLMIGError(
                f"{self.name} holds only {', '.join(sorted(endings)[:6])} files; expected images "
                f"({', '.join(IMAGES)}) with captions ({', '.join(CAPTIONS)}) beside them; name "
                "another path"
            )

    def open(self, pair: Pair) -> Image.Image:
        """Read an image from its archive.

        Raises:
            BadImage: the archive is missing; the image is truncated, or not an image.
        """
        name, offset, size = pair.picture.rsplit("|", 2)
        try:
            with (self.folder / name).open("rb") as file:
                file.seek(int(offset))
                content = file.read(int(size))
        except OSError:
            raise BadImage("no such image") from None
        return cut(read_image(io.BytesIO(content)), pair.box)

    def _shard(self, path: Path, endings: set[str]) -> Iterator[Pair | Bad]:
        name, version = path.relative_to(self.folder).as_posix(), version_of(path) or ""
        key, members = "", Members()
        with path.open("rb") as file:
            for member in _members(file, name):
                if isinstance(member, Bad):
                    yield member
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                sample = f"{folder}/{stem}" if folder else stem
                if sample != key:
                    yield from self._sample(file, name, key, members, version)
                    key, members = sample, Members()
                members[f".{ending.lower()}"] = member
                endings.add(f".{ending.lower()}")
            yield from self._sample(file, name, key, members, version)

    def _sample(
        self, file: IO[bytes], shard: str, key: str, members: Members, version: str
    ) -> Iterator[Pair | Bad]:
        location = f"{shard}, {key}"
        image = next((members[ending] for ending in IMAGES if ending in members), None)
        text = next((ending for ending in CAPTIONS if ending in members), None)
        if image is None and text is None:  # some other file, or the empty start
            return
        if image is None or text is None:
            yield Bad(location, "no such image" if image is None else "no caption")
            return
        try:
            caption = _read(file, members, text)
            fields = _read(file, members, ".json") if ".json" in members else {}
        except ValueError as error:
            yield Bad(location, str(error))
            return
        if why := failed(fields.get("status")) or below(fields, self.at_least):
            yield Bad(location, why, dropped=True)
            return
        caption = caption.get("caption") if isinstance(caption, dict) else caption
        where = f"{shard}|{image.offset_data}|{image.size}"
        yield from captioned(
            caption, location, Pair("", where, group=f"{shard}|{key}", version=version)
        )


def _read(file: IO[bytes], members: Members, ending: str) -> Any:
    """Read a sample's text, or the fields of its JSON object.

    Raises:
        ValueError: with the reason why there are none.
    """
    file.seek(members[ending].offset_data)
    content = file.read(min(members[ending].size, LONGEST + 1))
    if len(content) > LONGEST:
        raise ValueError("caption too long")
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(text) if ending == ".json" else text
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if ending == ".json" and not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _members(file: IO[bytes], shard: str) -> Iterator[tarfile.TarInfo | Bad]:
    """Yield an archive's complete and safe files; the rest as bad records.

    Raises:
        VLMIGError: it is compressed, or not a tar archive.
    """
    length = os.fstat(file.fileno()).st_size
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  # the file is the caller's
    except (tarfile.TarError, OSError) as error:
        raise VLMIGError(
            f"{shard} is no plain tar archive ({one_line(error)}); expected one that is not "
            "compressed; unpack it with gunzip or fetch it again"
        ) from None
    try:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # or it would keep all of them
            if not _safe(member):
                yield Bad(f"{shard}, {member.name}", "unsafe member")
            elif member.isfile() and member.offset_data + member.size > length:
                yield Bad(f"{shard}, {member.name}", "truncated archive")
                return
            elif member.isfile():
                yield member
    except (tarfile.TarError, OSError, ValueError):
        yield Bad(f"{shard}, byte {archive.offset}", "truncated archive")
        return
    file.seek(archive.offset)
    rest = file.read(BLOCK)
    if rest.strip(b"\0") or 0 < len(rest) < BLOCK:  # tarfile takes a damaged head for the end
        yield Bad(
            f"{shard}, byte {archive.offset}",
            "truncated archive" if len(rest) < BLOCK else "damaged archive",
        )


def _safe(member: tarfile.TarInfo) -> bool:
    """Return whether a member is a plain file or folder whose path stays inside the archive."""
    path = PurePosixPath(member.name)
    plain = (member.isfile() and not member.issparse()) or member.isdir()
    return plain and not path.is_absolute() and ".." not in path.parts
