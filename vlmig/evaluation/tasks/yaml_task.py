"""Tasks as declared in ``tasks/*.yaml`` (docs/evaluation.md shows how to add one).

Texts are Jinja templates over a row's fields, as in lm-eval; ``choices``, ``answer`` and ``where``
are Jinja expressions. Whatever the published code does differently is under ``reference``, with the
same keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError
from vlmig.evaluation.tasks.download import SOURCES, absent
from vlmig.evaluation.tasks.items import Item, Question, Task
from vlmig.evaluation.tasks.joined import add_labels, add_people
from vlmig.evaluation.tasks.keys import Keys
from vlmig.evaluation.tasks.people import groups, shares
from vlmig.evaluation.tasks.templates import evaluate, fields_of, made_of_row, render
from vlmig.evaluation.tasks.training_data import open_image, pair_records
from vlmig.io.config_file import parse, read_yaml
from vlmig.io.records import Record, read_records
from vlmig.io.rows import Row

FOLDER = Path(__file__).parent


class Declaration(Keys):
    """A task's file."""

    def read(self, data: Path, split: str) -> list[Item]:
        """Read a split's items.

        Raises:
            VLMIGError: its files are wrong.
        """
        if self.data:
            for name in self.files[split]:
                self._path(data, name)  # says how to come by a file that is not there
            return self._items(pair_records(self.data, data, self.task))
        records: list[Record] = _located(self.task, self.rows)
        for name in self.files[split]:
            if name not in (self.labels, self.people):
                path = self._path(data, name)
                for location, row in read_records(
                    path, self.columns, self.each, self.repeated, self.also
                ):
                    records.append((location, {**row, "file": name}))
        if self.labels:
            add_labels(records, data / self.labels)
        if self.people:
            add_people(records, data / self.people, self.by)
        return self._items(records)

    def _path(self, data: Path, name: str) -> Path:
        """Find a file where it should be, or where another publication has it."""
        other = self.elsewhere.get(name)
        is_other = other and not (data / name).is_file() and (data / other).is_file()
        path = data / other if other and is_other else data / name
        if name in SOURCES and SOURCES[name].by_hand and not path.is_file():
            raise VLMIGError(absent(path, name))
        return path

    def items(self, rows: Sequence[Row]) -> list[Item]:
        """Make items of rows.

        Raises:
            VLMIGError: a row does not fit the task.
        """
        return self._items(_located(self.task, rows))

    def _items(self, records: Iterable[Record]) -> list[Item]:
        selected: list[Record] = []
        for location, row in records:
            filled = made_of_row(location, self._filled, row, location)
            if made_of_row(location, evaluate, self.where, filled):
                selected.append((location, filled))
        if self.previous:
            selected = list(self._with_previous(selected))
        if not selected:
            raise VLMIGError(
                f"{self.task}: no rows where {self.where}; fetch the files again from their source"
            )
        if self.sides:
            return self._pairs(selected)
        answers = [made_of_row(location, evaluate, self.answer, row) for location, row in selected]
        labels = sorted({self._one(answer) for answer in answers if isinstance(answer, str)})
        items = []
        for number, ((location, row), answer) in enumerate(zip(selected, answers, strict=True)):
            row = {**row, "labels": labels}
            items.append(made_of_row(location, self._item, number, row, answer, location))
        return groups(items) if self.distribution else items

    def _filled(self, row: Row, location: str) -> Row:
        """Add the declared variables and things to a row, in their order, and what people said."""
        filled = dict(row)
        for name, value in (self.variables | self.things).items():
            filled[name] = render(value, filled) if isinstance(value, str) else value
        if self.distribution:
            choices = self._choices(filled)
            said = shares(evaluate(self.distribution, filled), choices, location)
            filled |= {"shares": said, "mode": choices[said.index(max(said))]}
        return filled

    def _with_previous(self, records: list[Record]) -> Iterator[Record]:
        """Add to each row the one before it with the same value in the field ``previous``."""
        last: dict[Any, Row] = {}
        for location, row in records:
            before = last.get(row[self.previous])
            last[row[self.previous]] = row
            if before is not None:
                yield location, {**row, "previous": before}

    def _one(self, label: str) -> str:
        """Return the label that this one counts as."""
        label = label.strip()
        return self.same.get(label, label)

    def _item(self, number: int, row: Row, answer: Any, location: str) -> Item:
        questions: list[Question] = []
        if self.kind != "choice":
            choices = tuple(dict.fromkeys(map(str, answer)))
            rest = (render(self.rest, row),) if self.rest else ()
            for prompt in self.prompts:
                questions.append(Question((render(prompt, row),), rest, -1))
        else:
            choices = self._choices(row)
            index = self._index(answer, choices, location)
            for prompt in self.prompts:
                questions.append(self._question(prompt, row, choices, index, location))
            if self.both_orders:
                questions += self._swapped(row, choices, index, location)
        cluster, image = render(self.subject, row).lower(), render(self.picture, row).strip()
        if not (cluster.strip() and image):
            raise VLMIGError(
                f"{location} says nothing that could be imagined; expected a thing or a text; "
                "correct the row"
            )
        return Item(
            id=f"{self.task}/{number}",
            cluster=cluster,
            picture=image,
            choices=choices,
            questions=tuple(questions),
            things=tuple(row[name].lower() for name in self.things),
            distribution=row["shares"] if self.distribution else (),
            groups=tuple((name, render(text, row).strip()) for name, text in self.groups.items()),
            pair=row["pair"] if self.data else None,
        )

    def grouped(self, columns: Sequence[str]) -> Declaration:
        """Return the same task with further groups of items, by columns of its rows.

        Raises:
            VLMIGError: a column that the task does not have.
        """
        added = {name: f"{{{{ {name} }}}}" for name in columns if name not in self.groups}
        for name in added:
            if name not in self.columns:
                known = ", ".join(self.columns)
                message = f"task {self.task} has no column {name!r}; expected one of {known}"
                raise VLMIGError(message)
        return self.model_copy(update={"groups": {**self.groups, **added}})

    def _pairs(self, records: list[Record]) -> list[Item]:
        """Make two items of each row: one for either side."""
        items = []
        for number, (location, row) in enumerate(records):
            for name, side in self.sides.items():
                filled = {**row, "side": made_of_row(location, render, side, row)}
                item = made_of_row(location, self._item, number, filled, 0, location)
                items.append(replace(item, id=f"{item.id}/{name}", side=filled["side"]))
            if items[-1].choices != items[-2].choices:
                raise VLMIGError(f"{location}: the sides have other candidates; expected the same")
        return items

    def _choices(self, row: Row) -> tuple[str, ...]:
        """Return the distinct candidates of a row."""
        if isinstance(self.choices, str):
            named = [str(choice) for choice in evaluate(self.choices, row)]
        else:
            named = [render(str(choice), row) for choice in self.choices]
        return tuple(dict.fromkeys(map(self._one, named)))

    def _question(
        self, prompt: Any, row: Row, choices: tuple[str, ...], index: int, location: str
    ) -> Question:
        text = prompt
        if isinstance(prompt, dict):
            text = prompt["prompt"]
            index = self._index(evaluate(prompt["answer"], row), choices, location)
        one_each = "choice" in fields_of(text)  # otherwise all candidates share a context
        contexts = []
        for choice in choices if one_each else choices[:1]:
            contexts.append(render(text, {**row, "choice": choice}))
        continuations, spellings = [], self.continuation
        for spelling in [spellings] if isinstance(spellings, str) else spellings:
            for choice in choices:
                continuations.append(render(spelling, {**row, "choice": choice}))
        return Question(tuple(contexts), tuple(continuations), index)

    @property
    def both_orders(self) -> bool:
        """Whether the second half of an item's questions are the first half's with its two things
        swapped."""
        return bool(self.things) and self.orders == "both"

    def _swapped(
        self, row: Row, choices: tuple[str, ...], index: int, location: str
    ) -> Iterator[Question]:
        """Ask about an item's things in the other order, where the other candidate is right."""
        if len(choices) != 2:
            raise VLMIGError(
                f"{location}: two things, and {len(choices)} candidates; expected two of these also"
            )
        one, two = self.things
        swapped = {**row, one: row[two], two: row[one]}
        for prompt in self.prompts:
            question = self._question(prompt, swapped, choices, index, location)
            yield replace(question, answer=1 - question.answer)

    def _index(self, answer: Any, choices: tuple[str, ...], location: str) -> int:
        """Return the index of the right candidate."""
        if isinstance(answer, int) and 0 <= answer < len(choices):
            return answer
        label = self._one(str(answer))
        allowed = [choice for choice in choices if not self.known or choice in self.known]
        if label not in allowed:
            raise VLMIGError(
                f"{location}: label {label!r}; expected one of {', '.join(allowed)}; correct the "
                "row"
            )
        return choices.index(label)

    def made(self, split: str = "") -> Task:
        """Make the task. If the split is not the default, its name is added to the task's.

        Raises:
            VLMIGError: the split is not declared.
        """
        chosen = split or self.split
        if chosen not in self.files:
            raise VLMIGError(
                f"task {self.task} has no split {chosen!r}; expected one of {', '.join(self.files)}"
            )
        solved = self.demonstrations if self.demonstrations != chosen else ""
        return Task(
            name=self.task if chosen == self.split else f"{self.task}@{chosen}",
            load=cache(partial(self.read, split=chosen)),
            files=tuple(self.files[chosen]),
            version=self.version,
            kind=self.kind,
            scoring=self.scoring,
            counted=self.counted,
            paired=bool(self.sides),
            both_orders=self.both_orders,
            policy=self.policy,
            mix=self.mix,
            weights=self.weights,
            split=chosen,
            demonstrations=partial(self._demonstrations, split=solved) if solved else lambda _: [],
            demonstration_files=tuple(self.files[solved]) if solved else (),
            max_new_tokens=self.max_new_tokens,
            statement=self.statement,
            open_image=partial(open_image, self.data) if self.data else None,
        )

    def _demonstrations(self, data: Path, split: str) -> list[Item]:
        """Read a split's first items for each list of candidates; none if files are missing."""
        if not all(self._path(data, name).is_file() for name in self.files[split]):
            return []
        counts: dict[tuple[str, ...], int] = {}
        examples = []
        for item in self.read(data, split):
            counts[item.choices] = counts.get(item.choices, 0) + 1
            if counts[item.choices] <= self.shots:
                examples.append(item)
        return examples


