"""Finding and loading the parts of a checkpoint: adapter, base LM, tokenizer."""

from __future__ import annotations

import json
import logging
import re
import shutil
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig

from vlmig.errors import VLMIGError, one_line
from vlmig.io.hub import settle_hub
from vlmig.io.weights import (
    check_tokenizer,
    check_weights,
    check_whole,
    read_described,
    why_damaged,
)
from vlmig.models.base_weights import remember
from vlmig.models.config import COMPONENTS, VLMIGConfig
from vlmig.models.gguf import unpacked
from vlmig.models.low_rank import base_of, load_low_rank
from vlmig.models.quantization import keep_stored_form

logger = logging.getLogger(__name__)
WEIGHTS = "model.safetensors"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer_config.json"
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
)
"""Files of tokenizers, of all kinds."""
HUB = ("cache_dir", "force_download", "local_files_only", "token")
"""Arguments of a download."""
BASE = "./language_model"
PACKAGE = Path(__file__).parents[1]
POCKET = PACKAGE / "pocket" / "model"
EMBEDDED = {"pocket": POCKET, "smollm2": POCKET.with_name("smollm2")}
"""Checkpoints that come with the package."""


def resolve_checkpoint(
    name: str | Path | None, revision: str | None = None, subfolder: str = "", **hub: Any
) -> Path:
    """Return a checkpoint's folder: ``pocket``, ``smollm2``, a folder, or a hub id, which is
    downloaded.

    Args:
        subfolder: of the folder or repository.
        hub: arguments of a download, of ``HUB``.

    Raises:
        VLMIGError: nothing of that name, or a folder without a checkpoint.
    """
    folder = EMBEDDED.get(str(name)) or Path(str(name))
    if not folder.is_dir():
        settle_hub()
        try:
            folder = Path(snapshot_download(str(name), revision=revision, **hub))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise VLMIGError(
                f"no checkpoint {name}: not {' or '.join(map(repr, EMBEDDED))}, not a folder, not "
                "reachable as a hub id; check the name, or pass a folder"
            ) from error
    folder = folder / (subfolder or "")
    for file in ("config.json", WEIGHTS):
        if not (folder / file).is_file():
            raise VLMIGError(
                f"{folder} has no {file}; expected a vlmig checkpoint: config.json and {WEIGHTS} "
                "with projector and fusion"
            )
    _check_config(folder / "config.json")
    return folder


def _check_config(path: Path) -> None:
    """Insist on the configuration of a checkpoint of ours, and on whole weights inside it."""
    fields = read_described(path)
    kind = fields.get("model_type")
    if kind != "vlmig":
        raise VLMIGError(
            f"{path} has the model_type {kind!r}; expected a vlmig checkpoint's, whose model_type "
            "is 'vlmig'; name another folder"
        )
    for component in COMPONENTS:
        inner = str(fields.get(component)).rpartition(":")[2]
        if inner.startswith("./"):
            check_whole(path.parent / inner)


def load_generation(folder: Path) -> GenerationConfig | None:
    """Load a checkpoint's generation config; None without one.

    Raises:
        VLMIGError: it is damaged.
    """
    path = folder / GENERATION
    if not path.is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(folder)
    except (OSError, TypeError, ValueError, AttributeError) as error:
        raise VLMIGError(
            f"cannot read {path}: {why_damaged(path, error)}; expected a generation config of "
            "transformers; fetch it again"
        ) from None


def absolute(name: str) -> str:
    """Make a folder ``./x`` absolute: a configuration means one inside the checkpoint."""
    return name if name.startswith("package:") else VLMIGConfig.locate(name, Path.cwd())


def place_adapter(model: Any) -> Any:
    """Move projector, fusion layer and blank features to the base LM's device and precision."""
    device, dtype = model.language_model.device, model.language_model.dtype
    model.projector.to(device=device, dtype=dtype)
    model.fusion.to(device=device, dtype=dtype)
    model.blank_features = model.blank_features.to(device)
    model.generic_features = model.generic_features.to(device)
    return model


def tokenizer_place(config: VLMIGConfig, folder: Path) -> tuple[str, str | None]:
    """Return where a checkpoint's tokenizer is, and its revision: in its folder, or (in a
    folder of before) with its base LM."""
    if (folder / TOKENIZER).is_file():
        return str(folder), None
    return config.locate(config.language_model, folder), config.language_model_revision


def load_tokenizer(
    name: str, revision: str | None = None, config: PreTrainedConfig | None = None
) -> Any:
    """Load a tokenizer.

    Args:
        config: the base LM's, whose family decides the kind of tokenizer; read from ``name`` when
            None.

    Raises:
        VLMIGError: there is none.
    """
    settle_hub(name)
    path = unpacked(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, config=config)
    except Exception as error:  # damaged files break transformers in any way
        raise VLMIGError(
            f"no tokenizer at {name}: {why_damaged(Path(name), error)}; save one beside the LM"
        ) from error
    return check_tokenizer(tokenizer, name)


