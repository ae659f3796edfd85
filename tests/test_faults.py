"""What people and machines get wrong, each kind a list that is easy to extend: every entry ends in
one line that names it, with status 2, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import re
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmig import VLMIG, VLMIGError
from vlmig.cli import doctor
from vlmig.cli.__main__ import start
from vlmig.cli.main import main
from vlmig.io import delimited, hub, json_stream
from vlmig.io.weights import written
from vlmig.models.checkpoint import POCKET


def refused(arguments: list[str], said: pytest.CaptureFixture[str]) -> str:
    """Run a command that is refused; return its one line."""
    said.readouterr()
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    *progress, line = said.readouterr().err.strip().split("\n")
    assert status == 2, line
    assert line.startswith("vlmig") and not any(text.startswith("vlmig") for text in progress)
    return line


COMMANDS: dict[str, tuple[list[str], str]] = {
    "page is a folder": (["ask", "x?", "--html", "{tmp}"], "expected a file, but this is a folder"),
    "page below a file": (["ask", "x?", "--html", "{tmp}/f/x.html"], "f is a file"),
    "report is a folder": (["imagine", "--prompts", "p", "--report", "{tmp}"], "is a folder"),
    "check's page is a folder": (["data", "check", "x", "--out", "{tmp}"], "is a folder"),
    "images into a file": (["imagine", "a cat", "--out", "{tmp}/f"], "f is a file"),
    "results into a file": (["eval", "--tasks", "piqa", "--out", "{tmp}/f/x"], "f is a file"),
    "checkpoint into a file": (["train", "pocket", "--out", "{tmp}/f"], "f is a file"),
    "no share": (["data", "check", "x", "--max-bad", "nan"], "expected a number"),
    "more than all": (["data", "check", "x", "--max-bad", "1.5"], "a number from 0 to 1"),
    "no data folder": (["tasks", "--data", "{tmp}/f"], "no folder"),
    "a split of none": (
        ["eval", "--tasks", "pocket_color@x", "--plan", "--out", "{tmp}/o"],
        "task pocket_color has no split 'x'",
    ),
    "too many images": (["imagine", "a cat", "--k", "9" * 20], "expected at most 10000 images"),
    "no Unicode": (["imagine", "a \udc80 cat", "--k", "1"], "is no Unicode text"),
    "an argument of two lines": (["ask", "x?", "a\nb"], "unrecognized arguments: a b"),
    "no such checkpoint": (["convert", "{tmp}/none", "--out", "{tmp}/o"], "no weights at"),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = COMMANDS[kind]
    (tmp_path / "f").touch()
    line = refused([argument.format(tmp=tmp_path) for argument in arguments], capsys)
    assert message in line
    assert {path.name for path in tmp_path.iterdir()} == {"f"}


@pytest.mark.parametrize(
    ("rank", "processes"),
    [("0", "0"), ("x", "1"), ("5", "2"), ("-1", "2"), ("0", "two"), ("1", "1")],
)
@pytest.mark.parametrize("command", ["imagine", "train"])
def test_processes_that_cannot_be(
    command: str,
    rank: str,
    processes: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "p.txt").write_text("a cat\n")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", processes)
    arguments = ["imagine", "--prompts", str(tmp_path / "p.txt")]
    if command == "train":
        arguments = ["train", "pocket", "--out", str(tmp_path / "o")]
    assert f"RANK={rank} and WORLD_SIZE={processes}" in refused(arguments, capsys)


SYSTEM: dict[str, tuple[BaseException, int, str]] = {
    "no room": (OSError(errno.ENOSPC, "No space left on device"), 2, "make room, and run the same"),
    "read only": (OSError(errno.EROFS, "Read-only file system"), 2, "a place that can be written"),
    "no permission": (PermissionError(errno.EACCES, "Permission denied"), 2, "can be written"),
    "no network": (ConnectionError("Couldn't reach 'x/y' on the Hub"), 2, "check the network"),
    "a path": (NotADirectoryError(errno.ENOTDIR, "Not a directory"), 2, "correct the path"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume"),
}


@pytest.mark.parametrize("kind", SYSTEM)
def test_what_the_system_refuses(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error, status, cure = SYSTEM[kind]

    def fails(_: object) -> None:
        raise error

    monkeypatch.setattr(doctor, "run", fails)
    assert main(["doctor"]) == status
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert line.startswith("vlmig: ") and cure in line


def test_a_signal_to_stop_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(doctor, "run", lambda _: signal.raise_signal(signal.SIGTERM))
    assert main(["doctor"]) == 143
    assert capsys.readouterr().err == "vlmig: terminated; run the same command again to resume\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_while_the_command_line_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "vlmig.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "vlmig.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert start() == 130
    assert capsys.readouterr().err == "vlmig: interrupted; run the same command again\n"


def test_no_room_for_weights(tmp_path: Path) -> None:
    """Torch's own error for a full disk, and another of its kind that means something else."""
    full = "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"
    with pytest.raises(VLMIGError, match="cannot write .* make room"), written(tmp_path):
        raise RuntimeError(full)
    with pytest.raises(RuntimeError, match="shape"), written(tmp_path):
        raise RuntimeError("shape mismatch")


