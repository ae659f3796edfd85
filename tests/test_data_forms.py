"""Files in the forms that published data comes in: each is recognized, read with the right counts,
and its pictures open; or it is refused in one line that says why."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import noise, read

from vlmig.data.index import check_read, check_share, index
from vlmig.data.sources.build import build_source, state_of_source
from vlmig.errors import VLMIGError
from vlmig.io import delimited


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what datasets writes out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("ab"):
        noise(number).save(tmp_path / f"{name}.jpg")
    return tmp_path


def embedded(number: int) -> dict[str, Any]:
    data = io.BytesIO()
    noise(number).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


def lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


def whole(path: Path, value: Any) -> str:
    path.write_text(json.dumps(value))
    return path.name


def text(path: Path, content: str) -> str:
    path.write_text(content)
    return path.name


def parquet(path: Path, *rows: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path.name


def said(question: str, answer: str, speaker: str = "from", said: str = "value") -> list[Any]:
    names = ("human", "gpt") if speaker == "from" else ("user", "assistant")
    return [{speaker: names[0], said: question}, {speaker: names[1], said: answer}]


def parts(*parts: Any) -> list[Any]:
    asked = [{"type": "text", "text": "What?"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}
    return [{"role": "user", "content": [*parts, *asked]}, answer]


Made = Callable[[Path], str]
TALK = "USER: <image>\nWhat? ASSISTANT: A cat.</s>"
"""What every conversation below says."""
TALKS: dict[str, Made] = {
    "LLaVA": lambda f: whole(
        f / "x.json",
        [{"id": 1, "image": "a.jpg", "conversations": said("<image>\nWhat?", "A cat.")}],
    ),
    "LLaVA parquet": lambda f: parquet(
        f / "x.parquet",
        {"id": "1", "image": embedded(0), "conversations": said("<image>\nWhat?", "A cat.")},
    ),
    "without a mark": lambda f: lines(
        f / "x.jsonl", {"image": "a.jpg", "conversations": said("What?", "A cat.")}
    ),
    "role and content": lambda f: lines(
        f / "x.jsonl",
        {"image": "a.jpg", "conversations": said("<image>\nWhat?", "A cat.", "role", "content")},
    ),
    "messages and images": lambda f: whole(
        f / "x.json",
        [{"messages": said("<image>\nWhat?", "A cat.", "role", "content"), "images": ["a.jpg"]}],
    ),
    "picture as a part": lambda f: lines(
        f / "x.jsonl",
        {"messages": parts({"type": "image", "image": "a.jpg"}, {"type": "text", "text": "\n"})},
    ),
    "picture by url": lambda f: lines(
        f / "x.jsonl",
        {
            "messages": parts(
                {"type": "image_url", "image_url": {"url": "file://a.jpg"}},
                {"type": "text", "text": "\n"},
            )
        },
    ),
    "parts in parquet": lambda f: parquet(
        f / "x.parquet",
        {
            "messages": parts(
                {"type": "image", "text": None, "index": 0}, {"type": "text", "text": "\n"}
            ),
            "images": [embedded(0)],
        },
    ),
    "the_cauldron": lambda f: parquet(
        f / "x.parquet",
        {
            "images": [embedded(0)],
            "texts": [{"user": "What?", "assistant": "A cat.", "source": "x"}],
        },
    ),
    "question and answer": lambda f: parquet(
        f / "x.parquet", {"image": embedded(0), "question": "What?", "answer": "A cat."}
    ),
    "prompt and completion": lambda f: lines(
        f / "x.jsonl",
        {
            "prompt": said("<image>\nWhat?", "", "role", "content")[:1],
            "completion": said("", "A cat.", "role", "content")[1:],
            "images": [{"path": "a.jpg"}],
        },
    ),
    "Qwen-VL": lambda f: whole(
        f / "x.json", [{"conversations": said("Picture 1: <img>a.jpg</img>\nWhat?", "A cat.")}]
    ),
    "Qwen2-VL": lambda f: lines(
        f / "x.jsonl",
        {
            "messages": said(
                "<|vision_start|><|image_pad|><|vision_end|>\nWhat?", "A cat.", "role", "content"
            ),
            "images": "a.jpg",
        },
    ),
    "Phi-3": lambda f: lines(
        f / "x.jsonl", {"image": "a.jpg", "conversations": said("<|image_1|>\nWhat?", "A cat.")}
    ),
    "MiniCPM-V": lambda f: whole(
        f / "x.json",
        [
            {
                "image": {"<image_00>": "a.jpg"},
                "conversations": said("<image_00>\nWhat?", "A cat.", "role", "content"),
            }
        ],
    ),
    "ms-swift": lambda f: lines(
        f / "x.jsonl",
        {"query": "<image>\nWhat?", "response": "A cat.", "images": ["a.jpg"], "history": []},
    ),
    "begins with the assistant": lambda f: lines(
        f / "x.jsonl",
        {
            "image": "a.jpg",
            "conversations": [
                {"from": "gpt", "value": "Hello."},
                *said("<image>\nWhat?", "A cat."),
            ],
        },
    ),
    "byte order mark": lambda f: text(
        f / "x.json",
        "\ufeff" + json.dumps([{"image": "a.jpg", "conversations": said("What?", "A cat.")}]),
    ),
}


@pytest.mark.parametrize("form", TALKS)
def test_conversations(folder: Path, form: str) -> None:
    source = build_source({"path": TALKS[form](folder)}, folder)
    assert source.name.startswith("conversations")
    (pair,), bad = read(source)
    assert not bad and pair.caption.endswith(TALK) and not pair.more
    assert source.open(pair).size == (40, 30)
    made = index(source, folder / "index")
    assert made[0].images()[0].version and made.records == 1
    assert sum(made.mended.values()) == (form == "begins with the assistant")


def test_a_history_comes_before_its_question(folder: Path) -> None:
    row = {"query": "And?", "response": "A dog.", "history": [["<image>\nWhat?", "A cat."]]}
    lines(folder / "x.jsonl", {**row, "images": ["a.jpg"], "system": "Be brief."})
    (pair,), bad = read(build_source({"path": "x.jsonl"}, folder))
    assert pair.caption == "Be brief. " + TALK + "USER: And? ASSISTANT: A dog.</s>" and not bad


def zipped(path: Path, inner: str, content: str) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(inner, content)
    return path.name


def gzipped(path: Path, content: str) -> str:
    path.write_bytes(gzip.compress(content.encode()))
    return path.name


def shards(folder: Path, *names: str) -> str:
    for number, name in enumerate(names):
        rows = [{"image": embedded(number), "caption": f"{'ab'[number % 2]} cat"}]
        parquet(folder / "hub" / name, *rows)
    return "hub"


def tables(folder: Path) -> str:
    for number, name in enumerate("ab"):
        lines(folder / f"part_{number}.jsonl", {"image": f"{name}.jpg", "caption": f"{name} cat"})
    return "part_*.jsonl"


COCO = {
    "info": {},
    "images": [{"id": i, "file_name": f"{name}.jpg"} for i, name in enumerate("ab")],
    "annotations": [
        {"id": 9, "image_id": i, "caption": f"{name} cat"} for i, name in enumerate("ab")
    ],
}
KARPATHY = {
    "images": [
        {"filename": f"{name}.jpg", "sentences": [{"raw": f"{name} cat"}], "split": "train"}
        for name in "ab"
    ],
    "dataset": "coco",
}


def below(folder: Path) -> str:
    (folder / "annotations").mkdir()
    return "annotations/" + whole(folder / "annotations/captions_train.json", COCO)


CAPTIONS: dict[str, Made] = {
    "COCO": lambda f: whole(f / "x.json", COCO),
    "COCO's folders": below,
    "COCO zipped": lambda f: zipped(f / "x.json.zip", "x.json", json.dumps(COCO)),
    "Karpathy": lambda f: whole(f / "x.json", KARPATHY),
    "BLIP": lambda f: whole(
        f / "x.json", [{"image": f"{name}.jpg", "caption": f"{name} cat"} for name in "ab"]
    ),
    "JSON lines named .json": lambda f: lines(
        f / "x.json", *({"image": f"{name}.jpg", "caption": f"{name} cat"} for name in "ab")
    ),
    "JSON lines in gzip": lambda f: gzipped(
        f / "x.jsonl.gz",
        "".join(json.dumps({"file_name": f"{n}.jpg", "text": f"{n} cat"}) + "\n" for n in "ab"),
    ),
    "several files": tables,
    "Flickr8k tokens": lambda f: text(f / "x.token.txt", "a.jpg#0\ta cat\nb.jpg#3\tb cat\n"),
    "Kaggle's captions.txt": lambda f: text(
        f / "captions.txt", "image,caption\na.jpg,a cat\nb.jpg,b cat\n"
    ),
    "results.csv": lambda f: text(
        f / "results.csv", "image_name| comment_number| comment\na.jpg| 0| a cat\nb.jpg| 1| b cat\n"
    ),
    "TSV with names": lambda f: text(
        f / "x.tsv", 'filepath\ttitle\na.jpg\t"a cat"\nb.jpg\tb cat\n'
    ),
    "semicolons": lambda f: text(f / "x.csv", "file_name;text\na.jpg;a cat\nb.jpg;b cat\n"),
    "row numbers": lambda f: text(f / "x.csv", ",image,caption\n0,a.jpg,a cat\n1,b.jpg,b cat\n"),
    "captions before pictures": lambda f: text(f / "x.tsv", "a cat\ta.jpg\nb cat\tb.jpg\n"),
    "a hub's shards": lambda f: shards(f, "data/train-0-of-2.parquet", "data/train-1-of-2.parquet"),
    "the hub's split": lambda f: shards(
        f, "data/train-0-of-2.parquet", "data/train-1-of-2.parquet", "data/test-0-of-1.parquet"
    ),
    "a pattern of shards": lambda f: shards(f, "0.parquet", "1.parquet") + "/*.parquet",
    "pictures as bytes": lambda f: parquet(
        f / "x.parquet",
        *({"jpg": embedded(i)["bytes"], "txt": f"{name} cat"} for i, name in enumerate("ab")),
    ),
    "img2dataset": lambda f: parquet(
        f / "x.parquet",
        *(
            {"jpg": embedded(i)["bytes"], "caption": f"{name} cat", "status": "success"}
            for i, name in enumerate("ab")
        ),
        {"jpg": None, "caption": "not there", "status": "failed_to_download"},
    ),
}


@pytest.mark.parametrize("form", CAPTIONS)
def test_captions(folder: Path, form: str) -> None:
    source = build_source({"path": CAPTIONS[form](folder)}, folder)
    pairs, bad = read(source)
    assert [pair.caption for pair in pairs] == ["a cat", "b cat"]
    assert [own.reason for own in bad] == ["status failed_to_download"] * (form == "img2dataset")
    assert all(source.open(pair).size == (40, 30) for pair in pairs)
    assert len({pair.group for pair in pairs}) == 2 and all(pair.version for pair in pairs)


@pytest.mark.parametrize("cell", ['["one", "two"]', "['one', 'two']"])
def test_a_list_of_captions_is_a_list(folder: Path, cell: str) -> None:
    quoted = cell.replace('"', '""')
    text(folder / "x.csv", f'filename,raw,split\na.jpg,"{quoted}",train\nb.jpg,[a] cat,test\n')
    pairs, bad = read(build_source({"path": "x.csv"}, folder))
    assert [pair.caption for pair in pairs] == ["one", "two", "[a] cat"] and not bad


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv"])
def test_a_line_without_end_never_fills_the_memory(
    folder: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "LONGEST", 200)
    row = {"image": "a.jpg", "caption": "a cat"}
    good = json.dumps(row) if ending == "jsonl" else "a.jpg,a cat".replace(",", MARKS[ending])
    head = "" if ending == "jsonl" else "image,caption\n".replace(",", MARKS[ending])
    text(folder / f"x.{ending}", f"{head}{good}\n" + "\0" * 1000 + f"\n{good}\n")
    pairs, bad = read(build_source({"path": f"x.{ending}", "source": "table"}, folder))
    assert [pair.caption for pair in pairs] == ["a cat", "a cat"]
    assert [own.reason for own in bad] == [
        "wrong number of fields" if ending == "csv" else "line too long"
    ]


MARKS = {"csv": ",", "tsv": "\t"}


def test_a_split_of_karpathy_is_chosen(folder: Path) -> None:
    images = [
        {"filename": "a.jpg", "sentences": [{"raw": own}], "split": own}
        for own in ("train", "restval", "val")
    ]
    whole(folder / "x.json", {"images": images})
    spec = {"path": "x.json", "source": "coco_captions"}
    assert [p.caption for p in read(build_source(spec, folder))[0]] == ["train", "restval", "val"]
    pairs, bad = read(build_source({**spec, "split": "train"}, folder))
    assert [pair.caption for pair in pairs] == ["train", "restval"]
    assert [(own.reason, own.dropped) for own in bad] == [("split val", True)]


MMC4 = {
    "text_list": ["Tea.", "A mug."],
    "image_info": [{"image_name": "a.jpg", "matched_text_index": 1}],
}
DOCUMENTS: dict[str, Made] = {
    "MMC4": lambda f: lines(f / "x.jsonl", MMC4),
    "MMC4 zipped": lambda f: zipped(f / "x.jsonl.zip", "x.jsonl", json.dumps(MMC4)),
    "OBELICS": lambda f: lines(
        f / "x.jsonl", {"texts": ["Tea.", None, "A mug."], "images": [None, "a.jpg", None]}
    ),
    "OBELICS embedded": lambda f: parquet(
        f / "x.parquet", {"texts": ["Tea.", None, "A mug."], "images": [None, embedded(0), None]}
    ),
}


@pytest.mark.parametrize("form", DOCUMENTS)
def test_documents(folder: Path, form: str) -> None:
    source = build_source({"path": DOCUMENTS[form](folder)}, folder)
    (pair,), bad = read(source)
    assert pair.caption == "Tea. <image>A mug." and not bad
    assert source.open(pair).size == (40, 30)


def tar(path: Path, mode: str, *names: str) -> str:
    with tarfile.open(path, mode) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return path.name


@pytest.mark.parametrize("many", [False, True])
def test_a_caption_that_was_edited_since_is_noticed(folder: Path, many: bool) -> None:
    path = (
        shards(folder, "0.parquet", "1.parquet")
        if many
        else lines(folder / "x.jsonl", {"image": "a.jpg", "caption": "a cat"})
    )
    spec = {"path": path}
    source, state = build_source(spec, folder), state_of_source(spec, folder)
    made = index(source, folder / "index", None, state)
    assert len(index(source, folder / "index", None, state_of_source(spec, folder))) == len(made)
    if many:
        parquet(folder / "hub/1.parquet", {"image": embedded(1), "caption": "b dog"})
    else:
        lines(folder / "x.jsonl", {"image": "a.jpg", "caption": "a dog"})
    with pytest.raises(VLMIGError, match="changed since .* was made of them; restore them"):
        index(source, folder / "index", None, state_of_source(spec, folder))


def unopened(folder: Path) -> str:
    (folder / "new").mkdir()
    zipped(folder / "new/images.zip", "a.jpg", "x")
    return "new"


REFUSED: dict[str, tuple[Made, str]] = {
    "nothing there": (lambda f: "nowhere", "there is nothing at"),
    "no TSV there": (lambda f: "nowhere.tsv", "there is nothing at"),
    "no shards there": (lambda f: "none/*.parquet", "there is nothing at"),
    "addresses": (
        lambda f: text(f / "x.tsv", "a mug\thttp://ex.invalid/a.jpg\n"),
        "web address in place of an image file",
    ),
    "addresses in turns": (
        lambda f: lines(
            f / "x.jsonl",
            {"image": "https://ex.invalid/a.jpg", "conversations": said("What?", "A.")},
        ),
        "web address in place of an image file",
    ),
    "addresses in documents": (
        lambda f: lines(
            f / "x.jsonl", {"texts": ["Tea.", None], "images": [None, "http://a/a.jpg"]}
        ),
        "web addresses in place of image files",
    ),
    "a video": (
        lambda f: lines(f / "x.jsonl", {"video": "a.mp4", "conversations": said("What?", "A.")}),
        "a video or sound",
    ),
    "marks out of order": (
        lambda f: lines(
            f / "x.jsonl",
            {"image": ["a.jpg", "b.jpg"], "conversations": said("<image 2> <image 1>?", "A.")},
        ),
        "numbers of images out of order",
    ),
    "a mark without picture": (
        lambda f: lines(f / "x.jsonl", {"messages": said("<|image|>?", "A.", "role", "content")}),
        "<image> without image",
    ),
    "all failed": (
        lambda f: parquet(
            f / "x.parquet", {"jpg": b"", "caption": "x", "status": "failed_to_resize"}
        ),
        "no record of table .* can be used: 1 status failed_to_resize",
    ),
    "an empty file": (lambda f: text(f / "x.jsonl", ""), "holds no records"),
    "an empty list": (lambda f: whole(f / "x.json", []), "holds no records"),
    "an empty CSV": (lambda f: text(f / "x.csv", ""), "is empty; expected a first line"),
    "an empty folder": (lambda f: (f / "new").mkdir() or "new", "holds no records"),  # type: ignore[func-returns-value]
    "tar without pairs": (
        lambda f: tar(f / "x.tar", "w", "0.cls", "1.cls"),
        "holds only .cls files",
    ),
    "compressed tar": (lambda f: tar(f / "x.tgz", "w:gz", "0.jpg"), "no plain tar archive"),
    "an unopened archive": (lambda f: zipped(f / "images.zip", "a.jpg", "x"), "is an archive"),
    "unopened archives": (
        unopened,
        "holds only archives such as images.zip",
    ),
    "a torn zip": (lambda f: text(f / "x.jsonl.zip", "PK\x03\x04"), "is damaged"),
    "a torn gzip": (lambda f: text(f / "x.jsonl.gz", "no gzip"), "is damaged"),
    "no table": (lambda f: text(f / "x.parquet", "PAR1"), "is not a parquet file"),
    "another object": (lambda f: whole(f / "x.json", {"a": 1}), "has no column image; it has a"),
    "other columns": (
        lambda f: parquet(f / "x.parquet", {"a": 1}),
        "has no column image; it has a",
    ),
    "another split": (
        lambda f: shards(f, "data/test-0-of-1.parquet"),
        "no parquet files of the split train",
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(folder: Path, form: str) -> None:
    make, message = REFUSED[form]
    path = make(folder)
    with pytest.raises(VLMIGError, match=message) as error:
        made = index(build_source({"path": path}, folder), folder / "index")
        check_share(made.bad, made.records, 0.1, made.source.name)
        check_read(made)
    assert "\n" not in str(error.value)
