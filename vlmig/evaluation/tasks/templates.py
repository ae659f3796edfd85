"""The Jinja templates and expressions of task files, over the fields of a row."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jinja2.meta
from jinja2.sandbox import SandboxedEnvironment, SecurityError

from vlmig.errors import VLMIGError, one_line
from vlmig.io.rows import Row

LONGEST = 1_000_000
"""Characters of a text that a template makes."""
FAULTS: tuple[type[Exception], ...] = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a template can fail with."""


def with_article(noun: str) -> str:
    """Put the indefinite article in front of a noun."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def capitalized(text: str) -> str:
    """Begin with a capital letter; the other letters stay as they are."""
    return text[:1].upper() + text[1:]


def substituted(text: str, pattern: str, by: str) -> str:
    """Replace whatever matches a regular expression."""
    return re.sub(pattern, by, text)


class Sandbox(SandboxedEnvironment):
    """Jinja for files that anyone may have written: nothing they compute grows without end."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        """Compute ``left operator right``.

        Raises:
            SecurityError: a power, a long repetition, or a format with a wide field.
        """
        repeated = max((len(side) for side in (left, right) if hasattr(side, "__len__")), default=0)
        times = max((side for side in (left, right) if isinstance(side, int)), default=1)
        wide = isinstance(left, str) and re.search(r"\d{4,}|\*", left)
        if operator == "**" or (operator == "*" and repeated * times > LONGEST):
            raise SecurityError(f"{operator} may make more than {LONGEST} characters")
        if operator == "%" and wide:
            raise SecurityError(f"a format with a field of more than 999 characters: {left[:40]!r}")
        return super().call_binop(context, operator, left, right)


def _centered(*_: Any) -> str:
    raise SecurityError("the filter center is not known here")


JINJA = Sandbox(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
JINJA.filters |= {"a": with_article, "capital": capitalized, "sub": substituted}
JINJA.filters["center"] = _centered  # of any width
JINJA.globals.pop("range")  # loops go over a row's fields
_template = cache(JINJA.from_string)
_expression = cache(partial(JINJA.compile_expression, undefined_to_none=False))


def render(template: str, row: Row) -> str:
    """Fill a template.

    Raises:
        SecurityError: a text that has no end in sight.
    """
    pieces, length = [], 0
    for piece in _template(template).generate(row):
        pieces.append(piece)
        length += len(piece)
        if length > LONGEST:
            raise SecurityError(f"more than {LONGEST} characters of text")
    return "".join(pieces)


def evaluate(expression: str, row: Row) -> Any:
    """Compute an expression."""
    return _expression(expression)(row)


@cache
def fields_of(template: str) -> set[str]:
    """Return the fields that a template names."""
    return jinja2.meta.find_undeclared_variables(JINJA.parse(template))


def made_of_row(place: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that fills templates.

    Args:
        place: where the row comes from, for the error.

    Raises:
        VLMIGError: the row does not fit the task's templates.
    """
    try:
        return make(*arguments)
    except FAULTS as error:
        raise VLMIGError(
            f"{place} does not fit the task: {one_line(error)}; correct the row, or fetch the file "
            "again"
        ) from None
