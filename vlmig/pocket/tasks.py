"""Tasks of the pocket world, about concepts that set no parameter and, except in pocket_known, no
text describes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from vlmig.evaluation.tasks.items import Item, Question, Task
from vlmig.evaluation.tasks.yaml_task import declaration
from vlmig.io.hashing import digest_folder
from vlmig.models.checkpoint import POCKET
from vlmig.pocket.concepts import Concept, find_concept, load_concepts
from vlmig.pocket.scenes import COLORS
from vlmig.pocket.text import (
    COLOR_WORDS,
    CORPUS_SEED,
    HELD_OUT_SEED,
    SENTENCES,
    language_corpus,
    with_article,
)
from vlmig.predict.predictor import VLMIG

SHAPES = ("round", "oval", "square", "rectangle", "triangle", "star")
TEXTS = 300
SIZE_PROMPTS = (
    "Which is larger, {{ one }} or {{ two }}?",
    "Which is bigger, {{ one }} or {{ two }}?",
)
HAND, PERSON = 0.25, 2.0
"""Sizes in meters below which a thing fits a hand, or a person's arms."""
CLEARLY = 2.0
"""Least ratio of the sizes of a pair that is asked about."""


def covered(subject: str) -> bool:
    """Tell whether the subject is a held-out concept that is not used for calibration."""
    concept = find_concept(subject)
    return concept is not None and concept.split == "held_out" and not concept.calibration


def draws_pocket_pictures(model: VLMIG) -> bool:
    """Tell whether a model uses the pocket world's generator, with any LM and adapter."""
    return model.imagination.identity.get("generator") == digest_folder(POCKET / "generator")


def look_items(name: str, concepts: list[Concept], label: str) -> list[Item]:
    """Return questions about the color or shape of concepts, worded as in the benchmarks."""
    benchmark, choices = ("memory_color", COLORS) if label == "color" else ("object_shape", SHAPES)
    picture = "{{ Descriptor }} {{ Item }}"
    changes: dict[str, object] = {"task": name, "choices": list(choices), "known": []}
    changes |= {"picture": picture, "groups": {"size": "{{ Size }}"}}
    task = declaration(benchmark).model_copy(update=changes)
    rows = []
    for concept in concepts:
        article, answer = with_article(concept.name).split()[0], str(getattr(concept, label))
        row = {"Descriptor": article, "Item": concept.name, "Shape": answer}
        rows.append({**row, "Size": size_group(concept)})
    return task.items(rows)


def size_group(concept: Concept) -> str:
    """Name the group of a concept by its typical size; of none it has no size."""
    if concept.size_m is None:
        return ""
    return "hand" if concept.size_m < HAND else "person" if concept.size_m < PERSON else "larger"


def _looks(name: str, label: str, split: str) -> Callable[[Path], list[Item]]:
    def load(_: Path) -> list[Item]:
        concepts = [c for c in load_concepts() if c.split == split and not c.calibration]
        return look_items(name, concepts, label)

    return load


def _sizes(_: Path) -> list[Item]:
    """Return questions about pairs of concepts, each concept in one of them, worded as in
    relative_size and asked in both orders."""
    concepts = [c for c in load_concepts() if covered(c.name) and c.size_m is not None]
    random.Random("pocket_size").shuffle(concepts)
    changes = {"task": "pocket_size", "prompts": list(SIZE_PROMPTS)}
    rows = []
    for one, two in zip(concepts[::2], concepts[1::2], strict=False):
        sizes = float(one.size_m or 0), float(two.size_m or 0)
        if max(sizes) < CLEARLY * min(sizes):
            continue
        row = {"Label": "yes" if sizes[0] > sizes[1] else "no"}
        for number, concept in enumerate((one, two), 1):
            row[f"Descriptor{number}"] = with_article(concept.name).split()[0]
            row[f"Item{number}"] = concept.name
        rows.append(row)
    return declaration("relative_size").model_copy(update=changes).items(rows)


def _texts(_: Path) -> list[Item]:
    """Return new sentences in the style of the training corpus, none about a calibration
    concept."""
    known = set(language_corpus(CORPUS_SEED, SENTENCES))
    items: list[Item] = []
    for text in dict.fromkeys(language_corpus(HELD_OUT_SEED, 4 * TEXTS)):
        if text in known:
            continue
        subject, number = topic(text), len(items)
        concept = find_concept(subject)
        if concept is not None and concept.calibration:
            continue
        question = Question((text,), (), -1)
        items.append(Item(f"pocket_text/{number}", str(number), subject, (), (question,)))
        if len(items) == TEXTS:
            break
    return items


def topic(text: str) -> str:
    """Return the longest concept name in a sentence, or the whole sentence without one."""
    words = [word.strip(".,?!:").lower().removesuffix("'s") for word in text.split()]
    longest = ""
    for i in range(len(words)):
        for j in range(i + 1, min(i + 5, len(words) + 1)):
            span = " ".join(words[i:j])
            if len(span) > len(longest) and span not in COLOR_WORDS and find_concept(span):
                longest = span
    return longest or text


TASKS: dict[str, Task] = {
    "pocket_color": Task("pocket_color", _looks("pocket_color", "color", "held_out")),
    "pocket_shape": Task("pocket_shape", _looks("pocket_shape", "shape", "held_out")),
    "pocket_size": Task("pocket_size", _sizes),
    "pocket_known": Task("pocket_known", _looks("pocket_known", "color", "supervised")),
    "pocket_text": Task("pocket_text", _texts, kind="text"),
}
