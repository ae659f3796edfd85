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
"""Fields by which a JSON file's first record shows its kind."""
HEAD = 2**16
"""Bytes of a file in which to look for them."""
FOLDERS = (
    ("region_descriptions.json*", "visual_genome"),
    ("state.json", "table"),
    ("dataset_dict.json", "table"),
    ("wiki.train.*", "wikitext"),
    ("*.tar", "webdataset"),
)
"""Files by which a folder shows its kind."""
PATHS = ("path", "images")
"""Options that name files."""


def build_source(
    spec: Mapping[str, Any],
    data: Path | None = None,
    tokenizer: Any = None,
    own: Mapping[str, Build] | None = None,
) -> Source:
    """Make the source that an entry describes, such as ``{source: visual_genome, path: vg,
    min_side: 8}``.

    Without ``source`` the kind is guessed from ``path``. Paths start from ``data`` if they exist
    there, else from the working folder. ``weight``, ``limit`` and ``curate`` are not options of a
    source: remove them first.

    Args:
        data: folder of data.
        tokenizer: the language model's, or a function that loads it, for sources that cut text by
            tokens or use the chat template.
        own: further kinds by name.

    Raises:
        VLMIGError: an unknown kind or option, a wrong value, or missing files.
    """
    kinds, options = {**KINDS, **(own or {})}, dict(spec)
    for name in PATHS:
        if isinstance(options.get(name), str):
            options[name] = _resolved(options[name], data)
    kind = options.pop("source", None) or guess_kind(options.get("path"))
    if kind not in kinds:
        raise VLMIGError(f"source {kind!r}; expected one of {', '.join(kinds)}; correct the entry")
    build = kinds[kind]
    _check(kind, build, options)
    parameter = inspect.signature(build).parameters.get("tokenizer")
    needed = parameter is not None and parameter.default is parameter.empty
    if needed or (parameter and options.get("template") == TOKENIZER):
        if tokenizer is None:
            use = "cuts texts" if needed else "writes conversations"
            raise VLMIGError(
                f"source {kind} got no tokenizer, which it {use} with; expected a language model's "
                "tokenizer; name a model"
            )
        options["tokenizer"] = tokenizer() if inspect.isfunction(tokenizer) else tokenizer
    return build(**options)


def guess_kind(path: object) -> str:
    """Guess a source's kind from its path.

    Raises:
        VLMIGError: there is nothing, or nothing known.
    """
    if not isinstance(path, str):
        raise VLMIGError(
            f"an entry has the path {path!r} and no source; expected source, path or both; add one"
        )
    file = Path(path)
    for kind, field in FIELDS.items():
        if file.suffix in (".json", ".jsonl") and file.is_file() and field in _head(file):
            return kind
    if file.suffix in (".jsonl", ".csv", ".parquet"):
        return "table"
    if file.suffix == ".tar":
        return "webdataset"
    if file.is_dir():
        for pattern, kind in FOLDERS:
            if any(file.glob(pattern)):
                return kind
        return "folder"
    raise VLMIGError(
        f"cannot tell what {path} is; expected a folder, a .jsonl, .csv, .parquet or .tar file, or "
        f"LLaVA's .json; correct the path, or name its source: {', '.join(KINDS)}"
    )


def _resolved(path: str, data: Path | None) -> str:
    """Return the path below ``data`` if it (or the folder of a pattern) exists, else unchanged."""
    inner = (data or Path()) / path
    pattern = "{" in path or "*" in path
    return str(inner) if inner.exists() or (pattern and inner.parent.is_dir()) else path


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _check(kind: str, build: Build, options: Mapping[str, Any]) -> None:
    """Compare an entry's options with the parameters of its source."""
    known = dict(inspect.signature(build).parameters)
    known.pop("tokenizer", None)
    for name in options:
        if name not in known:
            raise VLMIGError(
                f"source {kind} has no option {name!r}; expected {', '.join(known)}; correct the "
                "entry"
            )
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options:
            raise VLMIGError(
                f"source {kind} is missing {name!r} (it takes {', '.join(known)}); add it to the "
                "entry"
            )
    hints = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    for name, value in options.items():
        hint = hints.get(name, Any)
        types = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if not any(_fits(value, one) for one in types):
            names = [getattr(one, "__name__", str(one)) for one in types if one is not Path]
            expected = " or ".join(names)
            raise VLMIGError(
                f"{name} of source {kind} is {value!r}; expected {expected}; correct the entry"
            )


def _fits(value: Any, hint: Any) -> bool:
    if not isinstance(hint, type):  # Any, or a generic
        return True
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
