"""Tasks as declared in ``tasks/*.yaml`` (docs/evaluation.md shows how to add one).

Texts are Jinja templates over a row's fields, as in lm-eval; ``choices``, ``answer`` and ``where`` are Jinja expressions. What
the published code does otherwise stands under ``reference``, with the same keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jinja2.meta
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BeforeValidator, model_validator

from vlmig.errors import VLMIGError, one_line
from vlmig.evaluation.tasks.items import Item, Question, Task
from vlmig.io.config_file import Checked, parse, read_yaml
from vlmig.io.records import read_records, read_text
from vlmig.io.rows import Row

FOLDER = Path(__file__).parent
Names = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
"""One name or several."""


def indefinite(noun: str) -> str:
    """Put the indefinite article in front of a noun."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def capital(text: str) -> str:
    """Begin with a capital letter."""
    return text[:1].upper() + text[1:]


def substituted(text: str, pattern: str, by: str) -> str:
    """Replace what fits a regular expression."""
    return re.sub(pattern, by, text)


JINJA = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


JINJA.filters |= {"a": indefinite, "capital": capital, "sub": substituted}


def _said(place: str, made: Callable[..., Any], *arguments: Any) -> Any:
    """Make something of a row; what does not fit the task's templates is said with the row."""
    try:
        return made(*arguments)
    except (jinja2.TemplateError, AttributeError, LookupError, TypeError) as error:
        raise VLMIGError(
            f"{place} does not fit the task: {one_line(error)}; correct the row, or fetch the file again"
        ) from None


_template = cache(JINJA.from_string)
_expression = cache(partial(JINJA.compile_expression, undefined_to_none=False))


def _render(template: str, row: Row) -> str:
    return _template(template).render(row)


def _evaluate(expression: str, row: Row) -> Any:
    return _expression(expression)(row)


@cache
def _names(template: str) -> set[str]:
    """Return the fields that a template names."""
    return jinja2.meta.find_undeclared_variables(JINJA.parse(template))


