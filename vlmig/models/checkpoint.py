"""Saving and loading. A checkpoint is a folder with ``config.json`` and the adapter's weights."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import shutil
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from vlmig.errors import VLMIGError, one_line
from vlmig.io.atomic import write_text
from vlmig.io.weights import check_weights, read_weights, why_damaged
from vlmig.models.config import COMPONENTS, VLMIGConfig
from vlmig.models.low_rank import base_of, has_low_rank, load_low_rank, save_low_rank
from vlmig.models.model_card import GENERATED, model_card
from vlmig.models.quantization import keep_stored_form

logger = logging.getLogger(__name__)
WEIGHTS = "model.safetensors"
BASE = "./language_model"
POCKET = Path(__file__).parents[1] / "pocket" / "model"


class AdapterCheckpoint:
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` of a model whose checkpoint is
    an adapter.

    A base class before ``PreTrainedModel``, whose methods would save the whole base LM again, or
    fill missing weights at random.
    """

    config: VLMIGConfig
    language_model: PreTrainedModel
    auto_class: Any
    """The class of transformers that loads the base LM."""

    def adapter_state(self) -> dict[str, Tensor]:
        """Return a checkpoint's weights: projector, fusion and the features of the blank image."""
        state: dict[str, Tensor] = nn.Module.state_dict(self)  # type: ignore[call-overload]
        return {
            name: value for name, value in state.items() if not name.startswith("language_model.")
        }

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *args: Any,
        config: VLMIGConfig | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load base LM and adapter.

        Args:
            name: ``pocket``, a folder or a hub id.
            config: used instead of the checkpoint's.
            kwargs: fields of the configuration to change; everything else (dtype, device_map,
                quantization_config, attn_implementation, ...) goes to the base LM.

        Raises:
            VLMIGError: no such checkpoint or base LM; weights are missing, unknown or of another
                shape.
        """
        # Added by the auto classes.
        for internal in ("_from_auto", "_commit_hash", "adapter_kwargs"):
            kwargs.pop(internal, None)
        folder = resolve_checkpoint(name, revision)
        if config is None:
            fields = {
                name: kwargs.pop(name) for name in VLMIGConfig.__annotations__ if name in kwargs
            }
            config = VLMIGConfig.from_pretrained(folder, **fields)
        source = config.locate(config.language_model, folder)
        base = load_language_model(cls.auto_class, source, config.language_model_revision, **kwargs)
        model: Any = cls(config, base)  # type: ignore[call-arg]
        model.config.name_or_path = str(folder)
        load_adapter(model, read_weights(folder / WEIGHTS), folder)
        return place_adapter(model).eval()

    def save_pretrained(self, folder: str | Path, save_base: bool = False, **kwargs: Any) -> None:
        """Write configuration, adapter weights and model card, each file whole or not at all.

        Components inside the checkpoint that this model was loaded from are copied.

        Args:
            save_base: write the base LM too, into ``language_model/``, so that the folder needs no
                other. Of an LM with low-rank layers only these are written; they name their base
                LM.
            kwargs: of the base LM's ``save_pretrained``.
        """
        folder, config = Path(folder), copy.deepcopy(self.config)
        folder.mkdir(parents=True, exist_ok=True)
        if save_base:
            if has_low_rank(self.language_model):
                save_low_rank(self.language_model, folder / BASE)
            else:
                self.language_model.save_pretrained(folder / BASE, **kwargs)
            _save_tokenizer(config, folder / BASE)
            config.language_model, config.language_model_revision = BASE, None
        if self.config.name_or_path:
            _copy_components(config, Path(self.config.name_or_path), folder)
        weights = {
            name: value.detach().float().contiguous().cpu()
            for name, value in self.adapter_state().items()
        }
        partial = folder / (WEIGHTS + ".part")
        save_file(weights, partial, metadata={"format": "pt"})
        os.replace(partial, folder / WEIGHTS)
        config.architectures = [type(self).__name__]
        card = folder / "README.md"
        # A card that a person wrote is kept.
        if not card.exists() or GENERATED in card.read_text(encoding="utf-8"):
            write_text(card, model_card(config))
        # Last, so that a folder with it is a whole checkpoint.
        write_text(folder / "config.json", config.to_json_string())

    def push_to_hub(self, repo_id: str, *, save_base: bool = False, **kwargs: Any) -> str:
        """Upload checkpoint and card; ``kwargs`` (private, token, ...) create the repository."""
        api = HfApi(token=kwargs.pop("token", None))
        message = kwargs.pop("commit_message", "Upload vlmig adapter")
        repo_id = api.create_repo(repo_id, exist_ok=True, **kwargs).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, save_base=save_base)
            return str(
                api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
            )


def resolve_checkpoint(name: str | Path, revision: str | None = None) -> Path:
    """Return a checkpoint's folder: ``pocket``, a folder, or a hub id, which is downloaded.

    Raises:
        VLMIGError: nothing of that name, or a folder without a checkpoint.
    """
    folder = POCKET if str(name) == "pocket" else Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(name), revision=revision))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise VLMIGError(
                f"no checkpoint {name}: not 'pocket', not a folder, not reachable as a hub id; "
                "check the name, or pass a folder"
            ) from error
    for file in ("config.json", WEIGHTS):
        if not (folder / file).is_file():
            raise VLMIGError(
                f"{folder} has no {file}; expected a vlmig checkpoint: config.json and {WEIGHTS} "
                "with projector and fusion"
            )
    _check_config(folder / "config.json")
    return folder


def _check_config(path: Path) -> None:
    """Insist on the configuration of a checkpoint of ours."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise VLMIGError(
            f"{path} is damaged ({one_line(error)}); expected a vlmig checkpoint's configuration; "
            "fetch it again"
        ) from None
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if kind != "vlmig":
        told = f"has the model_type {kind!r}" if isinstance(fields, dict) else "holds no object"
        raise VLMIGError(
            f"{path} {told}; expected a vlmig checkpoint's, whose model_type is 'vlmig'; name "
            "another folder"
        )