RUN = {"results": {"t": {}}, "configs": {}, "config": {}, "n-samples": {}, "vlmig": {}}
RESULTS: dict[str, tuple[str, str]] = {
    "nothing": ("", "is not JSON"),
    "a list": ("[]", "is a JSON list"),
    "brackets": ("[" * 3000, "is not JSON"),
    "no blocks": ("{}", "has no block 'results'"),
    "no tasks": (json.dumps({**RUN, "results": {}}), "has no tasks"),
    "no fields": (json.dumps(RUN), "have another form (KeyError: 'model_args')"),
    "another type": (json.dumps({**RUN, "config": {"model_args": 4}}), "have another form (Type"),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_results_that_are_none(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = RESULTS[kind]
    (tmp_path / "results.json").write_text(text)
    for arguments in ([str(tmp_path)], [str(tmp_path)] * 2):
        line = refused(["report", *arguments], capsys)
        assert message in line or ("another form" in message and "another form" in line)
    assert not (tmp_path / "report.html").exists()


NAN, INFINITE = float("nan"), float("inf")
RECIPES: list[tuple[str, list[Any], str]] = [
    ("save_seconds", [NAN, INFINITE, -1], "save_seconds is "),
    ("max_bad", [NAN, 5], "max_bad is "),
    ("workers", [10**9, -1], "workers is "),
    ("seed", [2**63, -1], "seed is "),
    ("validation.share", [NAN, 1], "validation.share is "),
    ("probe.k", [0, 10**9], "probe.k is "),
    ("stages.0.learning_rate", [NAN, INFINITE], "learning_rate is "),
    ("stages.0.warmup", [NAN, INFINITE, 7], "warmup is "),
    ("stages.0.blank_share", [2, NAN], "blank_share is "),
    ("stages.0.mask_share", [3], "mask_share is "),
    ("stages.0.betas", [[2, 3], [NAN, 0.9]], "betas.0 is "),
    ("stages.0.clip", [0, -1, NAN], "clip is "),
    ("stages.0.average", [2, NAN], "average is "),
    ("stages.0.steps", [10**30, 0], "steps is "),
    ("stages.0.data.0.weight", [NAN, 0, True, "much"], "has the weight "),
    ("stages.0.data.0.limit", [NAN, -1, True, "many"], "limit "),
    ("stages.0.data.0.curate", [{"min_words": NAN}, {"sauce": 1}], "curate"),
    ("stages.0.data.0.path", [5, ["x"]], "has data at the path "),
    ("model.from", [5, ["pocket"]], "model has from "),
    ("extends", [5, ["a.yaml"], "\0"], ""),
]


@pytest.mark.parametrize(("place", "values", "message"), RECIPES, ids=[one[0] for one in RECIPES])
def test_a_recipe(
    place: str,
    values: list[Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = [{"path": "x"}]
    stage = {"name": "a", "data": data, "steps": 5, "batch": 4, "learning_rate": 5e-4}
    recipe: Any = {"model": {"from": "pocket"}, "stages": [stage]}
    inner = recipe
    *above, last = (int(name) if name.isdigit() else name for name in place.split("."))
    for name in above:
        inner = inner[name] if isinstance(inner, list) else inner.setdefault(name, {})
    for value in values:
        inner[last] = value
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        line = refused(["train", str(tmp_path / "recipe.yaml")], capsys)
        assert message in line and "expected --out FOLDER" not in line


NESTS: dict[str, tuple[str, str]] = {
    "maps": ("{a: " * 1500 + "1" + "}" * 1500, "cannot read"),
    "lists": ("[" * 3000 + "]" * 3000, "cannot read"),
    "a chain": ("extends: 1.yaml", "extends more than 20 recipes"),
}


@pytest.mark.parametrize("kind", NESTS)
def test_a_recipe_without_end(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = NESTS[kind]
    (tmp_path / "0.yaml").write_text(text)
    for number in range(1, 30):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml")
    assert message in refused(["train", str(tmp_path / "0.yaml")], capsys)


DESCRIBED = (
    *("config.json", "generation_config.json", "tokenizer_config.json"),
    *("language_model/config.json", "vision_encoder/open_clip_config.json"),
    *("vision_encoder/tokenizer.json", "generator/model_index.json", "generator/vae/config.json"),
    *("generator/scheduler/scheduler_config.json", "generator/tokenizer/tokenizer.json"),
)
HARMS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "a list": lambda path: path.write_bytes(b"[]"),
    "a number": lambda path: path.write_bytes(b"3"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
}


@pytest.mark.parametrize(
    "name", ["tokenizer.json", *(pytest.param(n, marks=pytest.mark.proof) for n in DESCRIBED)]
)
def test_a_file_that_describes_a_model(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(POCKET, tmp_path / "pocket"))
    path = folder / name
    whole = path.read_bytes()
    harms = {**HARMS, "gone": Path.unlink} if name.endswith("tokenizer.json") else HARMS
    for harm in harms.values():
        harm(path)
        with pytest.raises(VLMIGError) as error:
            VLMIG.from_pretrained(folder, store=tmp_path / "store").imagine(["a banana"], 1)
        assert "\n" not in str(error.value) and str(folder) in str(error.value)
        path.write_bytes(whole)


def test_a_scheduler_without_fields_is_not_replaced_by_the_library_s(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(POCKET, tmp_path / "pocket"))
    (folder / "generator/scheduler/scheduler_config.json").write_text("{}")
    with pytest.raises(VLMIGError, match="scheduler_config.json holds nothing"):
        VLMIG.from_pretrained(folder, store=tmp_path / "store").imagine(["a banana"], 1)


def zipped(path: Path, content: bytes, flag: int = 0, method: int = 8) -> None:
    """Write a zip archive of one file whose head says that it is encrypted, or how compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x" + path.suffixes[0], content)
    raw = bytearray(path.read_bytes())
    for head, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = raw.find(head) + at
        raw[start] |= flag
        raw[start + 2 : start + 4] = method.to_bytes(2, "little")
    path.write_bytes(raw)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"
ROW = b'{"image": "a.png", "caption": "a mug"}\n'
ARCHIVES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "encrypted": ("x.jsonl.zip", lambda path: zipped(path, ROW, flag=1), "is encrypted"),
    "encrypted list": ("x.json.zip", lambda path: zipped(path, b"[]", flag=1), "is encrypted"),
    "unusual": ("x.jsonl.zip", lambda path: zipped(path, ROW, method=99), "not supported"),
    "zeros": ("x.jsonl.zip", lambda path: zipped(path, bytes(2**21)), "line too long"),
    "spaces": ("x.json.zip", lambda path: zipped(path, b"[" + b" " * 2**21), "quotation mark"),
    "a long text": (
        "x.json.zip",
        lambda path: zipped(path, b'["' + b"a" * 2**21),
        "quotation mark",
    ),
    "deep": ("x.json", lambda path: path.write_bytes(b"[" * 100_000), "brackets open"),
    "deep maps": ("x.json", lambda path: path.write_bytes(b'[{"a":' * 50_000), "brackets open"),
    "a pointer": ("x.jsonl", lambda path: path.write_bytes(POINTER), "is a git-lfs pointer"),
    "table's pointer": (
        "x.parquet",
        lambda path: path.write_bytes(POINTER),
        "is a git-lfs pointer",
    ),
    "deep rows": ("x.jsonl", lambda path: path.write_bytes(b"[" * 100_000), "not JSON"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_data_that_would_fill_the_memory_or_cannot_be_opened(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, write, message = ARCHIVES[kind]
    monkeypatch.setattr(delimited, "LONGEST", 2**20)
    monkeypatch.setattr(json_stream, "LONGEST", 2**20)
    write(tmp_path / name)
    assert message in refused(["data", "check", str(tmp_path / name)], capsys)


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    asked: list[Any] = []

    def unreachable(address: Any, patience: float) -> None:
        asked.append(address)
        raise OSError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub.socket, "create_connection", unreachable)
    monkeypatch.setattr(hub, "getproxies", dict)
    hub._settle.cache_clear()
    hub.settle_hub(POCKET)
    assert not asked, "a folder needs no hub"
    for _ in range(3):
        hub.settle_hub("user/model")
    assert len(asked) == 1 and constants.HF_HUB_OFFLINE and re.match("hugg", asked[0][0])
    hub._settle.cache_clear()
