"""Conversations about several pictures: what is read, what is learnt, and what is refused; and
what a check sees of it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import noise, read
from transformers import AutoTokenizer

from vlmig.cli.main import main
from vlmig.data.check import check
from vlmig.data.curation import Curation, curate
from vlmig.data.index import index
from vlmig.data.pairs import Pair
from vlmig.data.sources.build import build_source
from vlmig.data.sources.conversations import Conversations
from vlmig.data.sources.interleaved import Interleaved
from vlmig.data.sources.table import Table
from vlmig.data.sources.webdataset import WebDataset
from vlmig.errors import VLMIGError
from vlmig.models.config import IMAGE
from vlmig.processing.chat_templates import Turn, prompt


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("abc"):
        noise(number, (20 + number, 30)).save(tmp_path / f"{name}.png")
    return tmp_path


def said(*texts: Any) -> list[dict[str, Any]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def learnt(pair: Pair) -> list[str]:
    return [pair.caption[begin:end] for begin, end in pair.learnt]


GOOD = [
    {
        "id": 7,
        "image": "a.png",
        "conversations": said("What?\n<image>", "A cat.", "Colour?", " Red.\n"),
    },
    {
        "id": "two",
        "image": ["c.png", "b.png"],
        "conversations": said("<image><image> Same?", "No."),
    },
    {
        "id": "text",
        "conversations": [{"from": "system", "value": "Be brief."}, *said("Hi", "Hello")],
    },
    {"conversations": said("größer – ?", "ja 🐈")},
]


def write(folder: Path, ending: str, records: list[dict[str, Any]]) -> Path:
    path = folder / f"talk.{ending}"
    if ending == "json":
        path.write_text(json.dumps(records))
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    else:  # a column has one type
        rows = [
            {
                **row,
                "id": str(row.get("id", "")) or None,
                "image": [row["image"]] if isinstance(row.get("image"), str) else row.get("image"),
            }
            for row in records
        ]
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", ("json", "jsonl", "parquet"))
def test_conversations_of_every_format(folder: Path, ending: str) -> None:
    source = Conversations(write(folder, ending, GOOD))
    pairs, bad = read(source)
    assert not bad and pairs == read(source)[0]
    assert [(p.picture, p.more, p.group) for p in pairs] == [
        ("a.png", (), "a.png"),
        ("c.png", ("b.png",), "c.png"),
        ("", (), "text"),
        ("", (), ""),
    ]
    assert [learnt(pair) for pair in pairs] == [
        [" A cat.</s>", " Red.</s>"],
        [" No.</s>"],
        [" Hello</s>"],
        [" ja 🐈</s>"],
    ]
    assert pairs[1].caption.endswith("questions. USER: <image><image> Same? ASSISTANT: No.</s>")
    assert pairs[2].caption == "Be brief. USER: Hi ASSISTANT: Hello</s>"
    for pair in pairs:  # inference writes the same up to the last answer
        system = "Be brief." if pair.group == "text" else None
        turns = {
            "a.png": [("user", "What?\n<image>"), ("assistant", "A cat."), ("user", "Colour?")]
        }.get(pair.group)
        if turns or system:
            asked = prompt(
                [Turn(*own) for own in turns or [("user", "Hi")]], "vicuna", system=system
            )
            assert pair.caption[: pair.learnt[-1][0]] == asked
    assert [source.open(own).size for own in pairs[1].images()] == [(22, 30), (21, 30)]
    assert [own.version for own in pairs[1].images()] == [
        next(
            iter(read(Conversations(write(folder, ending, [{**GOOD[0], "image": name}])))[0])
        ).version
        for name in ("c.png", "b.png")
    ]
    source = Conversations(write(folder, ending, GOOD))
    made = index(source, folder / "index")
    assert [made[row] for row in range(len(made))] == pairs


def test_instructions_without_pictures(folder: Path) -> None:
    rows = [
        {"instruction": "Add.", "input": "1 and 2", "output": "3", "id": 4},
        {"instruction": "Say a word.", "input": "", "output": "Word"},
        {"system_prompt": "You teach.", "question": "Why?", "response": "Because."},
        {"system_prompt": "", "question": "Why?", "response": "Because."},
    ]
    pairs, bad = read(Conversations(write(folder, "jsonl", rows), template="question"))
    assert not bad and [(pair.caption, pair.group, pair.picture) for pair in pairs] == [
        ("Question: Add.\n1 and 2 Answer: 3\n", "4", ""),
        ("Question: Say a word. Answer: Word\n", "", ""),
        ("You teach.\nQuestion: Why? Answer: Because.\n", "", ""),
        ("Question: Why? Answer: Because.\n", "", ""),
    ]
    assert learnt(pairs[2]) == [" Because.\n"]


def test_marks_in_front(folder: Path) -> None:
    talk = said("Is <image> like <image>?", "No.", " <image> ", "A dog.", "Sure?", "Yes.")
    rows = [
        {"id": 1, "image": ["a.png", "b.png", "c.png"], "conversations": talk},
        {
            "id": 2,
            "image": "a.png",
            "conversations": said("<ima<image>ge>?", "a mark made by moving one"),
        },
    ]
    source = Conversations(write(folder, "json", rows), template="chatml", image_position="front")
    pairs, bad = read(source)
    assert [turn.split("\n", 1)[1] for turn in pairs[0].caption.split("<|im_end|>") if turn][
        1::2
    ] == [
        "<|im_start|>user\n<image>\n<image>\nIs  like ?",
        "<|im_start|>user\n<image>",
        "<|im_start|>user\nSure?",
    ]
    assert [own.reason for own in bad] == ["more <image> than images"]


FAULTS: list[tuple[str, Any]] = [
    ("not a JSON object", [1]),
    ("no conversations", {"image": "a.png"}),
    ("no conversations", {"conversations": None, "output": None}),
    ("turn is no object", {"conversations": ["Hi", "Hello"]}),
    ("unknown speaker", {"conversations": [{"from": "bot", "value": "x"}, *said("Hi", "Hello")]}),
    ("unknown speaker", {"conversations": [{"value": "x"}]}),
    ("turn is no text", {"conversations": said("Hi", 3)}),
    ("turn is no text", {"instruction": 3, "output": "x"}),
    ("empty turn", {"conversations": said("Hi", " \n")}),
    ("empty turn", {"question": "", "response": "x"}),
    ("no answer", {"conversations": said("Hi", "Hello")[::-1]}),
    (
        "turns do not alternate",
        {"conversations": [*said("Hi", "Hello"), {"from": "system", "value": "x"}]},
    ),
    ("turns do not alternate", {"conversations": [*said("Hi"), *said("Hi")]}),
    ("no answer", {"conversations": []}),
    ("no answer", {"conversations": said("Hi", "Hello", "And?")}),
    ("no such image", {"image": "gone.png", "conversations": said("<image>", "x")}),
    (
        "no such image",
        {"image": ["a.png", "gone.png"], "conversations": said("<image><image>", "x")},
    ),
    ("<image> without image", {"conversations": said("<image>", "x")}),
    ("<image> without image", {"image": [], "instruction": "<image>", "output": "x"}),
    ("<image> without image", {"image": "a.png", "conversations": said("<image>", "a <image>")}),
    (
        "<image> without image",
        {"conversations": [{"from": "system", "value": "<image>"}, *said("Hi", "x")]},
    ),
    (
        "more <image> than images",
        {"image": "a.png", "conversations": said("<image>", "x", "<image>", "y")},
    ),
    (
        "fewer <image> than images",
        {"image": ["a.png", "b.png"], "conversations": said("<image>", "x")},
    ),
    ("image name is no text", {"image": 3, "conversations": said("<image>", "x")}),
    ("image name is no text", {"image": ["a.png", None], "conversations": said("<image>", "x")}),
    ("not Unicode", {"conversations": said("Hi", "half \ud800")}),
    ("not Unicode", {"image": "\ud800.png", "conversations": said("<image>", "x")}),
]


@pytest.mark.parametrize("ending", ("json", "jsonl"))
def test_every_fault_of_a_conversation_is_named(folder: Path, ending: str) -> None:
    faults = (
        FAULTS if ending == "jsonl" else FAULTS[:-2]
    )  # ijson writes question marks for halves of characters
    records = [
        {"id": i, **own} if isinstance(own, dict) else own for i, (_, own) in enumerate(faults)
    ]
    pairs, bad = read(Conversations(write(folder, ending, [*records, GOOD[0]])))
    assert len(pairs) == 1
    for number, (own, (reason, _)) in enumerate(zip(bad, faults, strict=True), 1):
        place = f"talk.{ending}, {'record' if ending == 'json' else 'line'} {number}"
        place += f", id {number - 1}" if number > 1 else ""
        assert (own.place, own.reason, own.dropped) == (place, reason, False)


def test_a_source_of_conversations_is_built(folder: Path, parts: Path) -> None:
    write(folder, "json", GOOD)
    write(folder, "jsonl", GOOD)
    (folder / "docs_1.jsonl").write_text(json.dumps({"text_list": []}))
    for path, kind in {
        "talk.json": Conversations,
        "talk.jsonl": Conversations,
        "docs_1.jsonl": Interleaved,
    }.items():
        assert isinstance(build_source({"path": path}, folder), kind)
    assert isinstance(
        build_source({"source": "interleaved", "path": "docs_*.jsonl"}, folder), Interleaved
    )
    tokenizer = AutoTokenizer.from_pretrained(parts / "language_model")
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' "
        "%}[end]{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    pairs, bad = read(
        build_source({"path": "talk.json", "template": "tokenizer"}, folder, lambda: tokenizer)
    )
    assert pairs[0].caption.startswith("[user]What?") and learnt(pairs[0]) == [
        "A cat.[end]",
        "Red.[end]",
    ]
    assert [(own.place, own.reason) for own in bad] == [
        ("talk.json, record 3, id text", "refused by the chat template")
    ]

    def unused() -> Any:
        raise AssertionError("loaded a tokenizer that no template asked for")

    build_source({"path": "talk.json"}, folder, unused)
    wrong: dict[str, dict[str, Any]] = {
        "expected a language model's tokenizer": {"path": "talk.json", "template": "tokenizer"},
        "template 'alpaca' of a conversation; expected one of plain": {
            "path": "talk.json",
            "template": "alpaca",
        },
        "image_position 'back'; expected keep or front": {
            "path": "talk.json",
            "image_position": "back",
        },
        "no folder nowhere": {"path": "talk.json", "images": "nowhere"},
        "no file or folder none.json; expected conversations": {
            "path": "none.json",
            "source": "conversations",
        },
        "no file or folder docs_[2-9].jsonl; expected documents": {
            "path": "docs_[2-9].jsonl",
            "source": "interleaved",
        },
        "max_pictures 0 of": {"path": "docs_1.jsonl", "max_pictures": 0},
        "loss 'some' of": {"path": "docs_1.jsonl", "loss": "some"},
        "at_least of": {"path": "talk.jsonl", "source": "table", "at_least": {"id": "x"}},
    }
    for message, spec in wrong.items():
        with pytest.raises(VLMIGError) as error:
            build_source(spec, folder)
        assert message in str(error.value) and "\n" not in str(error.value)
    pq.write_table(pa.table({"image": ["a.png"]}), folder / "other.parquet")
    with pytest.raises(VLMIGError, match="has the columns image; expected conversations"):
        list(Conversations(folder / "other.parquet").pairs())


def test_only_rows_with_high_figures(folder: Path) -> None:
    values: list[Any] = [0.31, 0.3, 0.29, float("nan"), None]
    rows = [
        {"path": "a.png", "text": f"cat {i}", "clip": own, "size": 9}
        for i, own in enumerate(values)
    ]
    asked: dict[str, Any] = {
        "image": "path",
        "caption": "text",
        "at_least": {"size": 9, "clip": 0.3},
    }
    pq.write_table(pa.Table.from_pylist(rows), folder / "coyo.parquet")
    (folder / "coyo.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = ["path,text,clip,size", *(f"a.png,{row['text']},{row['clip'] or ''},9" for row in rows)]
    (folder / "coyo.csv").write_text("\n".join(lines))
    for ending in ("parquet", "jsonl", "csv"):
        pairs, bad = read(Table(folder / f"coyo.{ending}", **asked))
        assert [pair.caption for pair in pairs] == ["cat 0", "cat 1"]
        assert [(own.reason, own.dropped) for own in bad] == [("clip under 0.3", True)] * 3
    with pytest.raises(VLMIGError, match="no column clap"):
        list(
            Table(
                folder / "coyo.jsonl", image="path", caption="text", at_least={"clap": 0.3}
            ).pairs()
        )
    with tarfile.open(folder / "x.tar", "w") as archive:
        for i, row in enumerate(rows):
            archive.add(folder / "a.png", f"{i}.png")
            for ending, text in (
                (".txt", row["text"]),
                (".json", json.dumps({"clip": row["clip"]})),
            )[: 1 + (i < 4)]:
                member = tarfile.TarInfo(f"{i}{ending}")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
    pairs, bad = read(WebDataset(folder / "x.tar", at_least={"clip": 0.3}))
    assert [pair.caption for pair in pairs] == ["cat 0", "cat 1"]
    assert [(own.reason, own.dropped) for own in bad] == [("clip under 0.3", True)] * 3


def test_a_mark_in_a_caption_has_its_picture(folder: Path) -> None:
    rows = [{"image": "a.png", "caption": text} for text in ("a <image> b", "<image><image>")]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"caption": "no <image>"}])))
    pairs, bad = read(Table(folder / "t.jsonl"))
    assert [pair.caption for pair in pairs] == ["a <image> b"]
    assert [own.reason for own in bad] == ["more <image> than images", "<image> without image"]


def test_check_and_curation_see_every_picture(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    names = [
        ["a.png", "b.png"],
        ["a.png", "b.png"],
        ["a.png", "c.png"],
        "a.png",
        ["c.png", "a.png", "broken.png"],
    ]
    rows = [
        {
            "image": own,
            "conversations": said(IMAGE * (len(own) if isinstance(own, list) else 1) + " ?", "A"),
        }
        for own in names
    ]
    rows.append({"image": "broken.png", "conversations": said("<image>", "B")})
    source = Conversations(write(folder, "json", rows), template="plain")
    found = check(source, folder / "index", Curation(duplicates=True))
    assert (found.images, found.groups) == (3, 3)
    assert sorted(found.sizes[:, 0]) == [20, 21, 22]
    assert found.good.tolist() == [0, 1, 2, 3] and found.bad == {"not an image": 2}
    assert [own.place for own in found.listed] == [
        'broken.png "<image><image><image>A\n"',
        'broken.png "<image>B\n"',
    ]
    assert found.rules == {"duplicates": 1}
    assert curate(found.index, Curation(duplicates=True))[0].tolist() == [0, 2, 3, 4, 5]
    page = folder / "page.html"
    command = ["data", "check", str(folder / "talk.json"), "--max-bad", "0.5", "--out", str(page)]
    assert main([*command, "--option", "template=plain"]) == 0
    assert page.read_text().count("<img") == 7
    assert "images" in capsys.readouterr().out


def test_pictures_are_found_beyond_one_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of several batches: rows and pictures are counted over all of them."""
    import vlmig.data.index

    monkeypatch.setattr(vlmig.data.index, "BATCH", 3)
    (folder / "broken.png").write_bytes(b"no picture")
    names = np.random.default_rng(0).choice(["a.png", "b.png", "c.png", "broken.png"], (10, 3))
    names[0] = "a.png"
    rows = [{"image": own[: 1 + i % 3].tolist()} for i, own in enumerate(names)]
    for row in rows:
        row["conversations"] = said(IMAGE * len(row["image"]), "A")
    found = check(Conversations(write(folder, "json", rows)), folder / "index", Curation())
    assert found.good.tolist() == [
        i for i, row in enumerate(rows) if "broken.png" not in row["image"]
    ]
