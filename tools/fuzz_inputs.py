"""What the fuzzer starts from: good files and command lines, and how to damage them."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from PIL import Image

from vlmig.cli.main import build_parser, main
from vlmig.models.checkpoint import POCKET
from vlmig.models.config import VLMIGConfig

texts = st.text(max_size=12) | st.sampled_from(["", "../x", "\udc80", "{{ a }}", "x" * 3000, "1e9"])
numbers = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, -1, 2, 1.5, 10**9])
leaves = st.none() | st.booleans() | numbers | texts
junk = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
words = st.sampled_from(
    ["", "x", "-1", "0", "nan", "inf", "1e400", "9" * 30, "a,b", ",", "=", "../x"]
)
arguments = words | st.text(st.characters(exclude_characters="\0"), max_size=8)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value inside a value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*above, key)
            yield from places(inner, (*above, key))


def at(value: Any, place: tuple[Any, ...]) -> Any:
    """Return the value at a place."""
    for key in place:
        value = value[key]
    return value


def replaced(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    """Return a copy with another value at a place."""
    if not place:
        return by
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(value[place[0]], place[1:], by)
    return copy


def plainly_wrong(before: Any, after: Any) -> bool:
    """Whether a value is of a kind that cannot stand for the one before: a text for a number."""

    def kind(value: Any) -> str:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return "number" if is_number else type(value).__name__

    return None not in (before, after) and kind(before) != kind(after)


@dataclass(frozen=True)
class Mutation:
    """One kind of input: something good, of which one place is replaced.

    Attributes:
        good: the whole.
        write: writes it into the folder, and returns the command line that reads it.
        typed: which places have a type of their own, so that another is plainly wrong.
    """

    good: Any
    write: Callable[[Path, Any], list[str]]
    typed: Callable[[tuple[Any, ...]], bool] = lambda place: True

    def strategy(self) -> st.SearchStrategy[tuple[tuple[Any, ...], Any]]:
        """Draw a place, and what to put there."""
        return st.tuples(st.sampled_from(list(places(self.good))), junk)


def damaged(folder: Path, place: float, junk: bytes, is_cut: bool) -> None:
    """Write other bytes into the largest file of a folder, or cut it off there."""
    file = max((file for file in folder.rglob("*") if file.is_file()), key=_size)
    whole = file.read_bytes()
    start = int(place * len(whole))
    file.write_bytes(whole[:start] + junk + (b"" if is_cut else whole[start + len(junk) :]))


def _size(file: Path) -> int:
    return file.stat().st_size


def config_file(folder: Path, value: Any) -> list[str]:
    """Describe a checkpoint that has no more than its configuration."""
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text(json.dumps(value))
    return ["doctor", "--model", str(folder)]


def recipe_file(folder: Path, value: Any) -> list[str]:
    """Check a recipe, which without ``--out`` is not run."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(value))
    return ["train", str(folder / "recipe.yaml")]


def task_file(folder: Path, value: Any) -> list[str]:
    """Plan a task of one item."""
    (folder / "own.csv").write_text("a\nb\n")
    (folder / "own.yaml").write_text(yaml.safe_dump(value))
    command = ["eval", "--tasks", str(folder / "own.yaml"), "--data", str(folder), "--plan"]
    return [*command, "--out", str(folder / "out")]


def rows_file(folder: Path, value: Any, name: str) -> list[str]:
    """Check training data: JSON lines, or a list."""
    for image in ("a.png", "b.png"):
        Image.new("RGB", (9, 9)).save(folder / image)
    is_lines = name.endswith("l")
    written = "\n".join(map(json.dumps, value)) if is_lines else json.dumps(value)
    (folder / name).write_text(written)
    return ["data", "check", str(folder / name)]


def results_folder(folder: Path, value: Any) -> list[str]:
    """Write a run's page again."""
    (folder / "results.json").write_text(json.dumps(value["results"]))
    samples = value["samples"] if isinstance(value["samples"], list) else [value["samples"]]
    (folder / "samples_pocket_color.jsonl").write_text("\n".join(map(json.dumps, samples)))
    return ["report", str(folder), "--store", str(folder / "store")]