def save_tokenizer(config: VLMIGConfig, source: Path, folders: list[Path]) -> None:
    """Save the checkpoint's tokenizer, or the base LM's, if there is one: the files as they are
    where they name their class, without which transformers would not know it."""
    name, revision = tokenizer_place(config, source)
    path, settings = Path(name), Path(name) / TOKENIZER
    if settings.is_file() and "tokenizer_class" in json.loads(settings.read_text(encoding="utf-8")):
        for pattern in TOKENIZER_FILES:
            for file, folder in product(path.glob(pattern), folders):
                folder.mkdir(exist_ok=True)
                if folder.resolve() != path.resolve():
                    shutil.copyfile(file, folder / file.name)
    elif path.is_dir() or not config.language_model.startswith("./"):
        try:
            tokenizer = load_tokenizer(name, revision, config.text_config)
        except VLMIGError as error:
            logger.info("saved without a tokenizer: %s", error)
            return
        for folder in folders:
            tokenizer.save_pretrained(folder)


def describe_language_model(name: str, revision: str | None = None) -> PreTrainedConfig:
    """Load the configuration of a base LM.

    Raises:
        VLMIGError: it cannot be loaded.
    """
    settle_hub(name)
    path = unpacked(name)
    try:
        return AutoConfig.from_pretrained(path, revision=revision)
    except Exception as error:  # damaged files break transformers in any way
        raise _not_loaded(name, "causal or masked", error) from error


def load_language_model(
    auto_class: Any, name: str, revision: str | None = None, **kwargs: Any
) -> Any:
    """Load a base LM of transformers, frozen: quantized if it was saved so, else in ``dtype``, fp32
    by default.

    Raises:
        VLMIGError: it is unknown, gated, of another kind, cannot be downloaded, or has weights
            that are missing, damaged or not finite.
    """
    settle_hub(name)
    if base := base_of(name):
        model = load_language_model(auto_class, base, **kwargs)
        load_low_rank(model, Path(name))
    else:
        try:
            path = unpacked(name)
            if "dtype" not in kwargs:
                default = "auto" if _is_quantized(path, revision) else torch.float32
                kwargs["dtype"] = kwargs.pop("torch_dtype", default)
            model, loading = auto_class.from_pretrained(
                path, revision=revision, output_loading_info=True, **kwargs
            )
            check_weights(model, name, loading["missing_keys"])
            model = keep_stored_form(model)
        except VLMIGError:
            raise
        except Exception as error:  # damaged files and settings break transformers in any way
            if unknown := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
                raise _unknown_setting(unknown[1]) from None
            kind = "masked" if "Masked" in auto_class.__name__ else "causal"
            raise _not_loaded(name, kind, error) from error
    remember(model, name, revision)
    return model.eval().requires_grad_(False)


def build_language_model(
    auto_class: Any, config: PreTrainedConfig, weights: dict[str, Tensor], **kwargs: Any
) -> Any:
    """Build a base LM of weights that a checkpoint of vlmig holds, frozen.

    Raises:
        VLMIGError: weights are missing or unknown.
    """
    kwargs.setdefault("dtype", kwargs.pop("torch_dtype", torch.float32))
    with torch.device("meta"):
        model_class = type(auto_class.from_config(config))
    model, report = model_class.from_pretrained(
        None, config=config, state_dict=weights, output_loading_info=True, **kwargs
    )
    missing, extra = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing or extra:
        raise VLMIGError(
            f"the weights of {model_class.__name__} in the checkpoint do not fit: missing "
            f"{missing or 'none'}, unknown {extra or 'none'}; load it with the config it was saved "
            "with"
        )
    return model.eval().requires_grad_(False)


def _is_quantized(name: str, revision: str | None) -> bool:
    """Tell whether a base LM was saved quantized."""
    try:
        return (
            getattr(
                AutoConfig.from_pretrained(name, revision=revision), "quantization_config", None
            )
            is not None
        )
    except Exception:  # loading raises the error
        return False


def _unknown_setting(name: str) -> VLMIGError:
    near = get_close_matches(name, VLMIGConfig.__annotations__, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return VLMIGError(
        f"unknown setting {name!r}; expected a field of VLMIGConfig, or an argument of the "
        f"language model such as dtype{hint}"
    )


def _not_loaded(name: str, kind: str, error: Exception) -> VLMIGError:
    if Path(name).is_dir():
        return VLMIGError(
            f"cannot load the language model {name}: {why_damaged(Path(name), error)}; expected a "
            f"folder with a whole {kind} LM; fetch it again"
        )
    return VLMIGError(
        f"cannot load the language model {name}: {one_line(error)}; expected a hub id or folder of "
        f"a {kind} LM. If it is gated, accept its terms and run `hf auth login`; if this machine "
        "is offline, download it elsewhere and pass the folder; "
        f"{'google-bert/bert-base-uncased' if kind == 'masked' else 'openai-community/gpt2'} is "
        "not gated"
    )


def load_adapter(model: Any, weights: dict[str, Tensor], source: Path) -> None:
    """Load adapter weights into a model, strictly.

    Raises:
        VLMIGError: names or shapes differ, or a weight is not finite.
    """
    state = model.adapter_state()
    missing, extra = sorted(state.keys() - weights.keys()), sorted(weights.keys() - state.keys())
    if missing or extra:
        raise VLMIGError(
            f"adapter weights of {source} do not fit: missing {missing or 'none'}, unknown "
            f"{extra or 'none'}; load the checkpoint with the config it was saved with"
        )
    for name, value in weights.items():
        if state[name].shape != value.shape:
            raise VLMIGError(
                f"adapter weight {name} of {source} has shape {tuple(value.shape)}, the config "
                f"asks for {tuple(state[name].shape)}; load it with its own config"
            )
        if not value.isfinite().all():
            raise VLMIGError(
                f"adapter weight {name} of {source} is NaN or infinite; expected finite numbers; "
                "train it again"
            )
        state[name].copy_(value)
