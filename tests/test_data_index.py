"""Pairs on disk, what is left out of them, what is held out, and the check of it all."""

from __future__ import annotations

import json
import os
import re
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from proof import PROOF

import vlmig.data.index
from vlmig.cli.main import main
from vlmig.data.curation import Curation, curate, split
from vlmig.data.index import Index, check_share, index
from vlmig.data.pairs import Pair
from vlmig.data.sources.visual_genome import VisualGenome
from vlmig.errors import VLMIGError
from vlmig.io.rows import Bad
from vlmig.vision.files import BadImage


@dataclass
class Given:
    """A source of records that are there already."""

    records: Sequence[Pair | Bad]
    name: str = "given"
    read: int = field(default=0)

    def pairs(self) -> Iterator[Pair | Bad]:
        self.read += 1
        yield from self.records

    def open(self, pair: Pair) -> Image.Image:
        raise BadImage("no such image")


def some(count: int) -> list[Pair]:
    return [
        Pair(
            f"caption {i} – é",
            f"{i // 3}.jpg",
            (i, 1, i + 9, 10) if i % 2 else None,
            "p" * (i % 4),
            f"{i // 3}",
            "1 2",
        )
        for i in range(count)
    ]


def test_an_index_is_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlmig.data.index, "BATCH", 8)
    for count in (0, 5, 16, 37):
        pairs = some(count)
        bad = [
            Bad("a, line 1", "empty caption"),
            Bad("b", "empty caption"),
            Bad("c", "too small", dropped=True),
        ]
        source = Given([*pairs[:3], *bad, *pairs[3:]])
        made = index(source, tmp_path / str(count))
        assert [made[row] for row in range(len(made))] == pairs
        assert made.counts == {
            "records": count + 3,
            "pairs": count,
            "clamped": 0,
            "too small": 1,
            "empty caption": 2,
        }
        assert list(made.faults()) == bad
        assert [made[row] for row in np.arange(count)] == pairs
        for row in (-1, count):
            with pytest.raises(IndexError):
                made[row]
        again = index(source, tmp_path / str(count))
        assert source.read == 1 and again.counts == made.counts
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0",
        "16",
        "37",
        "5",
    ]  # no parts are left


def test_an_index_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    class Broken(Given):
        def pairs(self) -> Iterator[Pair | Bad]:
            yield from self.records
            raise VLMIGError("broken off")

    with pytest.raises(VLMIGError, match="broken off"):
        index(Broken(some(5)), tmp_path / "x")
    assert not list(tmp_path.iterdir())
    made = index(Given(some(9)), tmp_path / "x", limit=4)
    assert len(made) == 4
    for source, limit in (
        (Given(some(9), "another"), 4),
        (Given(some(9)), None),
        (Given(some(9)), 0),
    ):
        with pytest.raises(VLMIGError):
            index(source, tmp_path / "x", limit)
    (tmp_path / "x/pairs.arrow").write_bytes(b"cut")
    with pytest.raises(VLMIGError, match="no complete index"):
        Index(tmp_path / "x", Given([]))


def test_a_row_is_read_at_once(tmp_path: Path) -> None:
    made = index(Given(some(50_000)), tmp_path / "x")
    rows = np.random.default_rng(0).integers(0, len(made), 2000).tolist()
    started = time.perf_counter()
    for row in rows:
        made[row]
    assert (time.perf_counter() - started) / len(rows) < 100e-6  # measured: about 10 us


def test_check_share_says_everything() -> None:
    check_share({"empty caption": 4}, 40, 0.1, "x")
    with pytest.raises(VLMIGError) as error:
        check_share(
            {"no such image": 5, "empty caption": 7},
            40,
            0.1,
            "visual_genome vg",
            Path("x/bad.jsonl"),
        )
    assert str(error.value) == (
        "12 of 40 records of visual_genome vg are bad (30 %): 7 empty caption, 5 no such image; "
        "at most 10 % are "
        "skipped; mend them (listed in x/bad.jsonl) or raise max_bad"
    )


