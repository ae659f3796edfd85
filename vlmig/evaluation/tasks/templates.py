"""The Jinja templates and expressions of task files, over the fields of a row."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jinja2.meta
from jinja2.sandbox import SandboxedEnvironment

from vlmig.errors import VLMIGError, one_line
from vlmig.io.rows import Row


def with_article(noun: str) -> str:
    """Put the indefinite article in front of a noun."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def capitalized(text: str) -> str:
    """Begin with a capital letter; the other letters stay as they are."""
    return text[:1].upper() + text[1:]


def substituted(text: str, pattern: str, by: str) -> str:
    """Replace whatever matches a regular expression."""
    return re.sub(pattern, by, text)


JINJA = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
JINJA.filters |= {"a": with_article, "capital": capitalized, "sub": substituted}
_template = cache(JINJA.from_string)
_expression = cache(partial(JINJA.compile_expression, undefined_to_none=False))


def render(template: str, row: Row) -> str:
    """Fill a template."""
    return _template(template).render(row)


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
    except (jinja2.TemplateError, AttributeError, LookupError, TypeError) as error:
        raise VLMIGError(
            f"{place} does not fit the task: {one_line(error)}; correct the row, or fetch the file "
            "again"
        ) from None
