"""Base LMs in GGUF files, the format of llama.cpp: unpacked once into a folder of transformers.

The folder is in the user's cache, with weights in float32, in which every kind of block is exact;
from there on it is a base LM like any other. Reading a file takes several times as long as loading
the folder.
"""

from __future__ import annotations

import logging
import shutil
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from filelock import FileLock
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from vlmig.errors import VLMIGError, one_line
from vlmig.io.hashing import source_of
from vlmig.io.places import cache_folder
from vlmig.io.weights import check_weights

logger = logging.getLogger(__name__)
ENDING = ".gguf"


def unpacked(name: str) -> str:
    """Return the folder of a base LM that a GGUF file holds; any other name as it is.

    Args:
        name: the file, or a folder with no other base LM than that file.

    Raises:
        VLMIGError: no such file, several in the folder, a file that cannot be read, or the package
            gguf is missing.
    """
    file = _file_of(name)
    if file is None:
        return name
    folder = cache_folder() / "gguf" / f"{file.stem}-{source_of(str(file))}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # several processes may begin at a time
        if not folder.is_dir():
            _unpack(file, folder)
    return str(folder)


def _file_of(name: str) -> Path | None:
    path = Path(name)
    if path.suffix == ENDING:
        if not path.is_file():
            raise VLMIGError(f"no file {name}; expected a GGUF file; check the path")
        return path
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    files = sorted(path.glob(f"*{ENDING}"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise VLMIGError(f"{name} holds {names}; expected one of them; name the file")
    return files[0] if files else None


def _unpack(file: Path, folder: Path) -> None:
    """Write a GGUF file's LM and tokenizer as a folder of transformers, whole or not at all."""
    try:
        reader = import_module("gguf")
    except ModuleNotFoundError:
        raise VLMIGError(f"reading {file} needs gguf; install it with pip install gguf") from None
    logger.info("unpacking %s once, into %s", file, folder)
    at = {"gguf_file": file.name}
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)  # a kill left it
    # Transformers builds this table anew for every layer; that would be half of the time.
    table = patch.object(reader, "get_tensor_name_map", cache(reader.get_tensor_name_map))
    try:
        config = AutoConfig.from_pretrained(file.parent, **at)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, config=config, **at)
        with table:
            model, loading = AutoModelForCausalLM.from_pretrained(
                file.parent,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                **at,
                **_dequantized(),
            )
    except Exception as error:  # a damaged file fails in its own way
        raise VLMIGError(
            f"cannot read {file}: {one_line(error)}; expected a GGUF file of a causal LM whose "
            "architecture transformers knows; fetch it again, or name the LM's original"
        ) from error
    check_weights(model, str(file), loading["missing_keys"])
    _write(model, partial)
    tokenizer.save_pretrained(partial)
    partial.replace(folder)


def _dequantized() -> dict[str, Any]:
    """Ask transformers to unpack every block, where it can do otherwise (from 5.24 on)."""
    described = getattr(transformers, "GgufConfig", None)
    return {} if described is None else {"quantization_config": described(dequantize=True)}


def _write(model: Any, folder: Path) -> None:
    """Write weights and configurations; transformers itself would not save what was a GGUF file."""
    folder.mkdir(parents=True)
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    weights = {}
    for name, value in model.state_dict().items():
        if name not in tied:
            weights[name] = value.contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    for field in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, field):
            delattr(config, field)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