class Declaration(Checked):
    """A task's file."""

    task: str
    files: dict[str, Names]
    """Files below the data folder, by split."""
    columns: list[str]
    """Fields that every row must have."""
    prompts: list[Any]
    """Wordings; one that names ``choice`` is rendered for every candidate. ``{prompt, answer}`` has an answer of its own."""
    subject: str
    """What the item is about; items that share it are one cluster."""
    picture: str
    """What to imagine."""
    answer: str
    """Expression: the right candidate, its index, or the list of right texts where text is generated."""
    choices: Any = "labels"
    """Expression, or list of templates; ``labels`` are all right answers of the split."""
    continuation: Any = "{{ choice }}"
    """What is scored of a candidate; several for the first token of several spellings."""
    variables: dict[str, Any] = {}
    """Constants for the templates; one that is a text is a template itself."""
    known: list[str] = []
    """Labels that may occur; any when empty."""
    same: dict[str, str] = {}
    """Labels that count as another."""
    where: str = "true"
    """Expression: which rows count."""
    each: list[str] = []
    """Nested JSON: the lists to walk down."""
    previous: str = ""
    """A field: ``previous`` is the row before with the same value there, and rows without one are left out."""
    repeated: int = 0
    """Rows that the public file is known to repeat."""
    labels: str = ""
    """A file of labels, line by line, for the rows' field ``label``."""
    split: str = "test"
    demonstrations: str = ""
    """The split whose items the few-shot control shows."""
    shots: int = 5
    """At most so many of them with an item's candidates."""
    kind: Literal["choice", "generate"] = "choice"
    scoring: Literal["whole", "first_token", "sequence"] = "whole"
    counted: Literal["each", "any"] = "each"
    policy: str = "item"
    weights: str | None = None
    max_new_tokens: int = 0
    statement: str = "{picture} {choice}"
    version: int = 1
    reference: dict[str, Any] = {}
    """Keys that the published code sets otherwise."""

    @model_validator(mode="after")
    def _check(self) -> Declaration:
        if self.demonstrations and self.demonstrations not in self.files:
            raise ValueError(
                f"has demonstrations of the split {self.demonstrations!r}; expected one of "
                f"{', '.join(self.files)}"
            )
        return self

    def read(self, data: Path, split: str) -> list[Item]:
        """Read a split's items.

        Raises:
            VLMIGError: its files are wrong.
        """
        rows: list[Row] = []
        places: list[str] = []
        for name in self.files[split]:
            if name == self.labels:
                continue
            for place, row in read_records(data / name, self.columns, self.each, self.repeated):
                rows.append({**row, "file": name})
                places.append(place)
        if self.labels:
            self._add_labels(rows, data / self.labels)
        return self.items(rows, places)

    def _add_labels(self, rows: list[Row], path: Path) -> None:
        lines = read_text(path).split() if path.is_file() else []
        if len(lines) != len(rows):
            raise VLMIGError(
                f"{path} has {len(lines)} labels for {len(rows)} rows; fetch both files again"
            )
        for row, label in zip(rows, lines, strict=True):
            row["label"] = label

    def items(self, rows: Sequence[Row], places: Sequence[str] = ()) -> list[Item]:
        """Make items of rows.

        Args:
            places: where each row stands, for what is wrong with one.
        """
        wheres = places or [f"{self.task}, row {i}" for i in range(1, len(rows) + 1)]
        kept = [
            (_said(place, self._filled, row), place)
            for row, place in zip(rows, wheres, strict=True)
        ]
        kept = [(row, place) for row, place in kept if _said(place, _evaluate, self.where, row)]
        if self.previous:
            kept = list(self._with_previous(kept))
        if not kept:
            raise VLMIGError(
                f"{self.task}: no rows where {self.where}; fetch the files again from their source"
            )
        named = [_said(place, _evaluate, self.answer, row) for row, place in kept]
        labels = sorted({self._one(label) for label in named if isinstance(label, str)})
        return [
            _said(place, self._item, i, {**row, "labels": labels}, answer, place)
            for i, ((row, place), answer) in enumerate(zip(kept, named, strict=True))
        ]

    def _filled(self, row: Row) -> Row:
        """Add the declared variables to a row, in their order."""
        filled = dict(row)
        for name, value in self.variables.items():
            filled[name] = _render(value, filled) if isinstance(value, str) else value
        return filled

    def _with_previous(self, kept: list[tuple[Row, str]]) -> Iterator[tuple[Row, str]]:
        last: dict[Any, Row] = {}
        for row, place in kept:
            before = last.get(row[self.previous])
            last[row[self.previous]] = row
            if before is not None:
                yield {**row, "previous": before}, place

    def _one(self, label: str) -> str:
        label = label.strip()
        return self.same.get(label, label)

    def _item(self, number: int, row: Row, answer: Any, place: str) -> Item:
        if self.kind == "generate":
            right = tuple(dict.fromkeys(str(text) for text in answer))
            questions = tuple(Question((_render(p, row),), (), -1) for p in self.prompts)
            return self._made(number, row, right, questions)
        named = _evaluate(self.choices, row) if isinstance(self.choices, str) else self.choices
        if not isinstance(self.choices, str):
            named = [_render(str(choice), row) for choice in named]
        choices = tuple(dict.fromkeys(self._one(str(choice)) for choice in named))
        index = self._index(answer, choices, place)
        questions = tuple(self._question(p, row, choices, index, place) for p in self.prompts)
        return self._made(number, row, choices, questions)

    def _made(
        self, number: int, row: Row, choices: tuple[str, ...], questions: tuple[Question, ...]
    ) -> Item:
        cluster, picture = _render(self.subject, row).lower(), _render(self.picture, row).strip()
        return Item(f"{self.task}/{number}", cluster, picture, choices, questions)

    def _question(
        self, prompt: Any, row: Row, choices: tuple[str, ...], index: int, place: str
    ) -> Question:
        text = prompt["prompt"] if isinstance(prompt, dict) else prompt
        if isinstance(prompt, dict):
            index = self._index(_evaluate(prompt["answer"], row), choices, place)
        apart = "choice" in _names(text)
        contexts = [
            _render(text, {**row, "choice": c}) for c in (choices if apart else choices[:1])
        ]
        spellings = [self.continuation] if isinstance(self.continuation, str) else self.continuation
        continuations = tuple(_render(s, {**row, "choice": c}) for s in spellings for c in choices)
        return Question(tuple(contexts), continuations, index)

    def _index(self, answer: Any, choices: tuple[str, ...], place: str) -> int:
        if isinstance(answer, int) and 0 <= answer < len(choices):
            return answer
        label = self._one(str(answer))
        allowed = [c for c in choices if not self.known or c in self.known]
        if label not in allowed:
            raise VLMIGError(
                f"{place}: label {label!r}; expected one of {', '.join(allowed)}; correct the row"
            )
        return choices.index(label)

    def made(self, split: str = "") -> Task:
        """Make the task; of another split than its own, with the split in its name.

        Raises:
            VLMIGError: the split is not declared.
        """
        chosen = split or self.split
        if chosen not in self.files:
            raise VLMIGError(
                f"task {self.task} has no split {chosen!r}; expected one of {', '.join(self.files)}"
            )
        shown = self.demonstrations if self.demonstrations != chosen else ""
        return Task(
            name=self.task if chosen == self.split else f"{self.task}@{chosen}",
            load=cache(partial(self.read, split=chosen)),
            files=tuple(self.files[chosen]),
            version=self.version,
            kind=self.kind,
            scoring=self.scoring,
            counted=self.counted,
            policy=self.policy,
            weights=self.weights,
            split=chosen,
            demonstrations=partial(self._demonstrations, split=shown) if shown else lambda _: [],
            demonstration_files=tuple(self.files[shown]) if shown else (),
            max_new_tokens=self.max_new_tokens,
            statement=self.statement,
        )

    def _demonstrations(self, data: Path, split: str) -> list[Item]:
        """Read the first items of a split for each list of candidates; none where its files are not there."""
        if not all((data / name).is_file() for name in self.files[split]):
            return []
        counts: dict[tuple[str, ...], int] = {}
        kept = []
        for item in self.read(data, split):
            counts[item.choices] = counts.get(item.choices, 0) + 1
            if counts[item.choices] <= self.shots:
                kept.append(item)
        return kept