def test_curation_by_hand(tmp_path: Path) -> None:
    box = (0, 0, 9, 9)
    pairs = [
        Pair("a red  ball", "1", box),
        Pair("A red ball.", "1", box),
        Pair("a red ball", "1"),
        Pair("a red ball", "2", box),
        Pair("ball", "1", box),
        Pair("one two three four five", "1", box),
        Pair("a blue ball", "1", box),
        Pair(" A RED\tBALL !", "1", box),
        Pair("a text", "", None, "a cat"),
        Pair("a text", "", None, "a dog"),
    ]
    made = index(Given(pairs), tmp_path / "x")
    asked: list[Pair] = []

    def alignment(own: Sequence[Pair]) -> list[float]:
        asked.extend(own)
        return [
            np.nan if not pair.picture else 0.1 if "blue" in pair.caption else 0.3 for pair in own
        ]

    rows, dropped = curate(
        made, Curation(min_words=2, max_words=4, duplicates=True, min_alignment=0.2), alignment
    )
    assert rows.dtype == np.int64 and rows.tolist() == [0, 2, 3, 8, 9]
    assert dropped == {"min_words": 1, "max_words": 1, "duplicates": 2, "min_alignment": 1}
    assert asked == [pairs[i] for i in (0, 2, 3, 6, 8, 9)]
    assert (
        curate(made, Curation())[0].tolist() == list(range(10))
        and curate(made, Curation())[1] == {}
    )
    with pytest.raises(VLMIGError, match="no vision encoder"):
        curate(made, Curation(min_alignment=0.2))
    for wrong in (
        {"min_word": 1},
        {"min_words": "x"},
        {"min_words": 5, "max_words": 4},
        {"duplicates": 1},
        [1],
    ):
        with pytest.raises(VLMIGError):
            Curation.from_mapping(wrong)  # type: ignore[arg-type]
    empty = index(Given([]), tmp_path / "empty")
    assert (
        curate(
            empty, Curation(min_words=1, max_words=9, duplicates=True, min_alignment=0.0), alignment
        )[0].tolist()
        == []
    )
    assert [len(part) for part in split(empty, np.arange(0), 0.5)] == [0, 0]


def test_split_is_by_group_and_blind_to_order(tmp_path: Path) -> None:
    pairs = [*some(3000), *(Pair(f"alone {i}") for i in range(1000))]
    turned = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]
    held: list[set[Pair]] = []
    for name, own in (("a", pairs), ("b", turned), ("c", turned[:2000])):
        made = index(Given(own), tmp_path / name)
        train, aside = split(made, np.arange(len(own)), 0.2, seed=3)
        assert sorted([*train, *aside]) == list(range(len(own)))
        held.append({made[int(row)] for row in aside})
        groups = [{made[int(row)].group for row in rows} - {""} for rows in (train, aside)]
        assert not groups[0] & groups[1]
    assert held[0] == held[1] and held[2] == held[0] & set(turned[:2000])
    assert 0.15 < len(held[0]) / len(pairs) < 0.25
    made = index(Given(pairs), tmp_path / "a")
    other = split(made, np.arange(len(pairs)), 0.2, seed=4)[1]
    assert set(other) != set(split(made, np.arange(len(pairs)), 0.2, seed=3)[1])
    some_rows = np.arange(0, len(pairs), 7)
    assert set(split(made, some_rows, 0.2, 3)[1]) == set(
        split(made, np.arange(len(pairs)), 0.2, 3)[1]
    ) & set(some_rows)


@pytest.fixture()
def faulty(tmp_path: Path) -> Path:
    """A folder with known faults: ten pairs, one of a picture that is none; three of them are one;
    a missing caption."""
    folder = tmp_path / "faulty"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (20 + 10 * i, 30), (i, 99, 200)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"number {i}\n<b>bold</b> & co\n")
    (folder / "0.txt").write_text("number 0\nNumber 0.\nnumber  0\n")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "broken.txt").write_text("broken")
    (folder / "silent.png").write_bytes((folder / "0.png").read_bytes())
    return folder


