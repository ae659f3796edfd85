"""The Jinja templates and expressions of task files, over the fields of a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial, wraps
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

    def call(self, context: Any, function: Any, *arguments: Any, **options: Any) -> Any:
        """Call a method of a value in a template, such as ``{{ name.replace("_", " ") }}``.

        Raises:
            SecurityError: what it returns could be far too long, or is.
        """
        if not isinstance(function, jinja2.Undefined):  # of which calling it tells the name
            _check_growth(getattr(function, "__self__", None), arguments, options)
        return _checked(super().call(context, function, *arguments, **options))

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


def _check_growth(value: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Refuse arguments that make a value grow: a width, or a long text for every letter.

    Raises:
        SecurityError: the result could be more than ``LONGEST`` times a hundred.
    """
    for other in (*arguments, *options.values()):
        if isinstance(other, int) and not isinstance(other, bool) and abs(other) > 999:
            raise SecurityError(f"{other} as an argument; at most 999 is known here")
        sizes = [len(side) for side in (value, other) if isinstance(side, str | list | tuple)]
        if len(sizes) == 2 and sizes[0] * sizes[1] > 100 * LONGEST:
            raise SecurityError(f"a call may make more than {100 * LONGEST} characters")


def _checked(result: Any) -> Any:
    if isinstance(result, str | list | tuple) and len(result) > LONGEST:
        raise SecurityError(f"more than {LONGEST} characters of text")
    return result


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Hold a filter to the limits of a call."""

    @wraps(function)  # with the marks by which Jinja passes its environment first
    def run(*arguments: Any, **options: Any) -> Any:
        passed = hasattr(function, "jinja_pass_arg")
        value, rest = arguments[passed], arguments[1 + passed :]
        _check_growth(value, rest, options)
        return _checked(function(*arguments, **options))

    return run


JINJA = Sandbox(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
JINJA.filters |= {"a": with_article, "capital": capitalized, "sub": substituted}
for name, function in list(JINJA.filters.items()):
    JINJA.filters[name] = _bounded(function)
for name in ("range", "lipsum"):  # loops go over a row's fields
    JINJA.globals.pop(name)
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
    """Compute an expression.

    Raises:
        UndefinedError: it names a field that the row does not have.
    """
    value = _expression(expression)(row)
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises
    return value


@cache
def fields_of(template: str) -> set[str]:
    """Return the fields that a template names."""
    return jinja2.meta.find_undeclared_variables(JINJA.parse(template))


def made_of_row(location: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that fills templates.

    Args:
        location: where the row comes from, for the error.

    Raises:
        VLMIGError: the row does not fit the task's templates.
    """
    try:
        return make(*arguments)
    except FAULTS as error:
        raise VLMIGError(
            f"{location} does not fit the task: {one_line(error)}; correct the row, or fetch the "
            "file again"
        ) from None
