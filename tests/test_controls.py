"""Controls and parts of a task: whose images stand in, what is left of a question, what a limit
draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vlmig.evaluation.controls import CONTENT_FREE, DONORS, content_free, donors
from vlmig.evaluation.tasks.items import Item, Question, drawn


def item_about(name: str, *contexts: str, picture: str = "") -> Item:
    question = Question(contexts or (f"The color of {name} is",), ("red", "blue"), 0)
    return Item(name, name, picture or f"a {name}", ("red", "blue"), (question,))


ITEMS = [item_about(f"thing{i}") for i in range(40)]


def names(taken: dict[str, list[Item]]) -> dict[str, list[str]]:
    return {name: [item.cluster for item in others] for name, others in taken.items()}


def test_every_object_gets_five_others_and_gives_to_five() -> None:
    taken = names(donors(ITEMS, seed=0))
    for name, others in taken.items():
        assert len(set(others)) == DONORS and name not in others
    given = Counter(other for others in taken.values() for other in others)
    # A ring alone gives each exactly once; where its next one is a donor already, it is passed.
    assert max(given.values()) <= 2 * DONORS and len(given) == len(ITEMS)


def test_donors_depend_on_the_seed_and_hardly_on_the_other_objects() -> None:
    first, other = names(donors(ITEMS, seed=0)), names(donors(ITEMS, seed=1))
    assert first != other and first == names(donors(ITEMS[::-1], seed=0))
    longer = names(donors([*ITEMS, item_about("new")], seed=0))
    changed = [name for name in first if first[name] != longer[name]]
    # A new object stands in each ring before one other, whose donor changes, and rarely a second.
    assert 0 < len(changed) <= 2 * DONORS


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_objects_give_what_they_can(count: int) -> None:
    taken = donors(ITEMS[:count], seed=0)
    assert [len(others) for others in taken.values()] == [count - 1] * count * (count > 1)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (item_about("ant", "How many antennas does the ant have?"), "antennas does the N/A have"),
        (item_about("ant", "Ants have antennas; an ant is small."), "N/A have antennas; an N/A is"),
        (item_about("ant", "What is an ANT?", picture="an ant"), "What is N/A?"),
        (
            item_about("car / race car", "Is a race car bigger than a car?"),
            "Is a N/A bigger than a N/A?",
        ),
        (item_about("c++ (x)", "Is a c++ (x) red?"), "Is N/A red?"),
    ],
)
def test_the_subject_is_replaced_as_words_only(item: Item, expected: str) -> None:
    (question,) = content_free(item).questions
    assert expected in question.contexts[0]


def test_a_question_without_its_subject_is_about_nothing() -> None:
    assert content_free(item_about("wolf", "Are wolves gray?")).questions[0].contexts == (
        CONTENT_FREE,
    )


def test_a_limit_draws_a_sample_and_the_same_from_a_longer_file() -> None:
    """A file sorted by label, as ViComTe's: the first 30 of 300 have one label, a draw has all."""
    items = [item_about(f"thing{i}") for i in range(300)]
    part = drawn(items, 30)
    places = [items.index(item) for item in part]
    assert len(part) == 30 and places == sorted(places)
    thirds = np.bincount(np.array(places) // 100, minlength=3)
    # Each third has 10 +- 2.5 of the 30.
    assert (thirds >= 3).all()
    longer = drawn([item_about("zero"), *items, *[item_about(f"new{i}") for i in range(30)]], 30)
    kept = {item.cluster for item in part} & {item.cluster for item in longer}
    # A tenth of the file is new: so is about a tenth of the draw.
    assert 20 <= len(kept) < 30
    assert drawn(items, 300) is items and drawn(part, 30) is part
