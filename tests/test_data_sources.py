"""Sources of pairs: the same content in every format, and what is broken."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import noise, read, reasons, visual_genome
from PIL import Image

from vlmig.data.pairs import Pair, Source
from vlmig.data.sources.build import build_source
from vlmig.data.sources.folder import Folder
from vlmig.data.sources.table import Table
from vlmig.data.sources.visual_genome import VisualGenome
from vlmig.data.sources.webdataset import WebDataset
from vlmig.errors import VLMIGError
from vlmig.vision.files import BadImage

CONTENT = {"a.png": "a red apple", "b.png": "a blue car, parked", "c.png": "größer – ein Haus"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what datasets writes out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def as_table(folder: Path, ending: str) -> Source:
    rows = [{"image": name, "caption": caption} for name, caption in CONTENT.items()]
    path = folder / f"table.{ending}"
    if ending == "jsonl":
        path.write_text(
            "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
        )
    elif ending == "csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ["image", "caption"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return Table(path)


def as_embedded(folder: Path, kind: str) -> Source:
    rows = {"image": [str(folder / name) for name in CONTENT], "caption": list(CONTENT.values())}
    made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    if kind == "disk":
        datasets.DatasetDict({"train": made}).save_to_disk(folder.parent / "disk")
        return Table(folder.parent / "disk")
    structs = [{"bytes": (folder / name).read_bytes(), "path": name} for name in CONTENT]
    pq.write_table(
        pa.table({"image": structs, "caption": rows["caption"]}), folder.parent / "embedded.parquet"
    )
    return Table(folder.parent / "embedded.parquet")


def as_folder(folder: Path, kind: str) -> Source:
    if kind == "sidecar":
        for name, caption in CONTENT.items():
            (folder / name).with_suffix(".txt").write_text(f"{caption}\n\n", encoding="utf-8")
    else:
        rows = [{"file_name": name, "text": caption} for name, caption in CONTENT.items()]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Folder(folder)


def as_tar(folder: Path, kind: str) -> Source:
    for number, (name, caption) in enumerate(CONTENT.items()):
        with tarfile.open(folder.parent / f"{number // 2:05}.tar", "a") as archive:
            archive.add(folder / name, name)
            text = json.dumps({"caption": caption}) if kind == "json" else caption
            add(archive, name.replace(".png", f".{kind}"), text.encode())
    return WebDataset(f"{folder.parent}/{{00000..00001}}.tar" if kind == "json" else folder.parent)


def add(archive: tarfile.TarFile, name: str, content: bytes, **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


FORMATS = {
    **{ending: (as_table, ending) for ending in ("jsonl", "csv", "parquet")},
    **{f"embedded {kind}": (as_embedded, kind) for kind in ("disk", "parquet")},
    **{f"folder {kind}": (as_folder, kind) for kind in ("sidecar", "metadata")},
    **{f"tar {kind}": (as_tar, kind) for kind in ("txt", "json")},
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_pairs(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, file in enumerate(CONTENT):
        noise(number).save(folder / file)
    make, kind = FORMATS[name]
    source = make(folder, kind)
    pairs, bad = read(source)
    assert not bad
    assert [pair.caption for pair in pairs] == list(CONTENT.values())
    assert [source.open(pair).tobytes() for pair in pairs] == [
        noise(i).tobytes() for i in range(len(CONTENT))
    ]
    assert len({pair.group for pair in pairs}) == len(pairs)
    assert all(pair.version for pair in pairs)


def test_table_lines_that_cannot_be_read_are_bad_records(tmp_path: Path) -> None:
    noise(0).save(tmp_path / "a.png")
    lines = [
        b'{"image": "a.png", "caption": ["one", "two", ""], "where": [10, 10, 100, 10]}',
        b'{"image": "a.png", "caption": "lat\xffin"}',
        b'{"image": "a.png", "caption": "cut',
        b"[1]",
        b"",
        b'{"image": null, "caption": "only text", "imagine": "a cat"}',
        b'{"image": "none.png", "caption": "x"}',
        b'{"image": "a.png"}',
        b'{"image": "a.png", "caption": 3}',
        b'{"image": "a.png", "caption": "x", "where": "1 2 3"}',
        b'{"image": "a.png", "caption": "half \\ud800"}',
    ]
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(lines))
    pairs, bad = read(Table(tmp_path / "t.jsonl", prompt="imagine", box="where"))
    assert [(p.caption, p.picture, p.box, p.clamped, p.prompt) for p in pairs] == [
        ("one", "a.png", (10, 10, 40, 20), True, ""),
        ("two", "a.png", (10, 10, 40, 20), True, ""),
        ("only text", "", None, False, "a cat"),
    ]
    assert [(own.place, own.reason) for own in bad] == [
        ("t.jsonl, line 1, caption 3", "empty caption"),
        ("t.jsonl, line 2", "not UTF-8"),
        ("t.jsonl, line 3", "not JSON"),
        ("t.jsonl, line 4", "not a JSON object"),
        ("t.jsonl, line 7", "no such image"),
        ("t.jsonl, line 8", "no caption"),
        ("t.jsonl, line 9", "caption is no text"),
        ("t.jsonl, line 10", "box without four numbers"),
        ("t.jsonl, line 11", "not Unicode"),
    ]
    (tmp_path / "t.csv").write_bytes(
        b'image,caption,where\na.png,one,"1, 2, 9, '
        b'9"\na.png\n\na.png,\xff\xfe,\na.png,"two\nlines",\na.png,"a"b,\n'
    )
    pairs, bad = read(Table(tmp_path / "t.csv", box="where"))
    assert [(pair.caption, pair.box) for pair in pairs] == [
        ("one", (1, 2, 10, 11)),
        ("two\nlines", None),
    ]
    assert [(own.place, own.reason) for own in bad] == [
        ("t.csv, line 3", "wrong number of fields"),
        ("t.csv, line 5", "not UTF-8"),
        ("t.csv, line 8", "not CSV"),
    ]
    for name in ("t.csv", "t.jsonl"):
        with pytest.raises(VLMIGError, match="no column picture; it has"):
            list(Table(tmp_path / name, image="picture").pairs())


def test_pictures_of_every_mode_become_rgb(tmp_path: Path) -> None:
    ramp = np.arange(40 * 30, dtype=np.uint16).reshape(30, 40) * 50
    pictures = {
        "grey.png": noise(0).convert("L"),
        "alpha.png": noise(0).convert("RGBA"),
        "deep.png": Image.fromarray(ramp),
        "ink.jpg": noise(0).convert("CMYK"),
        "palette.gif": noise(0).quantize(8),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    source = Folder(tmp_path, names=True)
    pairs, bad = read(source)
    assert not bad and [pair.caption for pair in pairs] == [
        "alpha",
        "deep",
        "empty",
        "grey",
        "ink",
        "palette",
        "text",
    ]
    for pair in pairs:
        if pair.caption in ("empty", "text"):
            with pytest.raises(BadImage, match="not an image"):
                source.open(pair)
        else:
            assert (source.open(pair).mode, source.open(pair).size) == ("RGB", (40, 30))
    deep = np.asarray(source.open(pairs[1]))
    assert (deep == (ramp // 256)[..., None]).all()
    with pytest.raises(BadImage, match="box outside the image"):
        source.open(Pair("x", "grey.png", (40, 0, 50, 10)))
    assert source.open(Pair("x", "grey.png", (30, 0, 50, 10))).size == (10, 10)
    with pytest.raises(BadImage, match="no such image"):
        source.open(Pair("x", "gone.png"))


def test_a_decompression_bomb_is_a_bad_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(0).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImage, match="too large"):
        Folder(tmp_path).open(Pair("x", "bomb.png"))


def test_folder_conventions(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "red_apple-03.png", "sub/c.png"):
        noise(0).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("first\n\nsecond\n")
    (tmp_path / "metadata.csv").write_text(
        "file_name,text\na.png,hidden by a.txt\nb.png,bee\ngone.png,x\n"
    )
    (tmp_path / "sub/metadata.jsonl").write_text(
        '{"file_name": "c.png", "text": "sea"}\n{"text": "x"}\n'
    )
    (tmp_path / "loop").symlink_to(tmp_path)
    pairs, bad = read(Folder(tmp_path))
    assert [(p.picture, p.caption) for p in pairs] == [
        ("b.png", "bee"),
        ("sub/c.png", "sea"),
        ("a.png", "first"),
        ("a.png", "second"),
    ]
    assert [(own.place, own.reason) for own in bad] == [
        ("metadata.csv, line 4", "no such image"),
        ("sub/metadata.jsonl, line 2", "no file_name"),
        ("red_apple-03.png", "no caption"),
    ]
    assert read(Folder(tmp_path, names=True))[0][-1].caption == "red apple"


def test_a_hostile_tar(tmp_path: Path) -> None:
    picture = io.BytesIO()
    noise(0).save(picture, "PNG")
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "good.png", picture.getvalue())
        add(archive, "good.txt", b"fine")
        add(archive, "../up.txt", b"x")
        add(archive, "/root.txt", b"x")
        add(archive, "link.png", b"", type=tarfile.SYMTYPE, linkname=str(secret))
        add(archive, "hard.txt", b"", type=tarfile.LNKTYPE, linkname="good.txt")
        add(archive, "pipe.txt", b"", type=tarfile.FIFOTYPE)
        add(archive, "alone.png", picture.getvalue())
        add(archive, "words.txt", b"no picture")
        add(archive, "bytes.png", picture.getvalue())
        add(archive, "bytes.txt", b"\xff")
        add(archive, "long.png", picture.getvalue())
        add(archive, "long.txt", b"x" * (2**20 + 1))
        add(archive, "deep.png", picture.getvalue())
        add(archive, "deep.json", b"[" * 100_000)
        add(archive, "last.png", picture.getvalue())
        add(archive, "last.txt", b"cut here")
    before = sorted(tmp_path.iterdir())
    pairs, bad = read(WebDataset(path))
    assert [pair.caption for pair in pairs] == ["fine", "cut here"]
    assert WebDataset(path).open(pairs[0]).tobytes() == noise(0).tobytes()
    assert reasons(bad) == {
        "unsafe member": 5,
        "no caption": 1,
        "no such image": 1,
        "not UTF-8": 1,
        "caption too long": 1,
        "not JSON": 1,
    }
    assert sorted(tmp_path.iterdir()) == before
    whole = path.read_bytes()
    place = whole.index(b"last.png")
    for length, found in (
        (place + 100, 1),
        (place + 700, 1),
        (place + 512, 1),
    ):  # in a head, in a picture, between
        path.write_bytes(whole[:length])
        pairs, bad = read(WebDataset(path))
        assert [pair.caption for pair in pairs] == ["fine"]
        assert reasons(bad)["truncated archive"] == found
    path.write_bytes(whole[:place] + b"garbage" * 300)
    assert reasons(read(WebDataset(path))[1])["damaged archive"] == 1
    path.write_bytes(b"\x1f\x8bno tar")
    with pytest.raises(VLMIGError, match="no plain tar archive"):
        list(WebDataset(path).pairs())


def test_build_source(tmp_path: Path) -> None:
    visual_genome(tmp_path / "vg")
    (tmp_path / "t.csv").write_text("image,caption\n,x\n")
    (tmp_path / "pictures").mkdir()
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    kinds = {"vg": VisualGenome, "t.csv": Table, "pictures": Folder, "x.tar": WebDataset}
    for path, kind in kinds.items():
        assert isinstance(build_source({"path": path}, tmp_path), kind)
        assert isinstance(build_source({"path": str(tmp_path / path)}), kind)
    assert (
        build_source({"source": "visual_genome", "path": "vg", "min_side": 3}, tmp_path).min_side
        == 3
    )  # type: ignore[attr-defined]
    assert isinstance(
        build_source({"source": "mine"}, own={"mine": lambda: Folder(tmp_path)}), Folder
    )
    wrong = {
        "expected one of visual_genome, laion220k": {"source": "imagenet", "path": "vg"},
        "has no option 'side'; expected path, min_side": {"path": "vg", "side": 3},
        "min_side of source visual_genome is 'x'; expected int": {"path": "vg", "min_side": "x"},
        "source laion220k is missing 'images'": {"source": "laion220k", "path": "vg"},
        "there is nothing at nowhere": {"path": "nowhere"},
        "expected source, path or both": {},
        "expected a language model's tokenizer": {"source": "wikitext", "path": "vg"},
        "no region_descriptions.json": {"source": "visual_genome", "path": "pictures"},
    }
    for message, spec in wrong.items():
        with pytest.raises(VLMIGError) as error:
            build_source(spec, tmp_path)
        assert message in str(error.value) and "\n" not in str(error.value)
