"""Visual Genome's attributes as distributions: the raw format with its oddities, counted a second
way, and scored as what people say."""

from __future__ import annotations

import hashlib
import json
import random
import zipfile
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from vlmig import VLMIGError
from vlmig.cli.main import main
from vlmig.data.attributes import FILE, Vocabulary, noun_of, write_attributes
from vlmig.evaluation.tasks.download import SOURCES, fetch
from vlmig.evaluation.tasks.yaml_task import declaration

KINDS = ("color", "shape", "size", "material")


def thing(number: int, name: Any, *attributes: str, **more: Any) -> dict[str, Any]:
    """An object as published, in a box of its own."""
    box = {"x": number, "y": 2, "w": 30, "h": 40}
    names = [name] if isinstance(name, str) else name
    fields = {"object_id": number, "names": names, "synsets": [], "attributes": list(attributes)}
    return {**box, **fields, **more}


ODD: list[Any] = [
    {
        "image_id": 1,
        "attributes": [
            thing(10, "Ball", "red", "round "),
            thing(11, " the  ball ", "Red, white and BLUE"),
            thing(11, "ball", "striped"),  # the same object in another region
            thing(12, "ball", "green", x=10),  # another number, the box and noun of 10
            thing(13, "balls", "dark-red", synsets=["ball.n.01"]),
            thing(14, "leaf", "not green"),
            thing(15, "leaf", "parked"),
            thing(16, "leaf", "brown", w=0),
            thing(17, [], "brown"),
            thing(18, None, "brown"),
            thing(19, "", "brown"),
            thing(20, "leaf", attributes=None),
            {**thing(21, "leaf"), "attributes": []},
            {k: v for k, v in thing(22, "leaf").items() if k != "attributes"},
            thing(23, "leaf", "brown", x="1"),
            thing(24, "leaf", attributes=[None, 7, "light green"]),
            "no object",
        ],
    },
    {"id": 2, "attributes": [{**thing(30, "ball"), "attributes": ["wooden; large", "Grey"]}]},
    {"image_id": 3, "attributes": None},
    {"image_id": 4},
    {"image_id": 2, "attributes": [thing(40, "ball", "pink")]},
    {"image_id": 99, "attributes": [thing(41, "ball", "pink")]},
    {"image_id": "5", "attributes": []},
    "no image",
    {"image_id": 5, "attributes": []},
    {
        "image_id": 6,
        "attributes": [
            {
                "id": 50,
                "x": 0,
                "y": 0,
                "width": 9,
                "height": 9,
                "name": "ball",
                "attributes": ["RED"],
            }
        ],
    },
]


def raw(folder: Path, records: list[Any] = ODD, images: Any = (1, 2, 3, 4, 5, 6)) -> Path:
    folder.mkdir()
    (folder / "attributes.json").write_text(json.dumps(records))
    if images:
        known = [{"image_id": number, "width": 800, "height": 600} for number in images]
        (folder / "image_data.json").write_text(json.dumps(known))
    return folder


def counts(written: dict[str, Any], kind: str, noun: str) -> dict[str, float]:
    (block,) = [own for own in written["kinds"] if own["kind"] == kind]
    return {own["noun"]: own["counts"] for own in block["nouns"]}.get(noun, {})


def test_oddities_are_read_or_counted(tmp_path: Path) -> None:
    written = write_attributes(raw(tmp_path / "vg"), least=1)
    # Image 1 has three balls: red and green; red, white and blue; red. Image 2 gray, image 6 red.
    third = {"red": 1 / 2 + 1 / 3 + 1, "green": 1 / 2, "white": 1 / 3, "blue": 1 / 3}
    expected = {value: count / 3 for value, count in third.items()}
    expected |= {"gray": 1, "red": expected["red"] + 1}
    assert counts(written, "color", "ball") == pytest.approx(expected, abs=1e-4)
    assert counts(written, "shape", "ball") == {"round": 1}
    assert counts(written, "material", "ball") == {"wood": 1}
    assert counts(written, "size", "ball") == {"large": 1}
    assert counts(written, "color", "leaf") == {"green": 1}
    assert written["read"] == {
        "images": 4,
        "objects": 19,
        "left_out": {
            "object without attributes": 3,
            "object without a name": 4,
            "object without an area": 2,
            "object with other attributes only": 2,
            "image without a list of objects": 2,
            "image without a number": 2,
            "image a second time": 1,
            "image that image_data.json does not have": 1,
        },
    }
    (colors,) = [own for own in written["kinds"] if own["kind"] == "color"]
    (ball,) = [own for own in colors["nouns"] if own["noun"] == "ball"]
    assert (ball["images"], ball["objects"]) == (3, 5)
    assert json.loads((tmp_path / "vg" / FILE).read_text()) == written


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("black and white", ["black", "white"]),
        ("black/white", ["black", "white"]),
        ("Dark-Brown", ["brown"]),
        ("light  brown wooden", ["brown", "wood"]),
        ("made of glass", ["glass"]),
        ("round shaped", ["round"]),
        ("medium-sized", ["medium"]),
        ("grey,grey", ["gray"]),
        ("sandy", []),
        ("not red", []),
        ("red striped", []),
        ("dark", []),
        ("", []),
        ("android", []),
    ],
)
def test_values_of_a_text(text: str, values: list[str]) -> None:
    assert [value for _, value in Vocabulary().values_in(text)] == values


