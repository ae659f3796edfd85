"""Benchmark files come from their sources, verified."""

from __future__ import annotations

import hashlib
import logging
import shutil
import zipfile
from pathlib import Path

import pytest

from vlmig import VLMIGError
from vlmig.evaluation.tasks.download import SOURCES, Source, fetch
from vlmig.evaluation.tasks.yaml_task import declaration, known_tasks


def test_every_file_has_a_source_and_every_source_a_task() -> None:
    declared = {
        name
        for task in known_tasks()
        for names in declaration(task).files.values()
        for name in names
    }
    assert declared == set(SOURCES)
    for source in SOURCES.values():
        assert source.url.startswith("https://")
        assert source.sha256 is None or len(bytes.fromhex(source.sha256)) == 32
        assert (source.member is not None) == source.url.endswith(".zip")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def set_source(
    monkeypatch: pytest.MonkeyPatch, path: Path, sha256: str | None, member: str | None = None
) -> None:
    """Let valm/shape.csv come from a file of our own, for the time of a test."""
    monkeypatch.setitem(SOURCES, "valm/shape.csv", Source(path.as_uri(), sha256, member))


def test_files_are_fetched_once_and_only_with_the_known_content(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, fresh = "valm/shape.csv", tmp_path / "fresh"
    known = digest(data / name)
    set_source(monkeypatch, data / name, known)
    assert (fetch([name, name], tmp_path) / name).read_bytes() == (data / name).read_bytes()
    set_source(monkeypatch, tmp_path / "gone", known)
    fetch([name], tmp_path)  # already there
    with pytest.raises(VLMIGError, match="cannot download .*pass --data"):
        fetch([name], fresh)
    set_source(monkeypatch, data / name, "0" * 64)
    with pytest.raises(VLMIGError, match="expected 000000000000.*the source changed"):
        fetch([name], fresh)
    assert not [path for path in fresh.rglob("*") if path.is_file()]
    with pytest.raises(VLMIGError, match="no known source of"):
        fetch(["valm/other.csv"], tmp_path)


def test_of_an_archive_the_named_member_alone_is_taken(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, folder, names = (
        tmp_path / "a.zip",
        tmp_path / "own",
        ("piqa/dev.jsonl", "piqa/dev-labels.lst"),
    )
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../outside.txt", "no")
        for name in names:
            packed.write(data / name, f"inner/{name}")
    for name in names:
        monkeypatch.setitem(
            SOURCES, name, Source(archive.as_uri(), digest(archive), f"inner/{name}")
        )
    fetch(names, folder)
    assert sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
    ) == sorted(names)
    assert all((folder / name).read_bytes() == (data / name).read_bytes() for name in names)
    set_source(monkeypatch, archive, digest(archive), "dev.jsonl")
    with pytest.raises(VLMIGError, match="has no member dev.jsonl, but 3 others; pass --data"):
        fetch(["valm/shape.csv"], folder)
    set_source(monkeypatch, data / names[0], None, "dev.jsonl")
    with pytest.raises(VLMIGError, match="is not a zip archive .*; pass --data"):
        fetch(["valm/shape.csv"], folder)
    set_source(monkeypatch, archive, digest(data / names[0]), f"inner/{names[0]}")
    with pytest.raises(VLMIGError, match="the source changed"):
        fetch(["valm/shape.csv"], folder)


def test_an_unknown_content_is_recorded_and_held_to(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name, origin, place = "valm/shape.csv", tmp_path / "origin.csv", tmp_path / "own/valm/shape.csv"
    shutil.copy(data / name, origin)
    set_source(monkeypatch, origin, None)
    with caplog.at_level(logging.INFO, "vlmig"):
        fetch([name], tmp_path / "own")
    record = place.with_name("shape.csv.sha256")
    assert record.read_text() == digest(origin) + "\n"
    assert "no known SHA-256" in caplog.text
    fetch([name], tmp_path / "own")  # the same again
    place.write_text("changed by hand")
    with pytest.raises(
        VLMIGError,
        match="SHA-256 mismatch: got .*, recorded .*changed after the first download; restore it, "
        "or delete",
    ):
        fetch([name], tmp_path / "own")
    place.unlink()
    origin.write_text("changed at its source")
    with pytest.raises(VLMIGError, match="SHA-256 mismatch"):
        fetch([name], tmp_path / "own")
    assert not place.exists()
    record.unlink()
    assert (fetch([name], tmp_path / "own") / name).read_text() == "changed at its source"
