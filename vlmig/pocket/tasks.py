"""Tasks that the pocket world makes itself, from concepts that neither its mixture nor (but for known) its texts know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlmig.evaluation.tasks.items import Item, Question, Task
from vlmig.evaluation.tasks.yaml_task import declaration
from vlmig.io.hashing import digest_folder
from vlmig.models.checkpoint import POCKET
from vlmig.pocket.concepts import Concept, find_concept, load_concepts
from vlmig.pocket.scenes import COLORS
from vlmig.pocket.text import COLOR_WORDS, CORPUS_SEED, HELD_OUT_SEED, SENTENCES, language_corpus, with_article
from vlmig.predict.predictor import VLMIG

SHAPES = ("round", "oval", "square", "rectangle", "triangle", "star")
TEXTS = 300


def covered(subject: str) -> bool:
    """Tell whether the pocket world has a held-out concept of that name which did not set the mixture."""
    concept = find_concept(subject)
    return concept is not None and concept.split == "held_out" and not concept.calibration


def draws_pocket_pictures(model: VLMIG) -> bool:
    """Tell whether a model imagines with the pocket world's generator, whatever its LM and adapter."""
    return model.imagination.identity.get("generator") == digest_folder(POCKET / "generator")


def look_items(name: str, concepts: list[Concept], label: str) -> list[Item]:
    """Ask for the colour or the shape of concepts in the benchmarks' own wordings; labels are read from the glyphs' pixels."""
    asked, choices = ("memory_color", COLORS) if label == "color" else ("object_shape", SHAPES)
    own = declaration(asked).model_copy(
        update={"task": name, "choices": list(choices), "known": [], "picture": "{{ Descriptor }} {{ Item }}"}
    )
    rows = [
        {"Descriptor": with_article(c.name).split()[0], "Item": c.name, "Shape": str(getattr(c, label))}
        for c in concepts
    ]
    return own.items(rows)


def _looks(name: str, label: str, split: str) -> Callable[[Path], list[Item]]:
    def load(_: Path) -> list[Item]:
        return look_items(name, [c for c in load_concepts() if c.split == split and not c.calibration], label)

    return load


def _texts(_: Path) -> list[Item]:
    """Sentences of the corpus's own kind that are not in it, each about its first concept."""
    seen = set(language_corpus(CORPUS_SEED, SENTENCES))
    calibration = {c.name for c in load_concepts() if c.calibration}
    drawn = [s for s in dict.fromkeys(language_corpus(HELD_OUT_SEED, 4 * TEXTS)) if s not in seen]
    fresh = [s for s in drawn if getattr(find_concept(topic(s)), "name", None) not in calibration][:TEXTS]
    return [
        Item(f"pocket_text/{i}", str(i), topic(text), (), (Question((text,), (), -1),)) for i, text in enumerate(fresh)
    ]


def topic(text: str) -> str:
    """Find the longest concept name in a sentence; a sentence without one is imagined whole."""
    words = [w.strip(".,?!:").lower().removesuffix("'s") for w in text.split()]
    spans = [" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(i + 5, len(words) + 1))]
    named = [span for span in spans if span not in COLOR_WORDS and find_concept(span)]
    return max(named, key=len) if named else text


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("pocket_color", _looks("pocket_color", "color", "held_out")),
        Task("pocket_shape", _looks("pocket_shape", "shape", "held_out")),
        Task("pocket_known", _looks("pocket_known", "color", "supervised")),
        Task("pocket_text", _texts, kind="text"),
    )
}