@pytest.mark.parametrize(
    ("name", "synsets", "noun"),
    [
        ("Traffic Light ", ["traffic_light.n.01"], "traffic light"),
        ("berries", ["berry.n.01"], "berry"),
        ("leaves", ["leaf.n.01"], "leaf"),
        ("knives", ["knife.n.01"], "knife"),
        ("boxes", ["box.n.01"], "box"),
        ("jeans", ["jean.n.01"], "jean"),
        ("glasses", ["spectacles.n.01"], "glasses"),
        ("cars", [], "cars"),
        ("a car.", "car.n.01", "car"),
    ],
)
def test_nouns(name: str, synsets: Any, noun: str) -> None:
    assert noun_of({"names": [name], "synsets": synsets}) == noun


def test_counts_are_those_of_fractions(tmp_path: Path) -> None:
    """Of 60 random images, image by image with fractions; --least drops what few images say."""
    generator, records = random.Random(3), []
    expected: dict[tuple[str, str], Counter[str]] = {}
    images: Counter[tuple[str, str]] = Counter()
    said = Vocabulary().said
    for number in range(60):
        objects, each = [], {}
        for i in range(generator.randrange(6)):
            noun = generator.choice(["cup", "kite", "rare"] if number < 9 else ["cup", "kite"])
            words = generator.sample(["red", "blue", "small", "round", "wet"], 2)
            objects.append(thing(10 * number + i, noun, *words))
            for kind in KINDS:
                if named := [word for word in words if said.get(word, ("",))[0] == kind]:
                    each.setdefault((noun, kind), []).append(named)
        records.append({"image_id": number, "attributes": objects})
        for about, lists in each.items():
            images[about] += 1
            for named in lists:
                for word in named:
                    share = Fraction(1, len(lists) * len(named))
                    expected.setdefault(about, Counter())[word] += share  # type: ignore[assignment]
    written = write_attributes(raw(tmp_path / "vg", records, None), tmp_path / "out.json", 10)
    assert images["rare", "color"] < 10 and not (tmp_path / "vg" / FILE).exists()
    for (noun, kind), shares in expected.items():
        found = counts(written, kind, noun)
        if images[noun, kind] < 10:
            assert found == {}
        else:  # four digits are written
            assert found == pytest.approx({w: float(n) for w, n in shares.items()}, abs=1e-4)
            assert sum(found.values()) == pytest.approx(images[noun, kind], abs=1e-3)


@pytest.mark.parametrize("name", ["attributes.json.zip", "attributes_v1_2.json.zip"])
def test_zips_of_either_name_are_plain(tmp_path: Path, name: str) -> None:
    folder = raw(tmp_path / "vg")
    plain = write_attributes(folder, least=1)
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._attributes.json", "x")
        archive.write(folder / "attributes.json", "data/attributes.json")
    (folder / "attributes.json").unlink()
    zipped = write_attributes(folder, least=1)
    assert zipped["kinds"] == plain["kinds"] and zipped["read"] == plain["read"]
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert zipped["files"][name] == digest and "image_data.json" in zipped["files"]
    assert write_attributes(folder / name, least=1)["kinds"] == plain["kinds"]


def test_a_broken_file_leaves_what_was_there(tmp_path: Path) -> None:
    folder = raw(tmp_path / "vg")
    write_attributes(folder, least=1)
    before = (folder / FILE).read_bytes()
    text = (folder / "attributes.json").read_text()
    (folder / "attributes.json").write_text(text[: len(text) // 2])
    with pytest.raises(VLMIGError, match="attributes.json is broken off at or shortly before byte"):
        write_attributes(folder, least=1)
    assert (folder / FILE).read_bytes() == before
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".json") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}"], "no attributes.json or attributes.json.zip in"),
        (["{tmp}/none.json"], "no attributes.json or"),
        (["{tmp}/vg", "--least", "0"], "--least 0; expected at least one image"),
        (["{tmp}/vg"], "says of no noun in 20 images"),
        (["{tmp}/vg", "--out", "{tmp}"], "expected a file, but this is a folder"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    raw(tmp_path / "vg")
    try:
        status = main(["data", "attributes", *(a.format(tmp=tmp_path) for a in arguments)])
    except SystemExit as error:
        status = int(error.code or 0)
    assert status == 2 and message in capsys.readouterr().err


def test_a_command_makes_the_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = raw(tmp_path / "visual_genome")
    assert main(["data", "attributes", str(folder), "--least", "1"]) == 0
    told = capsys.readouterr().out
    assert "left out: image a second time 1" in told and f"wrote {folder / FILE}" in told
    for kind in KINDS:
        task = declaration(f"visual_genome_{kind}").made()
        items = {item.cluster: item for item in task.load(tmp_path)}
        assert items["ball"].choices == tuple(Vocabulary().values[kind])
        assert sum(items["ball"].distribution) == pytest.approx(1, abs=1e-5)
    assert items.keys() == {"ball"} and items["ball"].label == "wood"
    assert items["ball"].questions[1].contexts == ("The material of a ball is",)


def test_without_the_file_the_error_names_the_command(tmp_path: Path) -> None:
    task = declaration("visual_genome_color").made()
    for load in (lambda: task.load(tmp_path), lambda: fetch(task.files, tmp_path)):
        with pytest.raises(VLMIGError, match="run vlmig data attributes DATA/visual_genome"):
            load()
    assert SOURCES[task.files[0]].by_hand
