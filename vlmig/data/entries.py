"""What a user names as training data: one source, or those of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from vlmig.errors import VLMIGError


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
        reason = " ".join(str(error).split())
        raise VLMIGError(
            f"cannot read the recipe {path} ({reason}); expected YAML such as configs/pocket.yaml"
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