def read_declaration(path: Path, protocol: str = "default") -> Declaration:
    """Read a task's file.

    Raises:
        VLMIGError: not YAML, an unknown or missing key, a value of the wrong kind.
    """
    fields = read_yaml(path, "a task's YAML file, as in docs/evaluation.md")
    others = fields.get("reference")
    if protocol == "reference" and isinstance(others, dict):
        fields |= others
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
    names: Sequence[str], others: dict[str, Task], protocol: str = "default"
) -> list[Task]:
    """Look tasks up: by name, with ``@split`` for another split than the task's own; or by a file that ends in .yaml.

    Args:
        others: tasks from elsewhere.

    Raises:
        VLMIGError: an unknown name or split.
    """
    chosen = []
    for whole in dict.fromkeys(names):
        name, _, split = whole.partition("@")
        if name in others:
            chosen.append(others[name])
        elif name in known_tasks():
            chosen.append(declaration(name, protocol).made(split))
        elif name.endswith((".yaml", ".yml")):
            chosen.append(read_declaration(Path(name), protocol).made(split))
        else:
            known = [*known_tasks(), *others]
            known = [*get_close_matches(name, known, 1), *known]
            raise VLMIGError(
                f"unknown task {name!r}; expected one of {', '.join(dict.fromkeys(known))}, or a task's .yaml file"
            )
    return chosen
