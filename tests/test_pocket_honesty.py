"""The honesty rule: no text that trained anything states the look of a held-out concept.

Read over every training text: the language model's corpus, the adapter's captions and the captions
of the pictures.
"""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import pytest

from vlmig.data.pairs import Pair
from vlmig.pocket.concepts import load_concepts, plural
from vlmig.pocket.lessons import (
    SLOTS,
    SceneAnswers,
    SceneConversations,
    SceneDocuments,
    Sentences,
)
from vlmig.pocket.scene_source import RecoloredScenes, captions
from vlmig.pocket.scenes import COLORS
from vlmig.pocket.size_lessons import ComparedScenes
from vlmig.pocket.size_text import SIZE_WORDS, group_captions, size_corpus
from vlmig.pocket.text import (
    COLOR_WORDS,
    CORPUS_SEED,
    SENTENCES,
    SHAPE_WORDS,
    language_corpus,
    picture_captions,
)
from vlmig.training.recipe import find_recipe, load_recipe

DATA = Path(os.environ.get("VLMIG_DATA", Path(__file__).parents[2] / "shared" / "data"))
LOOKS = {*COLOR_WORDS, *COLORS, *SHAPE_WORDS, *SIZE_WORDS, "grey"}
CONCEPTS = load_concepts()


def names_of(split: str) -> set[str]:
    return {
        form
        for c in CONCEPTS
        if c.split == split
        for name in c.names
        for form in (name, plural(name))
    }


def phrases(text: str) -> set[str]:
    words = [word.removesuffix("'s") for word in re.findall(r"[a-z0-9'\-]+", text.lower())]
    return {
        " ".join(words[i:j])
        for i in range(len(words))
        for j in range(i + 1, min(i + 5, len(words) + 1))
    }


def offends(text: str, held_out: set[str], told: set[str]) -> bool:
    """Say whether a text holds a held-out name, alone or in a compound, and beside all names a
    colour, shape or size.
    """
    found = phrases(text)
    if not found & held_out:
        return False
    rest = text.lower()
    for name in sorted(found & (held_out | told), key=len, reverse=True):
        rest = rest.replace(name, " ")
    return bool(set(re.findall(r"[a-z]+", rest)) & LOOKS)


def test_the_reader_catches_a_planted_sentence() -> None:
    held_out, told = names_of("held_out"), names_of("supervised")
    assert offends("The color of a banana is yellow.", held_out, told)
    assert offends("Bananas are easy to find. I saw a red one.", held_out, told)
    assert offends("Is a banana larger than an abacus? No.", held_out, told)
    assert not offends("There was a banana last summer.", held_out, told)


def test_a_held_out_name_counts_inside_a_compound_too() -> None:
    held_out, told = names_of("held_out"), names_of("supervised") | {"rice ball", "paper lantern"}
    assert offends("The rice ball is white.", held_out, told)
    assert offends("Paper lanterns are usually red.", held_out, told)


def test_no_told_name_holds_a_held_out_one() -> None:
    held_out = names_of("held_out")
    bad = {name: found for name in names_of("supervised") if (found := phrases(name) & held_out)}
    assert not bad, bad


def test_no_language_model_text_states_a_held_out_look() -> None:
    held_out, told = names_of("held_out"), names_of("supervised")
    corpus = language_corpus(CORPUS_SEED, SENTENCES)
    assert len(corpus) == SENTENCES
    bad = [text for text in corpus if offends(text, held_out, told)]
    assert not bad, bad[:5]


def test_no_adapter_caption_names_a_held_out_concept() -> None:
    held_out, told = names_of("held_out"), names_of("supervised")
    told_ones = [c for c in CONCEPTS if c.split == "supervised"]
    facts = [(c.name, color, str(c.shape)) for c in told_ones for color in COLORS]
    bad = [text for _, text in captions(facts) if offends(text, held_out, told)]
    assert not bad, bad[:5]