RECIPE = {
    "model": {"from": "pocket", "adapter": "new", "strength": 1.0, "projector": "mlp"},
    "seed": 1,
    "validation": {"share": 0.1, "every": 10, "samples": 8},
    "probe": {"tasks": ["pocket_color"], "k": 2, "limit": 4},
    "max_bad": 0.1,
    "workers": 0,
    "save_seconds": 10.0,
    "stages": [
        {
            "name": "a",
            "data": [{"path": "x", "weight": 0.5, "limit": 4, "curate": {"min_words": 2}}],
            "steps": 5,
            "batch": 4,
            "learning_rate": 1e-3,
            "betas": [0.9, 0.99],
            "trains": ["projector"],
            "blank_share": 0.1,
        }
    ],
}
TASK = {
    "task": "own",
    "files": {"test": ["own.csv"]},
    "columns": ["a"],
    "prompts": ["{{ a }} is", "{{ a | capital }}:"],
    "subject": "{{ a }}",
    "picture": "{{ a }}",
    "choices": ["b", "c"],
    "answer": "a",
    "where": "a != 'c'",
    "variables": {"v": "{{ a }}s"},
    "same": {"d": "b"},
    "shots": 2,
    "version": 1,
}
CAPTIONS = [
    {"image": "a.png", "caption": "a mug", "score": 0.5},
    {"image": "b.png", "caption": "b"},
]
TALKS = [
    {
        "id": "1",
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": "A mug."},
        ],
    },
    {
        "images": ["a.png"],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "A mug."},
        ],
    },
]


def results_of_a_run() -> dict[str, Any]:
    """Run ``vlmig eval`` on two items, and read what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["eval", "--tasks", "pocket_color", "--limit", "2", "--k", "0"]
        quiet(main, [*command, "--out", folder])
        lines = (Path(folder) / "samples_pocket_color.jsonl").read_text().splitlines()
        results = json.loads((Path(folder) / "results.json").read_text())
    return {"results": results, "samples": [json.loads(line) for line in lines]}


def mutations() -> dict[str, Mutation]:
    """Return every kind of input that is a file."""
    ours = VLMIGConfig.__annotations__
    config = json.loads((POCKET / "config.json").read_text())
    own = {name: value for name, value in config.items() if name in ours and name != "text_config"}
    complete = {**config, **own}
    # Data and results are read leniently: a bad record is counted, an extra field is left alone.
    lenient = {"typed": lambda place: False}
    return {
        "config.json": Mutation(
            complete, config_file, lambda place: len(place) == 1 and place[0] in own
        ),
        "recipe": Mutation(RECIPE, recipe_file),
        "task file": Mutation(
            TASK, task_file, lambda place: place[0] not in ("choices", "variables")
        ),
        "captions": Mutation(CAPTIONS, partial(rows_file, name="x.jsonl"), **lenient),
        "list of captions": Mutation(CAPTIONS, partial(rows_file, name="x.json"), **lenient),
        "conversations": Mutation(TALKS, partial(rows_file, name="x.jsonl"), **lenient),
        "results.json": Mutation(results_of_a_run(), results_folder, **lenient),
    }


def command_lines() -> st.SearchStrategy[list[str]]:
    """Draw command lines of known options and any values; none of them draws an image."""
    options: dict[tuple[str, ...], list[str]] = {}
    commands = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    for name in ("ask", "eval", "tasks", "report", "train", "doctor", "calibrate"):
        known = commands[name]._option_string_actions  # type: ignore[index]
        options[(name,)] = [option for option in known if option not in ("-h", "--help")]
    options["imagine", "--stats"] = [
        "--k",
        "--seed",
        "--store-limit",
        "--shard",
        "--report",
        "--out",
    ]
    options["data", "check"] = [
        "--source",
        "--option",
        "--curate",
        "--limit",
        "--max-bad",
        "--data",
    ]

    def line(command: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
        pair = st.tuples(st.sampled_from(options[command]), arguments).map(list)
        rest = st.lists(pair | arguments.map(lambda word: [word]), max_size=4)
        return rest.map(lambda parts: [*command, *itertools.chain.from_iterable(parts)])

    # `--k 0` at the end: whatever comes before, nothing is drawn.
    ended = {"ask": ["--k", "0"], "eval": ["--k", "0", "--plan"]}
    lines = st.sampled_from(list(options)).flatmap(line)
    return lines.map(lambda words: [*words, *ended.get(words[0], [])])


def quiet(run: Callable[[list[str]], int], command: list[str]) -> tuple[int, str]:
    """Run a command; return its status and what it says on stderr."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            status = run(command)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
    return status, said.getvalue()