def absolute(name: str) -> str:
    """Make a folder ``./x`` absolute: a configuration means one inside the checkpoint."""
    return VLMIGConfig.locate(name, Path.cwd())


def place_adapter(model: Any) -> Any:
    """Move projector, fusion layer and blank features to the base LM's device and precision."""
    device, dtype = model.language_model.device, model.language_model.dtype
    model.projector.to(device=device, dtype=dtype)
    model.fusion.to(device=device, dtype=dtype)
    model.blank_features = model.blank_features.to(device)
    return model


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """Load a base LM's tokenizer.

    Raises:
        VLMIGError: there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise VLMIGError(
            f"no tokenizer at {name}: {one_line(error)}; save one beside the LM"
        ) from error
    if not tokenizer("a b").input_ids:  # without files transformers builds an empty one
        raise VLMIGError(
            f"no tokenizer at {name}; save the LM's tokenizer there with tokenizer.save_pretrained"
        )
    return tokenizer


def _save_tokenizer(config: VLMIGConfig, folder: Path) -> None:
    """Save the base LM's tokenizer with it, if it has one."""
    source = config.locate(config.language_model, Path(config.name_or_path or "."))
    if source != str(folder):
        try:
            load_tokenizer(source, config.language_model_revision).save_pretrained(folder)
        except VLMIGError as error:
            logger.warning("saved without a tokenizer: %s", error)


def describe_language_model(name: str, revision: str | None = None) -> PreTrainedConfig:
    """Load the configuration of a base LM.

    Raises:
        VLMIGError: it cannot be loaded.
    """
    try:
        return AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise _not_loaded(name, "causal or masked", error) from error


def load_language_model(
    auto_class: Any, name: str, revision: str | None = None, **kwargs: Any
) -> Any:
    """Load a base LM of transformers: quantized if it was saved so, else in ``dtype``, fp32 by
    default.

    Raises:
        VLMIGError: it is unknown, gated, of another kind, cannot be downloaded, or has weights
            that are missing, damaged or not finite.
    """
    if base := base_of(name):
        model = load_language_model(auto_class, base, **kwargs)
        load_low_rank(model, Path(name))
        return model.eval()
    try:
        if "dtype" not in kwargs:
            default = "auto" if _is_quantized(name, revision) else torch.float32
            kwargs["dtype"] = kwargs.pop("torch_dtype", default)
        model, loading = auto_class.from_pretrained(
            name, revision=revision, output_loading_info=True, **kwargs
        )
        check_weights(model, name, loading["missing_keys"])
        return keep_stored_form(model.eval())
    except VLMIGError:
        raise
    except (OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        if unknown := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
            raise _unknown_setting(unknown[1]) from None
        kind = "masked" if "Masked" in auto_class.__name__ else "causal"
        raise _not_loaded(name, kind, error) from error


def _is_quantized(name: str, revision: str | None) -> bool:
    """Tell whether a base LM was saved quantized."""
    try:
        return (
            getattr(
                AutoConfig.from_pretrained(name, revision=revision), "quantization_config", None
            )
            is not None
        )
    except (OSError, ValueError):  # loading raises the error
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


def load_adapter(model: AdapterCheckpoint, weights: dict[str, Tensor], source: Path) -> None:
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


def _copy_components(config: VLMIGConfig, source: Path, folder: Path) -> None:
    """Copy the components inside a checkpoint (``./x``) into another folder, if new there."""
    for component in COMPONENTS:
        name = getattr(config, component).rpartition(":")[2]
        if name.startswith("./") and (source / name).is_dir() and not (folder / name).exists():
            partial = (folder / name).with_suffix(".part")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source / name, partial)
            partial.replace(folder / name)
