"""What users write: YAML files, ``KEY=VALUE`` options, and their checks with one form of error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vlmig.errors import VLMIGError, one_line

MOST_PARENTS = 20
"""Recipes that one may extend, one by another."""
RECIPE = "a recipe with model and stages, such as configs/pocket.yaml"


def entries_of(
    path: str, source: str | None = None, options: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the data sources of a recipe (``.yaml``), or the one of this path, kind and options.

    Raises:
        VLMIGError: a recipe that cannot be read, or a kind and options beside it.
    """
    if Path(path).suffix in (".yaml", ".yml"):
        if options or source:
            raise VLMIGError(
                f"--source and --option beside the recipe {path}, which names its sources; "
                "change them there"
            )
        return recipe_entries(Path(path))
    return [{**(options or {}), "path": path, **({"source": source} if source else {})}]


def recipe_entries(recipe: Path) -> list[dict[str, Any]]:
    """Read a training recipe's distinct sources, ``stages: [{data: [...]}]``, without their
    weights.

    Raises:
        VLMIGError: no such file, not YAML, or no sources in it.
    """
    entries: list[dict[str, Any]] = []
    stages = read_recipe(recipe).get("stages")
    for stage in stages if isinstance(stages, list) else []:
        data = stage.get("data") if isinstance(stage, Mapping) else None
        for entry in data if isinstance(data, list) else []:
            if not isinstance(entry, Mapping):
                raise VLMIGError(
                    f"{recipe} has the source {entry!r}; expected source, path and options; "
                    "correct it"
                )
            source = {name: value for name, value in entry.items() if name != "weight"}
            if source not in entries:
                entries.append(source)
    if not entries:
        raise VLMIGError(
            f"{recipe} names no data; expected stages, each with a list data of sources; correct it"
        )
    return entries


def read_recipe(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe's values, laid over those of the recipe that it ``extends``.

    Args:
        above: recipes that extend this one.

    Raises:
        VLMIGError: no such file, not YAML, no mapping, or recipes that extend each other, or too
            many.
    """
    if path.absolute() in above:
        raise VLMIGError(
            f"{path} extends itself by way of {above[-1]}; expected another recipe, or none"
        )
    if len(above) > MOST_PARENTS:
        raise VLMIGError(f"{above[0]} extends more than {MOST_PARENTS} recipes, one by another")
    values = read_yaml(path, RECIPE)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise VLMIGError(f"{path} extends {parent!r}; expected a recipe's file")
    return _merged(read_recipe(path.parent / parent, (*above, path.absolute())), values)


def read_yaml(path: Path, expected: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        VLMIGError: no such file, not YAML, or something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise VLMIGError(
            f"cannot read {path} ({one_line(error, whole=True)}); expected {expected}"
        ) from None
    if not isinstance(values, dict):
        raise VLMIGError(f"{path} holds a {type(values).__name__}; expected {expected}")
    return values


def _merged(below: Any, over: Any) -> Any:
    """Lay values over others: mappings field by field, stages one by one; further stages follow."""
    if not (isinstance(below, dict) and isinstance(over, dict)):
        return over
    merged = dict(below)
    for key, value in over.items():
        merged[key] = _merged(below.get(key), value)
    old, new = below.get("stages"), over.get("stages")
    if isinstance(old, list) and isinstance(new, list):
        merged["stages"] = [_merged(a, b) if b is not None else a for a, b in zip_longest(old, new)]
    return merged


def assigned(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` texts, values as in YAML.

    Args:
        option: the command line's option that they were given with, for errors.

    Raises:
        VLMIGError: a text of another form.
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise VLMIGError(f"{option} {text}; expected KEY=VALUE")
        try:
            values[name] = yaml.safe_load(value)
        except (ValueError, RecursionError, yaml.YAMLError):
            raise VLMIGError(
                f"{option} {text[:60]}; expected a value as in YAML, such as 8, true or a name"
            ) from None
    return values


def set_value(values: Any, key: str, value: Any) -> None:
    """Change one value of a recipe.

    Args:
        key: names and numbers with dots between them, such as ``stages.0.steps``.

    Raises:
        VLMIGError: the recipe has nothing there.
    """
    *path, last = key.split(".")
    inner = values
    for depth, name in enumerate([*path, last], 1):
        index: Any = int(name) if isinstance(inner, list) and name.isdigit() else name
        in_list = isinstance(inner, list) and isinstance(index, int) and index < len(inner)
        if not (isinstance(inner, dict) or in_list):
            missing = ".".join(key.split(".")[:depth])
            raise VLMIGError(f"--set {key}={value}; there is no {missing} in the recipe")
        if depth > len(path):
            inner[index] = value
        else:
            inner = inner.setdefault(index, {}) if isinstance(inner, dict) else inner[index]


class Checked(BaseModel):
    """Values that a user wrote. Every field is known, of its kind, and given unless it has a
    default."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
"""Finite; YAML reads 5e-4 as text, which becomes a number."""
Parsed = TypeVar("Parsed", bound=Checked)
EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "text",
    "too_short": "at least {min_length} of them",
}


def parse(kind: type[Parsed], values: Any, where: str, advice: str = "") -> Parsed:
    """Check values.

    Args:
        where: what they were read from, for errors.
        advice: what an error ends with.

    Raises:
        VLMIGError: an unknown or missing field, or a value of the wrong kind.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise VLMIGError(_message(kind, error.errors(), where) + advice) from None


def _message(kind: type[Checked], faults: Sequence[Mapping[str, Any]], where: str) -> str:
    """Put what pydantic refuses in one line: what came, what was expected."""
    # A misspelled field is also a missing one: name the misspelling.
    fault = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
    path, given = list(fault["loc"]), fault["input"]
    name = path.pop() if fault["type"] in ("missing", "extra_forbidden", "invalid_key") else None
    location = f"{where}: {'.'.join(map(str, path))}" if path else where
    known = list(_model_at(kind, path).model_fields)
    if fault["type"] == "missing":
        needed = []
        for other in faults:
            if other["type"] == "missing" and other["input"] is given:
                needed.append(repr(other["loc"][-1]))
        return f"{location} is missing {', '.join(needed)} (given: {_listed(given) or 'nothing'})"
    if name is not None:
        near = difflib.get_close_matches(str(name), known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{location} has no field {name!r}; expected some of {_listed(known)}{hint}"
    if fault["type"] == "model_type":
        return f"{location} is {given!r}; expected a mapping of {_listed(known)}"
    if fault["type"] == "value_error":  # from a validator of the model
        return f"{location} {fault['ctx']['error']}"
    expected = EXPECTED.get(fault["type"], fault["msg"]).format(**fault.get("ctx", {}))
    return f"{location} is {given!r}; expected {expected}"


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))


def _model_at(kind: type[Checked], path: Sequence[str | int]) -> type[Checked]:
    """Return the model of the values at a path, or the one above them."""
    for name in path:
        if name in kind.model_fields:
            annotation = kind.model_fields[str(name)].annotation
            for inner in (annotation, *get_args(annotation)):
                if isinstance(inner, type) and issubclass(inner, Checked):
                    kind = inner
    return kind