def test_data_check_tells_known_faults(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    command = [
        "data",
        "check",
        str(faulty),
        "--curate",
        "min_words=2",
        "--curate",
        "duplicates=true",
        "--out",
        str(page),
    ]
    assert main(command) == 2
    out, err = capsys.readouterr()
    rows = {
        line.split("  ")[1].strip(): line.split()
        for line in out.splitlines()[1:]
        if line.startswith("  ")
    }
    assert err.strip().splitlines()[-1] == (
        f"vlmig: 2 of 11 records of folder {faulty} are bad (18 %): 1 no caption, 1 not an image; "
        "at most 10 % are skipped; "
        f"mend them (listed in {page}) or raise max_bad"
    )
    found = {
        name: next(part for part in line if part.isdigit())
        for name, line in rows.items()
        if name in NUMBERS
    }
    assert found == NUMBERS
    assert (
        "1 / 2 / 3  fewest" in out
        and "20 / 35 / 50  pixels" in out
        and "30 / 30 / 30  pixels" in out
    )
    assert 'broken.jpg "broken"' in out and "silent.png" in out
    text = page.read_text()
    assert text.count("<figure><label") == 9 and "<b>" not in text and "&lt;b&gt;bold" in text
    assert "http" not in text.replace("http-equiv", "")
    drawn = re.findall(r"<figcaption>(.*?)</figcaption>\s*<svg.*?</svg>", text, re.S)
    assert drawn == ["words of a caption", "width of an image, pixels"], "all are 30 high"
    counts = re.findall(r"<title>(\d+)</title>", text.partition("width of an image")[2])
    assert sum(map(int, counts)) == 4, "each image is in one bar"
    assert main([*command[:3], "--max-bad", "0.2"]) == 0
    assert main([*command[:3], "--limit", "2"]) == 0
    assert "records" in capsys.readouterr().out


NUMBERS = {
    "records": "11",
    "pairs": "10",
    "images": "4",
    "groups": "5",
    "bad": "2",
    "left out": "0",
    "clamped boxes": "0",
    "duplicates": "2",
    "curation: min_words": "1",
    "curation: duplicates": "2",
    "curation": "7",
}


def test_data_check_of_a_recipe(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    entry = {
        "path": "faulty",
        "source": "folder",
        "limit": 6,
        "curate": {"min_words": 2, "min_alignment": 0.1},
    }
    stages = [
        {"data": [{**entry, "weight": 1}, {**entry, "names": True}]},
        {"data": [{**entry, "weight": 2}]},
    ]
    recipe.write_text(json.dumps({"stages": stages}))
    assert main(["data", "check", str(recipe), "--data", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("records") >= 2
    for text in ("stages: 3", "[", "stages: [{data: [x]}]", "stages: [{data: [{path: nowhere}]}]"):
        recipe.write_text(text)
        assert main(["data", "check", str(recipe), "--data", str(tmp_path)]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    for wrong in (
        ["--option", "names"],
        ["--option", "name=1"],
        ["--source", "x"],
        ["--curate", "min_words=x"],
    ):
        assert main(["data", "check", str(faulty), *wrong]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.scaled
def test_memory_stays_flat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The peak for many regions is that for few, but for what is held of each image."""
    # An index holds a little for each batch: with more records, batches as large as in use.
    monkeypatch.setattr(vlmig.data.index, "BATCH", 4096 if PROOF else 512)
    few, many = (2_000, 20_000) if not PROOF else (20_000, 200_000)
    peaks = {}
    for count in (50, few, many):  # the first only so that everything is imported
        folder = tmp_path / str(count)
        (folder / "VG_100K").mkdir(parents=True)
        Image.new("RGB", (100, 100)).save(folder / "VG_100K/1.jpg")
        for i in range(2, 101):  # the same images: memory per image is not what is measured
            os.link(folder / "VG_100K/1.jpg", folder / f"VG_100K/{i}.jpg")
        with (folder / "region_descriptions.json").open("w") as file:
            for image in range(count // 50):
                regions = [
                    {
                        "region_id": j,
                        "x": j,
                        "y": 3,
                        "width": 20,
                        "height": 20,
                        "phrase": f"a phrase of region {image} {j}",
                    }
                    for j in range(50)
                ]
                file.write(
                    ("[" if image == 0 else ",")
                    + json.dumps({"id": 1 + image % 100, "regions": regions})
                )
            file.write("]")
        source = VisualGenome(folder)
        tracemalloc.start()
        made = index(source, tmp_path / f"index {count}")
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(made) == count
    with capsys.disabled():
        if PROOF:
            print(f"\npeak of Python's memory: {peaks}")
    assert peaks[many] < 1.2 * peaks[few]
