"""From an entry of a recipe to a source of pairs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from vlmig.data.pairs import Source
from vlmig.data.sources.conversations import Conversations
from vlmig.data.sources.folder import Folder
from vlmig.data.sources.interleaved import Interleaved
from vlmig.data.sources.laion import Laion220k
from vlmig.data.sources.table import Table
from vlmig.data.sources.visual_genome import VisualGenome
from vlmig.data.sources.webdataset import WebDataset
from vlmig.data.sources.wikitext import Wikitext
from vlmig.errors import VLMIGError
from vlmig.processing.chat_templates import TOKENIZER

Build = Callable[..., Source]
KINDS: dict[str, Build] = {
    "visual_genome": VisualGenome,
    "laion220k": Laion220k,
    "wikitext": Wikitext,
    "table": Table,
    "folder": Folder,
    "webdataset": WebDataset,
    "conversations": Conversations,
    "interleaved": Interleaved,
}
FIELDS = {"conversations": b'"conversations"', "interleaved": b'"text_list"'}
"""What a JSON file of a kind has in its first record."""
HEAD = 2**16
"""Bytes in which that is looked for."""
PLACES = ("path", "images")
"""Options that name files."""


def build_source(
    spec: Mapping[str, Any],
    data: Path | None = None,
    tokenizer: Any = None,
    own: Mapping[str, Build] | None = None,
) -> Source:
    """Make the source that an entry describes, such as ``{source: visual_genome, path: vg, min_side: 8}``.

    Without ``source`` the kind is guessed from ``path``. Paths start from ``data`` where they exist there, and otherwise
    from the working folder. ``weight``, ``limit`` and ``curate`` are no options of a source: take them out before.

    Args:
        data: folder of data.
        tokenizer: the language model's, or a function that loads it, for sources that cut text into tokens or use its template.
        own: further kinds by name.

    Raises:
        VLMIGError: an unknown kind or option, a wrong value, or files that are not there.
    """
    kinds, options = {**KINDS, **(own or {})}, dict(spec)
    for name in PLACES:
        if isinstance(options.get(name), str):
            options[name] = _resolved(options[name], data)
    kind = options.pop("source", None) or guess_kind(options.get("path"))
    if kind not in kinds:
        raise VLMIGError(f"source {kind!r}; expected one of {', '.join(kinds)}; correct the entry")
    build = kinds[kind]
    _check(kind, build, options)
    own_tokenizer = inspect.signature(build).parameters.get("tokenizer")
    needed = own_tokenizer is not None and own_tokenizer.default is own_tokenizer.empty
    if needed or (own_tokenizer and options.get("template") == TOKENIZER):
        if tokenizer is None:
            raise VLMIGError(
                f"source {kind} got no tokenizer, which it {'cuts texts' if needed else 'writes conversations'} with; expected a language model's tokenizer; name a model"
            )
        options["tokenizer"] = tokenizer() if inspect.isfunction(tokenizer) else tokenizer
    return build(**options)


def guess_kind(path: object) -> str:
    """Tell from a path what lies there.

    Raises:
        VLMIGError: nothing does, or nothing known.
    """
    if not isinstance(path, str):
        raise VLMIGError(
            f"an entry has the path {path!r} and no source; expected source, path or both; add one"
        )
    place = Path(path)
    for kind, field in FIELDS.items():
        if place.suffix in (".json", ".jsonl") and place.is_file() and field in _head(place):
            return kind
    if place.suffix in (".jsonl", ".csv", ".parquet"):
        return "table"
    if place.suffix == ".tar":
        return "webdataset"
    marks = {
        "visual_genome": "region_descriptions.json*",
        "table": "state.json",
        "wikitext": "wiki.train.*",
        "webdataset": "*.tar",
    }
    for kind, mark in marks.items():
        if place.is_dir() and (
            any(place.glob(mark)) or (kind == "table" and (place / "dataset_dict.json").is_file())
        ):
            return kind
    if place.is_dir():
        return "folder"
    raise VLMIGError(
        f"cannot tell what {path} is; expected a folder, a .jsonl, .csv, .parquet or .tar file, or LLaVA's .json; correct the path, or name its source: {', '.join(KINDS)}"
    )


def _resolved(path: str, data: Path | None) -> str:
    """Return a path below ``data`` if something is there (of a pattern: if its folder is), as it is otherwise."""
    inner = (data or Path()) / path
    pattern = "{" in path or "*" in path
    return str(inner) if inner.exists() or (pattern and inner.parent.is_dir()) else path


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _check(kind: str, build: Build, options: Mapping[str, Any]) -> None:
    """Compare an entry's options with what its source takes."""
    known = {
        name: own
        for name, own in inspect.signature(build).parameters.items()
        if name != "tokenizer"
    }
    for name in options:
        if name not in known:
            raise VLMIGError(
                f"source {kind} has no option {name!r}; expected {', '.join(known)}; correct the entry"
            )
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options:
            raise VLMIGError(
                f"source {kind} has no {name}; expected it beside {', '.join(known)}; add it to the entry"
            )
    hints = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    for name, value in options.items():
        hint = hints.get(name, Any)
        types = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if not any(_fits(value, own) for own in types):
            names = " or ".join(
                getattr(own, "__name__", str(own)) for own in types if own is not Path
            )
            raise VLMIGError(
                f"{name} of source {kind} is {value!r}; expected {names}; correct the entry"
            )


def _fits(value: Any, hint: Any) -> bool:
    if not isinstance(hint, type):  # Any, or something with parts
        return True
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
