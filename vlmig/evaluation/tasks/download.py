"""Where benchmark files come from when no folder is given: their public source (``sources.yaml``), verified by content hash."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import shutil
import tempfile
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from vlmig.errors import VLMIGError

logger = logging.getLogger(__name__)
BLOCK = 1 << 20
"""Bytes read at a time: an archive may be larger than the memory to spare."""


@dataclass(frozen=True)
class Source:
    """Where a file comes from."""

    url: str
    sha256: str | None
    """Of what is downloaded; None where it is not known beforehand."""
    member: str | None = None
    """The file's name inside the zip archive that is downloaded."""
    hub: str | None = None
    """The data set on the Hugging Face Hub, for the record."""


def read_sources(path: Path) -> dict[str, Source]:
    """Read the table of sources: path below the data folder -> where it comes from."""
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: Source(**fields) for name, fields in table.items()}


SOURCES = read_sources(Path(__file__).parents[1] / "sources.yaml")


def fetch(files: Sequence[str], folder: Path) -> Path:
    """Download the files that are not yet in ``folder``; none is kept whose content is not the expected one.

    A file whose content is not known beforehand has its SHA-256 recorded beside it, as NAME.sha256, and is held to that from
    then on. Files of one archive cost one download.

    Raises:
        VLMIGError: no known source, no network, a content that differs, or an archive without the file.
    """
    wanted: dict[str, list[str]] = {}
    for name in dict.fromkeys(files):
        if (folder / name).is_file():
            _check_recorded(name, folder, folder / name)
        elif name in SOURCES:
            wanted.setdefault(SOURCES[name].url, []).append(name)
        else:
            raise VLMIGError(
                f"{name} has no source known here; get it and pass --data (or VLMIG_DATA) its folder"
            )
    for url, names in wanted.items():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".fetch-", dir=folder
        ) as rooms:  # beside its goal: moving is then atomic
            downloaded = _download(url, Path(rooms) / "downloaded", names[0])
            for name in names:
                _verify(downloaded, SOURCES[name])
                _keep(_file(downloaded, SOURCES[name], Path(rooms) / "file"), name, folder)
    return folder


def sha256(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, goal: Path, name: str) -> Path:
    logger.info("downloading %s", url)
    try:
        with urllib.request.urlopen(url, timeout=60) as response, goal.open("wb") as file:
            shutil.copyfileobj(response, file, BLOCK)
            length = response.headers.get("Content-Length")
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        reason = getattr(error, "reason", error)
        raise VLMIGError(
            f"cannot download {url}: {reason}; pass --data (or VLMIG_DATA) a folder that has {name}"
        ) from error
    if length is not None and goal.stat().st_size != int(
        length
    ):  # urllib takes a broken connection for the end
        raise VLMIGError(
            f"cannot download {url}: {goal.stat().st_size} of {length} bytes came; try again"
        )
    return goal


def _verify(downloaded: Path, source: Source) -> None:
    if source.sha256 is None:
        return
    found = sha256(downloaded)
    if found != source.sha256:
        raise VLMIGError(
            f"{source.url} has SHA-256 {found[:12]}..., expected {source.sha256[:12]}...: the source changed; pass --data a folder with the known file"
        )


def _file(downloaded: Path, source: Source, goal: Path) -> Path:
    """Return the file itself: of an archive, the one member of exactly that name; nothing else is ever unpacked."""
    if source.member is None:
        return downloaded
    try:
        with zipfile.ZipFile(downloaded) as archive:
            if source.member not in archive.namelist():
                raise VLMIGError(
                    f"{source.url} has no member {source.member}, but {len(archive.namelist())} others; pass --data a folder with the file"
                )
            with archive.open(source.member) as member, goal.open("wb") as file:
                shutil.copyfileobj(member, file, BLOCK)
    except zipfile.BadZipFile as error:
        raise VLMIGError(
            f"{source.url} is no zip archive ({error}); pass --data a folder with the file"
        ) from None
    return goal


def _keep(file: Path, name: str, folder: Path) -> None:
    """Move a file to its place; where nothing was known about it, what it is now is written down first."""
    place, record = folder / name, _record(name, folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    _check_recorded(name, folder, file)
    if SOURCES[name].sha256 is None and not record.is_file():
        found = sha256(file)
        logger.info(
            "%s: its SHA-256 was not known beforehand; %s is recorded in %s", name, found, record
        )
        part = file.with_name("record")
        part.write_text(f"{found}\n", encoding="utf-8")
        os.replace(part, record)
    os.replace(file, place)


def _record(name: str, folder: Path) -> Path:
    return folder / f"{name}.sha256"


def _check_recorded(name: str, folder: Path, file: Path) -> None:
    """Hold a file to what was recorded when it first came."""
    record = _record(name, folder)
    if name not in SOURCES or SOURCES[name].sha256 is not None or not record.is_file():
        return
    expected, found = record.read_text(encoding="utf-8").strip(), sha256(file)
    if found != expected:
        raise VLMIGError(
            f"{name} has SHA-256 {found[:12]}..., recorded were {expected[:12]}... in {record}: it changed since it first came; fetch the first one, or delete {record} to take this one"
        )
