"""Size in the pocket world: the table, scenes to scale, lessons at random scale, the reader."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eval import pixel_reader
from tools.pocket import captions, groups, transformer
from tools.pocket.drawings import kept_images
from vlmig.data.pairs import Pair
from vlmig.pocket.concepts import find_concept, load_concepts
from vlmig.pocket.scenes import FONT
from vlmig.pocket.side_by_side import LEAST, drawn_extents, random_sizes, side_by_side
from vlmig.pocket.size_lessons import ComparedScenes
from vlmig.pocket.size_text import SIZE_WORDS, group_captions
from vlmig.pocket.tasks import TASKS, covered
from vlmig.pocket.text import with_article

CONCEPTS = load_concepts()
SIZES = {name: c.size_m for c in CONCEPTS if c.size_m for name in c.sized_names}
needs_font = pytest.mark.skipif(not FONT.exists(), reason="needs fonts-noto-color-emoji")


def test_the_table_agrees_with_what_everyone_knows() -> None:
    """Chains of things from small to large, written without the table."""
    for chain in (
        "ant, ladybug, bee, beetle, mouse, rat, rabbit, cat, dog, sheep, horse, elephant, whale",
        "thumbtack, coin, egg, apple, banana, baguette, guitar, bathtub, car, bus, ship",
        "pill, tooth, battery, pencil, laptop, chair, door, house, church, castle, mountain",
        "pea, blueberry, strawberry, lemon, pineapple, suitcase, bicycle, tractor, airplane",
        "ring, wristwatch, sneaker, canoe, yacht, ocean liner, volcano, full moon, saturn, sun",
    ):
        sizes = [SIZES[name] for name in chain.split(", ")]
        assert all(a < b for a, b in pairwise(sizes)), sizes


def test_only_weather_and_inventions_have_no_size() -> None:
    without = {c.name for c in CONCEPTS if c.size_m is None}
    assert without == set(
        (
            "alien monster, blood, cloud, cyclone, dna double helix, dragon, fire, flying saucer, "
            "ghost, heart, rainbow, raincloud, robot, star, thundercloud, tornado, unicorn"
        ).split(", ")
    )
    assert all(1e-3 < c.size_m < 2e9 for c in CONCEPTS if c.size_m is not None)
    assert all(set(c.other_sized) <= set(c.aliases) for c in CONCEPTS)


def test_what_is_larger_is_drawn_larger_and_nothing_vanishes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = np.exp(rng.uniform(np.log(2e-3), np.log(1e9), rng.integers(2, 4)))
        extents = drawn_extents(list(sizes), 80)
        assert min(extents) >= LEAST and abs(sum(extents) - 80) <= 1
        for a, b in zip(*np.triu_indices(len(sizes), 1), strict=True):
            if extents[a] != extents[b]:
                assert (extents[a] > extents[b]) == (sizes[a] > sizes[b])
    assert drawn_extents([3.0, 1.0], 80)[0] >= drawn_extents([3.0, 1.0], 80)[1] + 10


def test_extents_of_a_scene_are_those_of_its_pixels() -> None:
    """Squares of pure colors, which no background has, counted pixel by pixel."""
    colors = [(255, 0, 255), (0, 255, 0), (0, 255, 255)]
    inks = [Image.new("RGBA", (96, 96), color) for color in colors]
    for seed in range(24):
        rng = np.random.default_rng(seed)
        sizes = random_sizes(2 + seed % 2, rng)
        scene, again = (
            side_by_side(inks[: len(sizes)], sizes, np.random.default_rng(seed)) for _ in range(2)
        )
        assert scene.size == (96, 96) and scene.tobytes() == again.tobytes()
        pixels = np.asarray(scene).astype(int)
        seen = []
        for color in colors[: len(sizes)]:
            mask = np.abs(pixels - color).max(-1) < 10
            seen.append(max(np.ptp(axis) + 1 for axis in np.nonzero(mask)))
        assert np.argsort(seen).tolist() == np.argsort(sizes).tolist(), seed
        # The blurred border of a square loses a pixel or two, and a gradient may look like it.
        assert min(seen) >= LEAST - 3 and sum(seen) <= 96


@needs_font
def test_the_reader_finds_the_larger_thing() -> None:
    """By silhouettes and the encoder, which know nothing of the table."""
    for true_scale in (True, False):
        right = pixel_reader.read_sizes(pixel_reader.drawn_pairs(20, true_scale))
        assert right.mean(0).min() >= 0.7


@needs_font
def test_pairs_are_asked_about_in_both_orders() -> None:
    """A model that names the larger thing whatever it is asked, and always says yes."""
    pairs = list(pixel_reader.drawn_pairs(4, False))
    larger = {with_article(names[number]) for names, number, _ in pairs}

    class Fake:
        imagination = SimpleNamespace(given=lambda images, prompts: None)

        def score(self, contexts: list[str], choices: list[tuple[str, str]], images: Any) -> Any:
            liked = [
                [float(choice.strip() in larger or choice == " Yes") for choice in pair]
                for pair in choices
            ]
            return [SimpleNamespace(per_image=np.array([row]), blank=np.zeros(2)) for row in liked]

    right = pixel_reader.asked_sizes(Fake(), pairs)  # type: ignore[arg-type]
    assert right["larger"].all() and not right["smaller"].any()
    assert len(right["yes or no"]) == 8 and right["yes or no"].mean() == 0.5


@needs_font
def test_lessons_say_what_their_scene_shows_and_no_name_tells() -> None:
    """The texts, read by patterns of this test, against the scene's sizes and the table's."""
    scenes = ComparedScenes(scenes=1200, named=0.3)
    read = {"statement": 0, "yes": 0, "no": 0, "which": 0}
    as_in_the_table = []
    for pair in scenes.pairs():
        assert isinstance(pair, Pair)
        group, _ = scenes._group(int(pair.picture))
        drawn = {n: s for c, s in zip(group.concepts, group.sizes, strict=True) for n in c.names}
        text = re.sub(r"\b(the|an|a) ", "", pair.caption.lower())
        for start, end in pair.learnt:
            learned = re.sub(r"^(the|an|a)( |$)", "", pair.caption[start:end].lower())
            assert not group.compared or learned in drawn or learned in ("yes", "no", "")
        assert pair.learnt
        if found := re.search(
            r"^(?:in picture )?([^?]*) is (larger|bigger|smaller) than (.*)\.", text
        ):
            kind, first, word, second = "statement", *found.groups()
        elif found := re.search(r"is (.*) (larger|bigger|smaller) than (.*)\?.* (yes|no)\.", text):
            kind, first, word, second = found[4], found[1], found[2], found[3]
        elif found := re.search(r"is (larger|bigger|smaller), (.*) or (.*)\?.* ?(\2|\3)\.", text):
            kind, word, first = "which", found[1], found[4]
            second = found[3] if first == found[2] else found[2]
        elif found := re.search(
            r"of (.*) and (.*), (larger|bigger|smaller) one is (\1|\2)\.", text
        ):
            kind, word, first = "statement", found[3], found[4]
            second = found[2] if first == found[1] else found[1]
        else:
            assert not set(text.replace("high heel", "").split()) & set(SIZE_WORDS)
            continue
        assert group.compared
        said = (drawn[first] > drawn[second]) == (word != "smaller")
        assert said == (kind != "no"), pair.caption
        read[kind] += 1
        one, two = find_concept(first), find_concept(second)
        if one and two and one.size_m and two.size_m:
            agree = (one.size_m > two.size_m) == (drawn[first] > drawn[second])
            as_in_the_table.append(agree)
    assert min(read.values()) > 100
    # Of some 290: a standard deviation of 6 %.
    assert abs(read["yes"] - read["no"]) < 0.2 * (read["yes"] + read["no"])
    # Some 840 scenes, each told five times: a standard deviation of 1.7 %.
    assert 0.44 < np.mean(as_in_the_table) < 0.56
    odd = next(p for p in scenes.pairs() if isinstance(p, Pair) and int(p.picture) % 2)
    assert scenes.open(odd).tobytes() == scenes.open(odd).tobytes()


@needs_font
def test_lessons_of_any_concept_say_what_is_seen_and_nothing_of_its_size() -> None:
    scenes = ComparedScenes(scenes=600, named=1.0)
    splits, counts, seen_is_larger, asked = set(), set(), [], {True: 0, False: 0}
    for pair in scenes.pairs():
        assert isinstance(pair, Pair)
        group, _ = scenes._group(int(pair.picture))
        shown = {n: s for c, s in zip(group.concepts, group.sizes, strict=True) for n in c.names}
        splits |= {concept.split for concept in group.concepts}
        counts.add(len(group.concepts))
        text = re.sub(r"\b(the|an|a) ", "", pair.caption.lower())
        assert not set(text.replace("high heel", "").split()) & set(SIZE_WORDS)
        less = bool(re.search(r"\b(less [a-z]+|fainter|farther|dimmer)\b", text))
        word = r"(?:more [a-z]+|less [a-z]+|[a-z]+er)"
        if found := re.search(rf"is (.*) {word} than (.*)\?.* (yes|no)", text):
            first, second, answer = found.groups()
            named = first if (answer == "yes") != less else second
        elif found := re.search(rf"is {word}, (.*) or (.*)\?.* ?(\1|\2)\.", text):
            first, second, answer = found.groups()
            named = answer if not less else second if answer == first else first
        else:
            continue
        both = first in shown and second in shown
        assert both == (len(group.concepts) > 1), "a thing alone is compared with another"
        seen, other = sorted((first, second), key=lambda name: -shown.get(name, 0.0))
        assert named == seen, text
        asked[less] += 1
        sizes = [concept.size_m for concept in map(find_concept, (seen, other)) if concept]
        if None not in sizes:
            seen_is_larger.append(sizes[0] > sizes[1])
    assert splits == {"supervised", "held_out"} and counts == {1, 2, 3}
    assert abs(asked[True] - asked[False]) < 0.1 * sum(asked.values())
    of_more = [pair.caption for pair in ComparedScenes(scenes=300, less=False).pairs()]  # type: ignore[union-attr]
    assert not re.search(r"\b(less|least|smaller|fainter|farther|dimmer)\b", " ".join(of_more))
    # Of some 1,200: a standard deviation of 1.4 %, of scenes as a whole 2.
    assert len(seen_is_larger) > 600 and 0.42 < np.mean(seen_is_larger) < 0.58


def test_captions_of_groups_name_things_and_no_sizes() -> None:
    rng = np.random.default_rng(1)
    for number in range(300):
        concepts, _ = groups.group_of(number)
        text = groups.draw_group_caption(number, rng)
        assert all(any(name in text for name in c.sized_names) for c in concepts)
    words = re.findall(r"[a-z]+", " ".join(group_captions(["x", "y", "z"])))
    assert not set(words) & set(SIZE_WORDS)


def test_groups_take_the_first_places_of_a_batch() -> None:
    latents = torch.randn(len(CONCEPTS), 2, 8, 12, 12).half()
    grouped = groups.Groups(torch.randn(groups.GROUPS, 8, 12, 12).half(), 0.25)
    plain, mixed = (
        transformer.training_batch(latents, CONCEPTS, np.random.default_rng(3), 0.5, some)
        for some in (None, grouped)
    )
    count = round(0.25 * transformer.BATCH)
    same = (plain[0] == mixed[0]).flatten(1).all(1)
    assert not same[:count].any() and same[count:].all()
    assert plain[1][count:] == mixed[1][count:]
    for before, after in zip(plain[1][:count], mixed[1][:count], strict=True):
        assert bool(before) == bool(after) and (not after or re.search(" and | beside ", after))


def test_kept_images_are_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"

    def fail(images: np.ndarray) -> None:
        images[0] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_images(path, (2, 4), fail)
    assert not path.exists()
    for _ in range(2):  # the second call only reads
        assert kept_images(path, (2, 4), lambda images: images.fill(7)).tolist() == [[7] * 4] * 2


@pytest.mark.proof
def test_the_tokenizer_may_read_groups_too(tmp_path: Path) -> None:
    tokenizer = captions.build_tokenizer(tmp_path / "tokenizer", groups=True)
    assert tokenizer.tokenize("an ant and a bus") == [
        "an</w>",
        "ant</w>",
        "and</w>",
        "a</w>",
        "bus</w>",
    ]


def test_pocket_size_asks_about_held_out_pairs_in_both_orders() -> None:
    items = TASKS["pocket_size"].load(Path())
    asked: list[str] = []
    first = []
    for item in items:
        one, two = (re.sub(r"^(an?|the) ", "", part) for part in item.picture.split(" and "))
        asked += [one, two]
        for question in item.questions:
            found = re.fullmatch(
                r"Which is (?:larger|bigger), an? (.*) or an? (.*)\?", question.contexts[0]
            )
            assert found and {found[1], found[2]} == {one, two}
            larger = max(found.groups(), key=SIZES.__getitem__)
            assert question.continuations[question.answer] == with_article(larger)
            first.append(question.answer == 0)
    assert len(items) > 150 and np.mean(first) == 0.5
    assert len(asked) == len(set(asked)) and all(map(covered, asked))
