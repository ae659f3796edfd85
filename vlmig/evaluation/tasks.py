"""Tasks: how a benchmark's file becomes items with contexts, choices and the thing to imagine.

A task is a function from a data folder to items. Labels are whole candidates; every template of an item shares one set
of pictures, and the answer choices never reach the picture's prompt.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmig.errors import VLMIGError


@dataclass(frozen=True)
class Item:
    """One question of a benchmark."""

    id: str
    cluster: str
    """What the item is about; items that share it are not independent."""
    contexts: tuple[str, ...]
    """The question in each of the task's templates."""
    choices: tuple[str, ...]
    answer: int
    """Index into ``choices``."""
    picture: str
    """What to imagine."""


@dataclass(frozen=True)
class Task:
    """A named benchmark."""

    name: str
    load: Callable[[Path], list[Item]]
    files: tuple[str, ...] = ()
    """Files it reads below the data folder."""
    version: int = 1
    kind: str = "choice"
    """``choice``: accuracy among candidates. ``text``: perplexity of ``contexts`` (its items have no choices)."""


COLOR_PROMPTS = (
    "Q: What is the color of {x}? A: It is",
    "What is the color of {x}? It is",
    "What is the usual color of {x}?",
    "What is the typical color of {x}?",
    "The color of {x} is",
    "The usual color of {x} is",
    "The common color of {x} is",
    "The typical color of {x} is",
    "{x} usually has the color of",
)
SHAPE_PROMPTS = (
    "{x} can be of shape",
    "{x} has shape",
    "{x} is of shape",
    "The shape of {x} can be",
    "The shape of the {x} is",
)
IMAGENETVC_PROMPTS = (
    "{q}",
    "{q} Answer:",
    "{q} The answer is",
    "Question: {q} Answer:",
    "Question: {q} The answer is",
)
IMAGENETVC_CHOICES = {
    "color": ["brown", "black", "white", "yellow", "green", "gray", "red", "orange", "blue", "silver", "pink"],
    "shape": [
        "round",
        "rectangle",
        "triangle",
        "square",
        "oval",
        "curved",
        "cylinder",
        "straight",
        "cone",
        "curly",
        "heart",
        "star",
    ],
}
VICOMTE_SHAPES = [
    "cross",
    "heart",
    "octagon",
    "oval",
    "polygon",
    "rectangle",
    "rhombus",
    "round",
    "semicircle",
    "square",
    "star",
    "triangle",
]


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file that must have certain columns.

    Raises:
        VLMIGError: the file or a column is missing.
    """
    if not path.is_file():
        raise VLMIGError(
            f"no file {path}; pass --data (or VLMIG_DATA) a folder laid out as imagenetvc/*.csv, valm/*.csv"
        )
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [c for c in columns if c not in (reader.fieldnames or [])]
        if missing:
            found = ", ".join(reader.fieldnames or []) or "none"
            raise VLMIGError(
                f"{path} has no column {missing[0]}; expected {', '.join(columns)}, found {found}; fetch the file again from its source"
            )
        return list(reader)


def object_items(
    name: str, rows: list[tuple[str, str, str]], prompts: Sequence[str], choices: Sequence[str]
) -> list[Item]:
    """Make items from (descriptor, object, label) rows: each prompt names the object behind its descriptor."""
    items = []
    for i, (descriptor, thing, label) in enumerate(rows):
        phrase = f"{descriptor} {thing}".strip()
        contexts = tuple(_capitalised(prompt.format(x=phrase)) for prompt in prompts)
        items.append(Item(f"{name}/{i}", thing.lower(), contexts, tuple(choices), choices.index(label), phrase))
    return items


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _one_gray(label: str) -> str:
    return "gray" if label.strip() == "grey" else label.strip()


def memory_color(data: Path) -> list[Item]:
    """Memory Colors (Norlund et al. 2021) with VaLM's nine prompts; grey counts as gray."""
    table = read_table(data / "valm/memory_color_data.csv", ("Descriptor", "Item", "Shape"))
    rows = [(r["Descriptor"].strip(), r["Item"].strip(), _one_gray(r["Shape"])) for r in table]
    return object_items("memory_color", rows, COLOR_PROMPTS, sorted({label for _, _, label in rows}))


def color_terms(data: Path) -> list[Item]:
    """Color Terms (Bruni et al. 2012) with the same prompts; VaLM's literal "[DESCRIPTOR]" is left out."""
    table = read_table(data / "valm/color-concrete-objects.csv", ("object", "color"))
    rows = [("", r["object"].strip(), _one_gray(r["color"])) for r in table]
    rows = [(_article(thing), thing, label) for _, thing, label in rows]
    return object_items("color_terms", rows, COLOR_PROMPTS, sorted({label for _, _, label in rows}))


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeiou" else "a"


def object_shape(data: Path) -> list[Item]:
    """ViComTe's shape test as VaLM uses it, with its five open-ended prompts; 103 of 140 labels are "round"."""
    table = read_table(data / "valm/shape.csv", ("Descriptor", "Item", "Shape"))
    rows = [("", r["Item"].strip(), r["Shape"].strip()) for r in table]
    return object_items("object_shape", rows, SHAPE_PROMPTS, VICOMTE_SHAPES)


def imagenetvc(subset: str) -> Callable[[Path], list[Item]]:
    """Make the loader of an ImageNetVC subset (Xia et al. 2023) with its five prompts; pictures show the category."""

    def load(data: Path) -> list[Item]:
        choices = IMAGENETVC_CHOICES[subset]
        items = []
        for i, row in enumerate(read_table(data / f"imagenetvc/{subset}.csv", ("category", "question", "answer"))):
            contexts = tuple(prompt.format(q=row["question"].strip()) for prompt in IMAGENETVC_PROMPTS)
            category, label = row["category"].strip(), row["answer"].strip().lower()
            picture = f"{_article(category)} {category.lower()}"
            items.append(
                Item(f"{subset}/{i}", category.lower(), contexts, tuple(choices), choices.index(label), picture)
            )
        return items

    return load


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("memory_color", memory_color, ("valm/memory_color_data.csv",)),
        Task("color_terms", color_terms, ("valm/color-concrete-objects.csv",)),
        Task("object_shape", object_shape, ("valm/shape.csv",)),
        Task("imagenetvc_color", imagenetvc("color"), ("imagenetvc/color.csv",)),
        Task("imagenetvc_shape", imagenetvc("shape"), ("imagenetvc/shape.csv",)),
    )
}


def choose_tasks(names: Sequence[str], known: dict[str, Task]) -> list[Task]:
    """Look tasks up by name.

    Raises:
        VLMIGError: an unknown name.
    """
    for name in names:
        if name not in known:
            raise VLMIGError(f"unknown task {name!r}; expected some of {', '.join(known)}")
    return [known[name] for name in names]