def _located(task: str, rows: Sequence[Row]) -> list[Record]:
    """Say of each row where it is, for errors."""
    return [(f"{task}, row {i}", row) for i, row in enumerate(rows, 1)]


def read_declaration(path: Path, protocol: str = "default") -> Declaration:
    """Read a task's file.

    Raises:
        VLMIGError: not YAML, an unknown or missing key, a value of the wrong kind.
    """
    fields = read_yaml(path, "a task's YAML file, as in docs/evaluation.md")
    reference = fields.get("reference")
    if protocol == "reference" and isinstance(reference, dict):
        fields |= reference
    advice = "; docs/evaluation.md shows a whole task"
    return parse(Declaration, fields, f"task {path}", advice)


@cache
def declaration(name: str, protocol: str = "default") -> Declaration:
    """Return a task of the package by name."""
    return read_declaration(FOLDER / f"{name}.yaml", protocol)


def known_tasks() -> list[str]:
    """Name the tasks of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def choose_tasks(
    names: Sequence[str],
    extra: dict[str, Task],
    protocol: str = "default",
    groups: Sequence[str] = (),
) -> list[Task]:
    """Look tasks up by name, with ``@split`` for another split than the default, or by .yaml file.

    Args:
        extra: further tasks by name; they have the groups that they have.
        groups: columns of rows by which accuracy is told apart, see ``Declaration.grouped``.

    Raises:
        VLMIGError: an unknown name or split.
    """
    chosen = []
    for whole in dict.fromkeys(names):
        name, _, split = whole.partition("@")
        if name in extra and split:
            raise VLMIGError(f"task {name} has no split {split!r}; expected {name} alone")
        if name in extra:
            chosen.append(extra[name])
        elif name in known_tasks():
            chosen.append(declaration(name, protocol).grouped(groups).made(split))
        elif name.endswith((".yaml", ".yml")):
            chosen.append(read_declaration(Path(name), protocol).grouped(groups).made(split))
        else:
            known = [*known_tasks(), *extra]
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise VLMIGError(
                f"unknown task {name!r}; expected one of {', '.join(known)}, or a task's .yaml "
                f"file{hint}"
            )
    return chosen
