"""The keys of a task's file, each with what it means."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from vlmig.io.config_file import Checked

Names = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
"""One name or several."""


class Keys(Checked):
    """What a task's file may say; ``vlmig.evaluation.tasks.yaml_task`` makes a task of it."""

    task: str
    files: dict[str, Names] = {}
    """Files below the data folder, by split."""
    rows: list[dict[str, Any]] = []
    """The rows themselves, in place of files: of a small task, such as an audit."""
    columns: list[str]
    """Fields that every row must have."""
    prompts: list[Any]
    """Wordings; one that names ``choice`` is rendered for every candidate. ``{prompt, answer}`` has
    its answer beside it."""
    subject: str
    """What the item is about; items that share it are one cluster."""
    picture: str
    """What to imagine."""
    answer: str = ""
    """Expression: the right candidate, its index, or the list of right texts to generate, empty
    for plain text; left out where there are ``sides``."""
    choices: Any = "labels"
    """Expression, or list of templates; ``labels`` are all right answers of the split."""
    continuation: Any = "{{ choice }}"
    """The scored text of a candidate; several for the first token of several spellings."""
    variables: dict[str, Any] = {}
    """Constants for the templates; a text is a template itself."""
    things: dict[str, str] = {}
    """Two things that are contrasted, by the names that texts call them: ``{one: "{{ obj1 | a }}",
    two: "{{ obj2 | a }}"}``. Each prompt is asked in both orders, with the other of two candidates
    where they are swapped; intervals are over things, which pairs share."""
    orders: Literal["both", "one"] = "both"
    """Orders in which a prompt about two things is asked."""
    sides: dict[str, str] = {}
    """The two sides of minimal pairs, by name: ``{one: "a man", two: "a woman"}``. Each row is
    asked once about either, ``side`` in its texts, with images of its own; nothing is right, and
    what is measured is how far apart the answers are (docs/evaluation.md)."""
    known: list[str] = []
    """Labels that may occur; any when empty."""
    same: dict[str, str] = {}
    """Labels that count as another."""
    where: str = "true"
    """Expression: which rows count."""
    each: list[str] = []
    """Nested JSON: the lists to walk down."""
    previous: str = ""
    """A field: ``previous`` is the row before with the same value in it; others are left out."""
    repeated: int = 0
    """Rows that the public file is known to repeat."""
    also: dict[str, str] = {}
    """Other names that columns have in other publications of the files."""
    elsewhere: dict[str, str] = {}
    """Where a file lies in other publications, below the data folder too."""
    data: dict[str, Any] = {}
    """A source of training pairs, as in a recipe, whose pairs are the rows: fields ``caption`` and
    ``group``. An item has its pair's image. Its ``files`` only say what must be there."""
    rest: str = ""
    """Of plain text, what is scored after the prompt; without it the prompt itself is."""
    labels: str = ""
    """A file of labels, line by line, for the rows' field ``label``."""
    people: str = ""
    """A file of what people said: its rows with the same ``by`` are the field ``people``."""
    by: str = ""
    """The field in which rows of ``people`` name the row that they are about."""
    distribution: str = ""
    """Expression: how often each candidate was said, a mapping, or a list of them, in which every
    person counts alike. Then ``mode`` is the candidate that was said most often."""
    groups: dict[str, str] = {}
    """Groups of items whose accuracies are told apart, a template each: ``{kind: "{{ Kind }}"}``;
    an item for which one is empty belongs to none."""
    split: str = "test"
    demonstrations: str = ""
    """The split whose items the few-shot control shows."""
    shots: int = 5
    """At most so many of them with an item's candidates."""
    kind: Literal["choice", "generate", "text"] = "choice"
    scoring: Literal["whole", "first_token", "sequence"] = "whole"
    counted: Literal["each", "any"] = "each"
    policy: Literal["item", "subject", "question", "sentences", "option", "each"] = "item"
    mix: Literal["prob", "logit", "geometric", "evidence"] | None = None
    weights: Literal["uniform", "clip", "doubled", "entropy", "learned"] | None = None
    max_new_tokens: int = 0
    statement: str = "{picture} {choice}"
    version: int = 1
    reference: dict[str, Any] = {}
    """Keys that the published code sets differently."""

    @model_validator(mode="before")
    @classmethod
    def _split_of_rows(cls, values: Any) -> Any:
        """Let rows of the file itself be the split test, which has no files."""
        rows = isinstance(values, dict) and values.get("rows") and "files" not in values
        return {**values, "files": {"test": []}} if rows else values

    @model_validator(mode="after")
    def _check(self) -> Keys:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", self.task):
            raise ValueError(
                f"is named {self.task[:60]!r}; expected at most 100 letters, digits, _, - and ., "
                "since result files are named by it"
            )
        for name in ("shots", "repeated", "max_new_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"has {name} {getattr(self, name)}; expected 0 or more")
        if not self.prompts or not all(self.prompts):
            raise ValueError("has an empty prompt, or none; expected a text for each wording")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("names a column twice; expected each once")
        if self.demonstrations and self.demonstrations not in self.files:
            raise ValueError(
                f"has demonstrations of the split {self.demonstrations!r}; expected one of "
                f"{', '.join(self.files)}"
            )
        self._check_kinds()
        if bool(self.rows) == any(self.files.values()):
            raise ValueError("has files and rows, or neither; expected one of them")
        for row in self.rows:
            if missing := [name for name in self.columns if name not in row]:
                raise ValueError(f"has a row without {', '.join(missing)}; expected all columns")
        return self

    def _check_kinds(self) -> None:
        if self.things and len(self.things) != 2:
            raise ValueError(
                f"has {len(self.things)} things; expected two, by the names that prompts call them"
            )
        if bool(self.answer) == bool(self.sides):
            raise ValueError("has an answer and sides, or neither; expected one of them")
        if self.sides and (len(self.sides) != 2 or self.choices == "labels" or self.things):
            raise ValueError("has sides; expected two, with choices, and no things")
        if self.sides and (self.kind, self.scoring) != ("choice", "whole"):
            raise ValueError("has sides; expected kind choice, and scoring whole")
        if bool(self.people) != bool(self.by):
            raise ValueError("has people without by, or by without people; expected both")
        if self.by and self.by not in self.columns:
            raise ValueError(f"has by {self.by}; expected one of its columns")
        if (self.data or self.rest) and self.kind != "text":
            raise ValueError(f"has {'data' if self.data else 'rest'}; expected kind text")
        if self.distribution and (self.kind, self.scoring) != ("choice", "whole"):
            raise ValueError("has a distribution; expected kind choice, and scoring whole")
        if self.distribution and self.choices == "labels":
            raise ValueError("has a distribution, but no choices; expected the candidates")
