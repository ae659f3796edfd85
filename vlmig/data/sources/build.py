"""From an entry of a recipe to a source of pairs."""

from __future__ import annotations

import codecs
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from vlmig.data.images import walk
from vlmig.data.pairs import Source
from vlmig.data.sources.coco import CocoCaptions
from vlmig.data.sources.conversations import Conversations
from vlmig.data.sources.folder import Folder
from vlmig.data.sources.interleaved import Interleaved
from vlmig.data.sources.laion import Laion220k
from vlmig.data.sources.table import Table
from vlmig.data.sources.visual_genome import VisualGenome
from vlmig.data.sources.webdataset import WebDataset
from vlmig.data.sources.wikitext import Wikitext
from vlmig.errors import VLMIGError, one_line
from vlmig.io.delimited import open_text
from vlmig.io.hub_datasets import parquet_types
from vlmig.io.json_stream import DAMAGE
from vlmig.io.rows import ROW_ENDINGS, ending_of
from vlmig.io.shards import files_of, state_of
from vlmig.processing.chat_templates import TOKENIZER
from vlmig.vision.files import is_image

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
    "coco_captions": CocoCaptions,
}
HEAD = 2**16
"""Bytes of a file in which its first record shows its kind."""
FOLDERS = (
    ("region_descriptions.json*", "visual_genome"),
    ("state.json", "table"),
    ("dataset_dict.json", "table"),
    ("wiki.train.*", "wikitext"),
    ("metadata.jsonl", "folder"),
    ("metadata.csv", "folder"),
)
"""Files by which a folder shows its kind."""
TARS = (".tar", ".tar.gz", ".tgz")
TALKS = {"conversations", "messages"}
ANSWERED = {"output", "response", "answer", "completion"}
CAPTIONED = {"caption", "captions"}
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


def state_of_source(spec: Mapping[str, Any], data: Path | None = None) -> str:
    """Hash the files with records of the source that an entry describes; empty without any."""
    path = spec.get("path")
    if not isinstance(path, str):
        return ""
    endings = (*ROW_ENDINGS, *TARS, ".parquet", ".arrow", ".zip", ".gz", ".raw", ".tokens")
    files = [file for file in files_of(_resolved(path, data), endings) if file.is_file()]
    return state_of(files) if files else ""


def guess_kind(path: object) -> str:
    """Guess a source's kind from its path, and from the first record there.

    Raises:
        VLMIGError: there is nothing, or nothing known.
    """
    if not isinstance(path, str):
        raise VLMIGError(
            f"an entry has the path {path!r} and no source; expected source, path or both; add one"
        )
    folder = Path(path)
    if folder.is_dir():
        return _kind_of_folder(folder)
    files = [file for file in files_of(path, ()) if file.is_file()]
    if not files:
        raise VLMIGError(
            f"there is nothing at {path}; expected a file, a folder or a pattern; correct the path "
            "(relative ones start from --data, or from here), or name its source, such as table "
            "for a hub id"
        )
    if kind := _kind_of_file(files[0]):
        return kind
    if files[0].suffix in (".zip", ".7z", ".rar"):
        raise VLMIGError(f"{files[0]} is an archive; expected its files: unpack it, and name them")
    raise VLMIGError(
        f"cannot tell what {files[0]} is; expected a folder, rows (.jsonl, .json, .csv, .tsv, "
        f".txt, .parquet) or .tar files; name its source: {', '.join(KINDS)}"
    )


def _kind_of_folder(folder: Path) -> str:
    for pattern, kind in FOLDERS:
        if any(folder.glob(pattern)):
            return kind
    if files_of(folder, TARS):
        return "webdataset"
    shards = files_of(folder, (".parquet",))
    # img2dataset puts a list of failures beside each of its folders of images.
    if shards and not shards[0].with_suffix("").is_dir():
        return _kind_of_file(shards[0]) or "table"
    for _, names in walk(folder):
        if any(map(is_image, names)):
            return "folder"
    rows = files_of(folder, ROW_ENDINGS)
    archives = files_of(folder, (".zip", ".7z", ".rar"))
    if archives and not rows:
        raise VLMIGError(
            f"{folder} holds only archives such as {archives[0].name}; expected their files: "
            "unpack them"
        )
    return (_kind_of_file(rows[0]) if rows else None) or "folder"


def _kind_of_file(file: Path) -> str | None:
    """Guess by the ending, and for rows by the names in the first record."""
    if file.name.endswith(TARS):
        return "webdataset"
    if file.suffix == ".parquet":
        return _kind_of_columns(parquet_types(file))
    if ending_of(file) in (".json", ".jsonl", ".ndjson"):
        return _kind_of_json(file)
    return "table" if ending_of(file) in ROW_ENDINGS else None


def _kind_of_columns(types: Mapping[str, str]) -> str:
    """Guess by the names and types of columns."""
    names = set(types)
    if names >= {"texts", "images"}:  # OBELICS has lists of texts, the_cauldron lists of turns
        return "conversations" if "user" in types["texts"] else "interleaved"
    if names & TALKS or (names & ANSWERED and not names & CAPTIONED):
        return "conversations"
    return "table"


def _kind_of_json(file: Path) -> str:
    """Guess by the names of fields in a JSON file's head, whether it is whole or not."""
    head = _head(file)
    names = {name.decode(errors="replace") for name in re.findall(rb'"(\w+)"\s*:', head)}
    first = head.lstrip(codecs.BOM_UTF8).lstrip()[:1]
    if "text_list" in names:
        return "interleaved"
    if first == b"{" and re.search(rb'"(images|annotations)"\s*:\s*\[\s*\{', head):
        lists_objects = not names & {*TALKS, *ANSWERED, "texts"}
        if lists_objects:
            return "coco_captions"
    return _kind_of_columns(dict.fromkeys(names, "user" if "user" in names else ""))


def _resolved(path: str, data: Path | None) -> str:
    """Return the path below ``data`` if it (or the folder of a pattern) exists, else unchanged."""
    inner = (data or Path()) / path
    pattern = "{" in path or "*" in path
    return str(inner) if inner.exists() or (pattern and inner.parent.is_dir()) else path


def _head(path: Path) -> bytes:
    try:
        with open_text(path, newline="") as file:
            return str(file.read(HEAD)).encode(errors="replace")
    except DAMAGE as error:
        raise VLMIGError(
            f"{path} is damaged ({one_line(error)}); expected a whole file; fetch it again"
        ) from None


def _check(kind: str, build: Build, options: Mapping[str, Any]) -> None:
    """Compare an entry's options with the parameters of its source."""
    known = {}
    for name, parameter in inspect.signature(build).parameters.items():
        # What follows a star is for programs: no recipe can write it.
        if name != "tokenizer" and parameter.kind is not parameter.KEYWORD_ONLY:
            known[name] = parameter
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
