"""Download benchmark files from their public source (``sources.yaml``), verified by content
hash."""

from __future__ import annotations

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
from vlmig.io.hashing import sha256

logger = logging.getLogger(__name__)
BLOCK = 1 << 20
"""Bytes read at a time: an archive may be larger than the free memory."""


@dataclass(frozen=True)
class Source:
    """Where a file comes from."""

    url: str
    sha256: str | None
    """Hash of the downloaded file; None if it is not known in advance."""
    member: str | None = None
    """The file's name inside the zip archive that is downloaded."""
    hub: str | None = None
    """The data set on the Hugging Face Hub, for the record."""
    by_hand: str | None = None
    """Of a file that is never downloaded: how to come by it."""


def read_sources(path: Path) -> dict[str, Source]:
    """Read the table of sources: path below the data folder -> where it comes from."""
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: Source(**fields) for name, fields in table.items()}


SOURCES = read_sources(Path(__file__).parents[1] / "sources.yaml")


def fetch(files: Sequence[str], folder: Path) -> Path:
    """Download the files that are not yet in ``folder``, and keep only those with the expected
    content.

    If a file's hash is not known in advance, the SHA-256 of the first download is recorded beside
    it as NAME.sha256 and checked from then on. Files of one archive cost one download.

    Raises:
        VLMIGError: no known source, no network, other content, an archive without the file, or one
            that is made by hand.
    """
    wanted: dict[str, list[str]] = {}
    for name in dict.fromkeys(files):
        if (folder / name).is_file():
            _check_recorded(name, folder, folder / name)
        elif name in SOURCES and SOURCES[name].by_hand:
            raise VLMIGError(absent(folder / name, name))
        elif name in SOURCES:
            wanted.setdefault(SOURCES[name].url, []).append(name)
        else:
            raise VLMIGError(
                f"no known source of {name}; get it and pass --data (or VLMIG_DATA) its folder"
            )
    for url, names in wanted.items():
        folder.mkdir(parents=True, exist_ok=True)
        # A folder inside the target folder, so that moving a file out of it is atomic.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
            downloaded = _download(url, Path(temporary) / "downloaded", names[0])
            for name in names:
                _verify(downloaded, SOURCES[name])
                _keep(_file(downloaded, SOURCES[name], Path(temporary) / "file"), name, folder)
    return folder


def absent(path: Path, name: str) -> str:
    """Say how to come by a file that is not there and is never downloaded."""
    source = SOURCES[name]
    return f"no file {path}; {source.by_hand} ({source.url}); then pass --data DATA"


def _download(url: str, target: Path, name: str) -> Path:
    logger.info("downloading %s", url)
    try:
        with urllib.request.urlopen(url, timeout=60) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file, BLOCK)
            length = response.headers.get("Content-Length")
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        reason = getattr(error, "reason", error)
        raise VLMIGError(
            f"cannot download {url}: {reason}; pass --data (or VLMIG_DATA) a folder that has {name}"
        ) from error
    # urllib takes a broken connection for the end.
    if length is not None and target.stat().st_size != int(length):
        raise VLMIGError(
            f"cannot download {url}: {target.stat().st_size} of {length} bytes came; try again"
        )
    return target


def _verify(downloaded: Path, source: Source) -> None:
    if source.sha256 is None:
        return
    actual = sha256(downloaded)
    if actual != source.sha256:
        raise VLMIGError(
            f"{source.url}: SHA-256 mismatch: got {actual[:12]}..., expected "
            f"{source.sha256[:12]}...: the source changed; pass --data a folder with the known file"
        )


def _file(downloaded: Path, source: Source, target: Path) -> Path:
    """Return the file, or unpack it from its archive; no other member is ever unpacked."""
    if source.member is None:
        return downloaded
    try:
        with zipfile.ZipFile(downloaded) as archive:
            if source.member not in archive.namelist():
                raise VLMIGError(
                    f"{source.url} has no member {source.member}, but {len(archive.namelist())} "
                    "others; pass --data a folder with the file"
                )
            with archive.open(source.member) as member, target.open("wb") as file:
                shutil.copyfileobj(member, file, BLOCK)
    except zipfile.BadZipFile as error:
        raise VLMIGError(
            f"{source.url} is not a zip archive ({error}); pass --data a folder with the file"
        ) from None
    return target


def _keep(file: Path, name: str, folder: Path) -> None:
    """Move a file into the folder; if its hash was unknown, record it first."""
    target, record = folder / name, _record(name, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_recorded(name, folder, file)
    if SOURCES[name].sha256 is None and not record.is_file():
        actual = sha256(file)
        logger.info("%s: no known SHA-256; %s is recorded in %s", name, actual, record)
        temporary = file.with_name("record")
        temporary.write_text(f"{actual}\n", encoding="utf-8")
        os.replace(temporary, record)
    os.replace(file, target)


def _record(name: str, folder: Path) -> Path:
    return folder / f"{name}.sha256"


def _check_recorded(name: str, folder: Path, file: Path) -> None:
    """Compare a file with the hash of its first download."""
    record = _record(name, folder)
    if name not in SOURCES or SOURCES[name].sha256 is not None or not record.is_file():
        return
    expected, actual = record.read_text(encoding="utf-8").strip(), sha256(file)
    if actual != expected:
        raise VLMIGError(
            f"{name}: SHA-256 mismatch: got {actual[:12]}..., recorded {expected[:12]}.... The "
            f"file changed after the first download; restore it, or delete {record} to accept the "
            "new one"
        )
