"""What every loaded model is held to: its files are whole, no weight is missing, none is NaN or
infinite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from vlmig.errors import VLMIGError, one_line
from vlmig.io.shards import is_pointer

DESCRIBED = ("config.json", "model_index.json", "tokenizer.json")
"""How the names of files end that describe a model or a part of one."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        VLMIGError: there is none, or it is cut off, damaged, or a pointer of git-lfs.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise VLMIGError(
            f"cannot read the weights {path}: {why_damaged(path, error)}; expected a whole "
            "safetensors file; fetch it again"
        ) from None


@contextmanager
def written(target: Path) -> Iterator[None]:
    """Say in one line that there was no room for weights: torch and safetensors have errors of
    their own.

    Args:
        target: what the block writes, for the error.

    Raises:
        VLMIGError: it cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        raise VLMIGError(
            f"cannot write {target}: {one_line(error)}; make room, and run the same command again: "
            "it goes on from the last state"
        ) from error


def read_described(path: Path) -> dict[str, Any]:
    """Read a JSON file that describes a model or a part of one.

    Raises:
        VLMIGError: it is damaged, or holds something else than an object with fields.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise VLMIGError(
            f"{path} is damaged ({one_line(error)}); expected a JSON object; fetch it again"
        ) from None
    if not isinstance(fields, dict) or not fields:
        kind = "nothing" if fields in ({}, []) else f"a {type(fields).__name__}"
        raise VLMIGError(
            f"{path} holds {kind}; expected a JSON object with a model's fields; fetch it again"
        )
    return fields


def check_described(folder: Path) -> None:
    """Insist that the files of a folder that describe models are whole: without fields, libraries
    take their own.

    Raises:
        VLMIGError: one of them is damaged or empty.
    """
    for file in sorted(folder.rglob("*.json")):
        if file.name.endswith(DESCRIBED):
            read_described(file)


def check_whole(folder: Path) -> None:
    """Insist that a folder's weights are as long as their heads say: it takes milliseconds, and a
    component that is loaded late is refused at once.

    Raises:
        VLMIGError: a file is cut off, empty, or a pointer of git-lfs.
    """
    for file in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(file, "pt"):  # checks the length, and reads no weight
                pass
        except (OSError, SafetensorError) as error:
            raise VLMIGError(
                f"cannot read the weights {file}: {why_damaged(file, error)}; expected a whole "
                "safetensors file; fetch it again"
            ) from None


def why_damaged(path: Path, error: Exception) -> str:
    """Say why a file of a model, or the first such file in a folder, cannot be read."""
    for file in sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]:
        if is_pointer(file):
            return f"{file.name} is a git-lfs pointer, not the file; run git lfs pull"
    try:
        check_described(path)
    except VLMIGError as damage:
        return str(damage)
    return one_line(error)


def check_components(components: Iterable[Any], name: str) -> None:
    """Check the models and tokenizers among a pipeline's components.

    Raises:
        VLMIGError: as ``check_weights`` and ``check_tokenizer``.
    """
    for component in components:
        if hasattr(component, "state_dict"):
            check_weights(component, name)
        elif hasattr(component, "get_vocab"):
            check_tokenizer(component, name)


def check_tokenizer(tokenizer: Any, name: str) -> Any:
    """Return a tokenizer that was loaded: without files, transformers builds an empty one.

    Args:
        name: its folder or hub id, for errors.

    Raises:
        VLMIGError: it knows no token but the special ones.
    """
    if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
        raise VLMIGError(
            f"no tokenizer at {name}: it would know no word; save the model's there with "
            "tokenizer.save_pretrained, or fetch its files again"
        )
    return tokenizer


def check_weights(model: Any, name: str, missing: Iterable[str] = ()) -> Any:
    """Return a model whose weights were all loaded, and are finite.

    Args:
        name: its folder or hub id, for errors.
        missing: weights that were not in its file, so that they are random.

    Raises:
        VLMIGError: there are some, or a weight is NaN or infinite.
    """
    state = model.state_dict()
    absent = sorted(missing)
    if not hasattr(model, "hf_device_map"):  # diffusers leaves what it did not find without memory
        absent += [weight for weight, value in state.items() if value.is_meta]
    if absent:
        raise VLMIGError(
            f"{name} lacks {len(absent)} weights, the first {absent[0]}: they would be random; "
            "expected a complete model of this architecture; download it again"
        )
    for weight, value in state.items():
        if value.is_floating_point() and value.numel() and not value.is_meta:
            low, high = value.detach().float().aminmax() if value.itemsize == 1 else value.aminmax()
            if not (low.isfinite() and high.isfinite()):
                raise VLMIGError(
                    f"weight {weight} of {name} is NaN or infinite; expected finite numbers; "
                    "download or train it again"
                )
    return model
