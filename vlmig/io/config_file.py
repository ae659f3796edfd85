"""What a user names as training data: one source, or those of a recipe."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from vlmig.errors import VLMIGError, one_line


def entries_of(path: str, source: str | None = None, options: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the entries of a recipe (``.yaml``), or the one that path, kind and options make.

    Raises:
        VLMIGError: a recipe that cannot be read, or a kind and options beside it.
    """
    if Path(path).suffix in (".yaml", ".yml"):
        if options or source:
            raise VLMIGError(f"--source and --option beside the recipe {path}, which has its own; change them there")
        return recipe_entries(Path(path))
    return [{**(options or {}), "path": path, **({"source": source} if source else {})}]


def recipe_entries(recipe: Path) -> list[dict[str, Any]]:
    """Read a training recipe's distinct sources, ``stages: [{data: [...]}]``, without their weights.

    Raises:
        VLMIGError: no such file, no YAML, or no sources in it.
    """
    found = read_yaml(recipe)
    stages = found.get("stages")
    entries: list[dict[str, Any]] = []
    for stage in stages if isinstance(stages, list) else []:
        data = stage.get("data") if isinstance(stage, Mapping) else None
        for entry in data if isinstance(data, list) else []:
            if not isinstance(entry, Mapping):
                raise VLMIGError(f"{recipe} has the source {entry!r}; expected source, path and options; correct it")
            own = {name: value for name, value in entry.items() if name != "weight"}
            entries += [own] if own not in entries else []
    if not entries:
        raise VLMIGError(f"{recipe} names no data; expected stages, each with a list data of sources; correct it")
    return entries


def read_yaml(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe's values, laid over those of the recipe that it ``extends``.

    Args:
        above: recipes that extend this one.

    Raises:
        VLMIGError: no such file, no YAML, no mapping, or recipes that extend each other.
    """
    if path.resolve() in above:
        raise VLMIGError(f"{path} extends itself by way of {above[-1]}; expected another recipe, or none")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VLMIGError(
            f"cannot read the recipe {path} ({one_line(error, whole=True)}); expected YAML such as configs/pocket.yaml"
        ) from None
    if not isinstance(values, dict):
        raise VLMIGError(f"{path} holds a {type(values).__name__}; expected a mapping with model and stages")
    if (parent := values.pop("extends", None)) is not None:
        return _merged(read_yaml(path.parent / str(parent), (*above, path.resolve())), values)
    return values


def _merged(below: Any, over: Any) -> Any:
    """Lay values over others: mappings field by field, stages one by one; further stages follow."""
    if not (isinstance(below, dict) and isinstance(over, dict)):
        return over
    merged = {**below, **{key: _merged(below.get(key), value) for key, value in over.items()}}
    old, new = below.get("stages"), over.get("stages")
    if isinstance(old, list) and isinstance(new, list):
        merged["stages"] = [_merged(a, b) if b is not None else a for a, b in zip_longest(old, new)]
    return merged


def assigned(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` texts, values as in YAML.

    Args:
        option: the option of the command line that they were given with.

    Raises:
        VLMIGError: one is none.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise VLMIGError(f"{option} {text}; expected KEY=VALUE")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise VLMIGError(f"{option} {text}; expected a value as in YAML, such as 8, true or a name") from None
    return found


Parsed = TypeVar("Parsed")


def _change(values: Any, keys: list[str], value: Any, change: str) -> None:
    """Set one value deep inside."""
    for depth, key in enumerate(keys):
        place: Any = int(key) if isinstance(values, list) and key.isdigit() else key
        if not (isinstance(values, dict) or (isinstance(place, int) and place < len(values))):
            raise VLMIGError(f"--set {change}; there is no {'.'.join(keys[: depth + 1])} in the recipe")
        if depth == len(keys) - 1:
            values[place] = value
        else:
            values = values.setdefault(place, {}) if isinstance(values, dict) else values[place]


def parse(kind: type[Parsed], values: Any, where: str) -> Parsed:
    """Make a dataclass of a mapping.

    Raises:
        VLMIGError: unknown or missing fields, values of the wrong kind.
    """
    if not isinstance(values, Mapping):
        raise VLMIGError(f"{where} is {values!r}; expected a mapping of {', '.join(_names(kind))}")
    for name in values:
        if name not in _names(kind):
            near = difflib.get_close_matches(str(name), _names(kind), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise VLMIGError(f"{where} has {name!r}; expected some of {', '.join(_names(kind))}{hint}")
    needed = [f.name for f in dataclasses.fields(kind) if _required(f) and f.name not in values]  # type: ignore[arg-type]
    if needed:
        raise VLMIGError(
            f"{where} has no {needed[0]}; expected {', '.join(needed)} beside {', '.join(values) or 'nothing'}"
        )
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{where}, {name}") for name, value in values.items()})


def _names(kind: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


def _required(declared: dataclasses.Field) -> bool:
    return declared.default is dataclasses.MISSING and declared.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, where: str) -> Any:
    """Check one value; YAML reads 5e-4 as a text, which becomes a number here."""
    if get_origin(hint) is types.UnionType:
        if value is None:
            return None
        hint = next(own for own in get_args(hint) if own is not type(None))
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is list:
        if not isinstance(value, list):
            raise VLMIGError(f"{where} is {value!r}; expected a list")
        return [_value(get_args(hint)[0], one, f"{where}.{i}") for i, one in enumerate(value)]
    wanted = get_origin(hint) or hint
    if wanted is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        words = {int: "a whole number", float: "a number", str: "a text", dict: "a mapping", bool: "true or false"}
        raise VLMIGError(f"{where} is {value!r}; expected {words[wanted]}")
    return value
