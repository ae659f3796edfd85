"""Documents with pictures between their sentences: what is read, what is learnt, and what is
refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_files import noise, read

from vlmig.data.index import index
from vlmig.data.pairs import Pair
from vlmig.data.sources.interleaved import Interleaved
from vlmig.io.rows import Bad


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("abc"):
        noise(number, (20 + number, 30)).save(tmp_path / f"{name}.png")
    return tmp_path


def learnt(pair: Pair) -> list[str]:
    return [pair.caption[begin:end] for begin, end in pair.learnt]


def document(pictures: list[tuple[str, int]] | None = None, **more: Any) -> dict[str, Any]:
    """A page whose second sentence has two pictures and whose list is not in the order of the
    page."""
    listed = pictures or [("b.png", 3), ("a.png", 1), ("gone.png", 0), ("c.png", 1), ("a.png", 3)]
    infos = [
        {"image_name": name, "matched_text_index": place, "matched_sim": 0.2 + 0.05 * place}
        for name, place in listed
    ]
    text = ["We planted beans.", " The <image> pods. ", "", "Pick them dry.", "The end."]
    return {"url": "http://ex.org/p", "text_list": text, "image_info": infos, **more}


def interleaved(folder: Path, *documents: Any, **options: Any) -> Interleaved:
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, documents)))
    return Interleaved(folder / "docs.jsonl", **options)


def test_documents(folder: Path) -> None:
    source = interleaved(folder, document())
    (pair,), bad = read(source)
    assert not bad and [pair] == read(source)[0]
    assert pair.caption == (
        "We planted beans. <image><image>The <IMAGE> pods. <image><image>Pick them dry. The end."
    )
    assert ((pair.picture, *pair.more), pair.learnt) == (("a.png", "c.png", "b.png", "a.png"), ())
    assert [source.open(own).size[0] for own in pair.images()] == [20, 22, 21, 20]
    made = index(source, folder / "index")
    assert made[0] == pair

    (pair,), _ = read(interleaved(folder, document(), loss="after_picture"))
    assert learnt(pair) == ["The <IMAGE> pods.", "Pick them dry."]
    (pair,), _ = read(
        interleaved(folder, document(), max_pictures=2)
    )  # the first of the list that are there
    assert (
        pair.caption == "We planted beans. <image>The <IMAGE> pods. <image>Pick them dry. The end."
    )
    assert (pair.picture, pair.more) == ("a.png", ("b.png",))
    (pair,), _ = read(interleaved(folder, document(), min_similarity=0.3))
    assert (pair.picture, pair.more) == ("b.png", ("a.png",))

    pairs, bad = read(interleaved(folder, document(), break_up=True))
    assert [(own.caption, own.picture, own.more, own.learnt) for own in pairs] == [
        ("The <IMAGE> pods.", "a.png", (), ()),
        ("The <IMAGE> pods.", "c.png", (), ()),
        ("Pick them dry.", "b.png", (), ()),
        ("Pick them dry.", "a.png", (), ()),
    ]
    assert {own.group for own in pairs} == {"http://ex.org/p"} and all(own.version for own in pairs)


def test_documents_that_cannot_be_used(folder: Path) -> None:
    faults: list[tuple[str, bool, Any]] = [
        ("not a JSON object", False, []),
        ("no text_list", False, document(text_list="x")),
        ("sentence is no text", False, document(text_list=["x", None])),
        ("no image_info", False, document(image_info={})),
        ("image_info holds no object", False, document(image_info=["a.png"])),
        ("image name is no text", False, document([(None, 0)])),  # type: ignore[list-item]
        ("matched_text_index out of range", False, document([("a.png", 5)])),
        ("matched_text_index out of range", False, document([("a.png", 0), ("a.png", -1)])),
        ("not Unicode", False, document(text_list=["\udc00"] * 5)),
        ("no sentence behind an image", False, document([("a.png", 2)])),
        ("no image fetched", True, document([("gone.png", 0)])),
        ("no image listed", True, document(image_info=[])),
        (
            "similarity under 0.2",
            True,
            document(image_info=[{"image_name": "a.png", "matched_text_index": 0}]),
        ),
    ]
    source = interleaved(
        folder, *(own for _, _, own in faults), loss="after_picture", min_similarity=0.2
    )
    pairs, bad = read(source)
    assert not pairs
    assert bad == [
        Bad(f"docs.jsonl, line {i}", reason, left) for i, (reason, left, _) in enumerate(faults, 1)
    ]
    pairs, bad = read(interleaved(folder, document([("a.png", 2), ("b.png", 3)]), break_up=True))
    assert [own.picture for own in pairs] == ["b.png"]
    assert bad == [Bad("docs.jsonl, line 1, image 1", "empty caption")]


def test_shards_in_natural_order(folder: Path) -> None:
    for number in (10, 9):
        (folder / f"docs_{number}.jsonl").write_text(json.dumps(document(url=str(number))))
    for path in (folder, folder / "docs_*.jsonl"):
        assert [pair.group for pair in read(Interleaved(path))[0]] == ["9", "10"]