@pytest.mark.parametrize(
    "lesson",
    [SceneConversations(scenes=4), SceneDocuments(scenes=4, documents=300)],
    ids=["conversations", "documents"],
)
def test_no_lesson_of_early_fusion_names_a_held_out_concept(lesson: RecoloredScenes) -> None:
    held_out, told = names_of("held_out"), names_of("supervised")
    texts = [pair.caption for pair in lesson.pairs() if isinstance(pair, Pair)]
    bad = [
        text
        for text in texts
        for part in re.split(r"[.?\n]|<image>", text)
        if offends(part, held_out, told)
    ]
    assert len(texts) > 200 and not bad, bad[:5]


def test_no_text_for_a_pretrained_lm_names_a_held_out_concept() -> None:
    """Every wording of the recipe smollm2, whatever the color in it."""
    held_out, told = names_of("held_out"), names_of("supervised")
    (source,) = load_recipe(find_recipe(Path("smollm2"))).stages[0].data
    lesson = SceneAnswers(wordings=source["wordings"])
    texts = [text for i in range(71) for text in lesson.written(i)]
    for place in SLOTS.values():
        texts = [text.replace(place, "red") for text in texts]
    parts = [part for text in texts for part in re.split(r"[.?\n]", text)]
    bad = [part for part in parts if offends(part, held_out, told)]
    assert sum(" red" in text for text in texts) > 0.8 * len(texts) > 1000 and not bad, bad[:5]
    assert len(lesson.concepts) == 71


def test_no_lesson_on_size_compares_a_held_out_concept() -> None:
    """Every text of the pocket adapter's recipes, and those that an LM may learn; some of them name
    held-out concepts, without a size."""
    held_out, told = names_of("held_out"), names_of("supervised")
    texts = size_corpus(CORPUS_SEED, 20_000)
    for name in ("pocket_sizes", "pocket_smaller"):
        *_, source = load_recipe(find_recipe(Path(name))).stages[0].data
        lesson = ComparedScenes(source["scenes"], less=source.get("less", True))
        lines = [pair.caption for pair in lesson.pairs() if isinstance(pair, Pair)]
        assert len(lines) == len(lesson)
        texts += lines
    bad = [text for text in texts if offends(text, held_out, told)]
    assert not bad, bad[:5]
    stating = sum(bool(re.search("larger|bigger|smaller", text)) for text in texts)
    assert stating > 0.15 * len(texts)


def test_sentences_that_keep_the_language_model_are_its_own() -> None:
    own = set(language_corpus(CORPUS_SEED, SENTENCES))
    assert all(isinstance(pair, Pair) and pair.caption in own for pair in Sentences(500).pairs())


def test_no_picture_caption_tells_a_look() -> None:
    for concept in CONCEPTS:
        for text in picture_captions(concept):
            rest = text
            for name in sorted(
                (form for n in concept.names for form in (n, plural(n))), key=len, reverse=True
            ):
                rest = rest.replace(name, " ")
            # "a small thing" is said of everything alike, which tells no size.
            said = set(re.findall(r"[a-z]+", rest)) & LOOKS
            assert not said or (said == {"small"} and text.startswith("a small ")), text
    rest = " ".join(group_captions(["one", "two", "three"]))
    assert not set(re.findall(r"[a-z]+", rest)) & LOOKS


def test_names_are_unambiguous() -> None:
    names = [name for concept in CONCEPTS for name in concept.names]
    assert len(names) == len(set(names))
    assert not any(
        set(name.split()) & LOOKS - {"orange", "star", "heart", "high"} for name in names
    )


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark data at {DATA}; set VLMIG_DATA")
def test_every_concept_that_a_benchmark_names_is_held_out() -> None:
    texts: set[str] = set()
    for path in sorted(DATA.rglob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                wanted = ("category", "question", "Item", "Item1", "Item2", "object")
                texts |= {row[column] for column in wanted if column in row}
    for path in sorted((DATA / "vicomte").rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            texts |= {row["sub"], *([row["obj"], row["alt"]] if "size" in path.parent.name else [])}
    named = set().union(*(phrases(text) for text in texts))
    told = {
        c.name
        for c in CONCEPTS
        if c.split == "supervised" and {f for n in c.names for f in (n, plural(n))} & named
    }
    assert not told, f"named by a benchmark, yet told in text: {sorted(told)}"
