"""Saving and loading a model: a checkpoint is a folder around an adapter.

``config.json``, ``model.safetensors`` with projector and fusion, the tokenizer, the generation
config and a card. The base LM is named, unless it has to be there:

- frozen and unchanged: nothing of it is saved;
- frozen and changed (merged, resized, given in memory), or on demand: ``language_model/``;
- training: ``model.safetensors`` holds its weights too, under ``language_model.``, as of any model
  of transformers, so that its Trainer resumes from them.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from vlmig.errors import VLMIGError
from vlmig.io.atomic import write_text
from vlmig.io.weights import read_weights
from vlmig.models.base_weights import loaded, weights_digest
from vlmig.models.checkpoint import (
    BASE,
    HUB,
    WEIGHTS,
    build_language_model,
    load_adapter,
    load_generation,
    load_language_model,
    place_adapter,
    resolve_checkpoint,
    save_tokenizer,
)
from vlmig.models.config import COMPONENTS, VLMIGConfig, take_fields
from vlmig.models.generic import load_generic, save_generic
from vlmig.models.low_rank import has_low_rank, save_low_rank
from vlmig.models.model_card import GENERATED, model_card

logger = logging.getLogger(__name__)
PREFIX = "language_model."
"""Prefix of the base LM's weights in a model's."""
REPOSITORY = ("private", "repo_type", "space_sdk", "resource_group_id")
"""Arguments of ``push_to_hub`` that create a repository; the others are of the upload."""
BASE_SAVING = ("max_shard_size", "variant", "safe_serialization", "save_original_format")
"""Arguments of the base LM's ``save_pretrained``."""
OWN = {"_from_auto", "_commit_hash", "adapter_kwargs", "proxies"}
"""Arguments that the auto classes add, and that nothing here needs."""


class AdapterCheckpoint:
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` of a model whose checkpoint is
    an adapter.

    A base class before ``PreTrainedModel``, whose methods would save the whole base LM again, or
    fill missing weights at random.
    """

    config: VLMIGConfig
    language_model: PreTrainedModel
    generic_features: Tensor
    auto_class: Any
    """The class of transformers that loads the base LM."""

    def adapter_state(self) -> dict[str, Tensor]:
        """Return a checkpoint's weights: projector, fusion and the features of the blank image."""
        state: dict[str, Tensor] = nn.Module.state_dict(self)  # type: ignore[call-overload]
        return {name: value for name, value in state.items() if not name.startswith(PREFIX)}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *args: Any,
        config: VLMIGConfig | None = None,
        state_dict: dict[str, Tensor] | None = None,
        revision: str | None = None,
        subfolder: str = "",
        generation_config: GenerationConfig | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load base LM and adapter. The base LM is frozen: ``unfreeze_base`` lets it train.

        Args:
            pretrained_model_name_or_path: ``pocket``, a folder or a hub id; None with ``config``
                and ``state_dict``.
            config: used instead of the checkpoint's.
            state_dict: all weights, used instead of a checkpoint's.
            subfolder: of the folder or repository.
            generation_config: used instead of the checkpoint's.
            output_loading_info: return the model and transformers' report on the weights, which
                is empty: weights that do not fit are an error.
            kwargs: fields of the configuration to change, and arguments of the hub (``token``,
                ``cache_dir``, ``local_files_only``, ``force_download``); everything else (dtype,
                device_map, quantization_config, attn_implementation, ...) goes to the base LM.

        Raises:
            VLMIGError: no such checkpoint or base LM; weights are missing, unknown or of another
                shape.
        """
        kwargs = {name: value for name, value in kwargs.items() if name not in OWN}
        hub = {name: kwargs.pop(name) for name in HUB if name in kwargs}
        folder = Path()
        if state_dict is None:
            folder = resolve_checkpoint(pretrained_model_name_or_path, revision, subfolder, **hub)
        if config is None:
            config = VLMIGConfig.from_pretrained(folder, **take_fields(kwargs))
        weights = read_weights(folder / WEIGHTS) if state_dict is None else state_dict
        base = cls._load_base(config, folder, _base_state(weights), hub, **kwargs)
        model: Any = cls(config, base)  # type: ignore[call-arg]
        generation_config = generation_config or load_generation(folder)
        if generation_config is not None:
            model.generation_config = generation_config
        if state_dict is None:
            model.config.name_or_path = model.name_or_path = str(folder)
            shape = (config.vision_patches, config.vision_width)
            model.generic_features = load_generic(folder, *shape)
        adapter = {name: weights[name] for name in weights if not name.startswith(PREFIX)}
        load_adapter(model, adapter, folder)
        place_adapter(model).eval()
        if not output_loading_info:
            return model
        kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
        return model, {**{kind: set[str]() for kind in kinds}, "error_msgs": []}

    @classmethod
    def _load_base(
        cls,
        config: VLMIGConfig,
        folder: Path,
        inside: dict[str, Tensor],
        hub: dict[str, Any],
        **kwargs: Any,
    ) -> Any:
        """Load the base LM that a configuration names, or build it of weights ``inside``."""
        if (attention := kwargs.get("attn_implementation")) is not None:
            config._attn_implementation = attention
            if isinstance(attention, dict):  # one for each configuration
                kwargs["attn_implementation"] = attention.get("text_config", attention.get(""))
        if inside:
            return build_language_model(cls.auto_class, config.text_config, inside, **kwargs)
        location = config.locate(config.language_model, folder)
        revision = config.language_model_revision
        return load_language_model(cls.auto_class, location, revision, **hub, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        save_base: bool | None = None,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write configuration, weights, tokenizer, generation config and model card, each file
        whole or not at all.

        Components inside the checkpoint that this model was loaded from are copied.

        Args:
            save_base: write the base LM too, into ``language_model/``, so that the folder needs no
                other. Of an LM with low-rank layers only these are written; they name their base
                LM. None: where it differs from what would be loaded; a base LM that trains is
                written into ``model.safetensors``.
            is_main_process: False writes nothing.
            state_dict: weights to save instead of the model's own.
            push_to_hub: upload the folder to ``repo_id``; its own name when not given.
            kwargs: of the base LM's ``save_pretrained``, and of ``push_to_hub``.

        Raises:
            VLMIGError: ``save_base=False``, and the base LM is not what would be loaded; layers of
                PEFT in an adapter.
        """
        if not is_main_process:
            return
        folder, config = Path(save_directory), copy.deepcopy(self.config)
        base_options = {name: kwargs.pop(name) for name in BASE_SAVING if name in kwargs}
        folder.mkdir(parents=True, exist_ok=True)
        module: Any = self
        state: dict[str, Tensor] = module.state_dict() if state_dict is None else state_dict
        _refuse_wrapped(state)
        source = Path(config.name_or_path or folder)
        whole = save_base is None and self._base_trains()
        if save_base is not True and not whole:
            save_base = self._check_base(state, config, source, save_base)
        save_tokenizer(config, source, [folder, folder / BASE] if save_base else [folder])
        if save_base:
            self._save_base(folder / BASE, state if state_dict else None, **base_options)
            config.language_model, config.language_model_revision = BASE, None
        components = [name for name in COMPONENTS if not (whole and name == "language_model")]
        _copy_components(config, components, source, folder)
        _write_weights(self, state, folder, whole)
        if len(self.generic_features):
            save_generic(folder, self.generic_features)
        _describe(self, config, folder)
        if push_to_hub:
            _upload(folder, kwargs.pop("repo_id", folder.absolute().name), **kwargs)

    def push_to_hub(self, repo_id: str, *, save_base: bool | None = None, **kwargs: Any) -> str:
        """Upload checkpoint and card; return the address.

        Args:
            save_base: see ``save_pretrained``.
            kwargs: ``private`` and ``token`` create the repository; ``commit_message``,
                ``revision``, ``create_pr``, ... are the upload's.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, save_base=save_base)
            return _upload(Path(folder), repo_id, **kwargs)

    def _base_trains(self) -> bool:
        """Whether the base LM itself trains, not only low-rank layers in it."""
        learns = any(weight.requires_grad for weight in self.language_model.parameters())
        return learns and not has_low_rank(self.language_model)

    def _check_base(
        self, state: dict[str, Tensor], config: VLMIGConfig, source: Path, save_base: bool | None
    ) -> bool:
        """Whether to save a frozen base LM: if it is not what would be loaded.

        Raises:
            VLMIGError: it is not, and the user asked not to save it.
        """
        location = config.locate(config.language_model, source)
        base = _base_state(state)
        if not _differs(self, base, location, config.language_model_revision):
            return False
        if save_base is False:
            raise VLMIGError(
                f"save_base=False, and the base LM is not what {location} holds: an adapter alone "
                "would be loaded around another LM; expected save_base=True, or None to decide"
            )
        logger.info("the base LM is not what %s holds: saved with the adapter", location)
        return True

    def _save_base(self, folder: Path, state: dict[str, Tensor] | None, **kwargs: Any) -> None:
        """Save the base LM, or its low-rank layers, into a folder of its own."""
        if has_low_rank(self.language_model):
            save_low_rank(self.language_model, folder)
            return
        if state is not None:
            kwargs["state_dict"] = _base_state(state)
        self.language_model.save_pretrained(folder, **kwargs)


def _base_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the base LM's weights of a model's, by their own names."""
    base = {}
    for name, value in state.items():
        if name.startswith(PREFIX):
            base[name.removeprefix(PREFIX)] = value
    return base


def _differs(
    model: AdapterCheckpoint, base: dict[str, Tensor], location: str, revision: str | None
) -> bool:
    """Whether a base LM's weights are others than those of ``location``."""
    now, before = weights_digest(base), loaded(model.language_model)
    dtype = model.language_model.dtype
    if before is not None and (before.name, before.revision) == (location, revision):
        if before.digest == now:
            return False
        if before.dtype == dtype:
            return True
    try:
        there = load_language_model(model.auto_class, location, revision, dtype=dtype)
    except VLMIGError:
        return True
    stored = loaded(there)
    return stored is None or stored.digest != now


def _refuse_wrapped(state: dict[str, Tensor]) -> None:
    """Refuse an adapter whose layers PEFT has wrapped: nothing would load it.

    Raises:
        VLMIGError: there is such a layer.
    """
    wrapped = ("lora_", "base_layer", "modules_to_save", "original_module")
    for name in state:
        if not name.startswith(PREFIX) and any(mark in name for mark in wrapped):
            raise VLMIGError(
                f"{name} is a layer of PEFT in the adapter; expected merge_and_unload() before "
                "save_pretrained, or the PeftModel's own save_pretrained"
            )


def _describe(model: Any, config: VLMIGConfig, folder: Path) -> None:
    """Write generation config, model card and configuration."""
    if settings := getattr(model, "generation_config", None):
        settings.save_pretrained(folder)
    config.architectures = [type(model).__name__]
    card = folder / "README.md"
    # A card that a person wrote is kept.
    if not card.exists() or GENERATED in card.read_text(encoding="utf-8"):
        write_text(card, model_card(config))
    # Last, so that a folder with it is a whole checkpoint.
    write_text(folder / "config.json", config.to_json_string())


def _write_weights(model: Any, state: dict[str, Tensor], folder: Path, whole: bool) -> None:
    """Write ``model.safetensors``: the adapter in float32, and a base LM that trains as it is."""
    weights = {}
    for name, value in state.items():
        if not name.startswith(PREFIX):
            weights[name] = value.detach().float().contiguous().cpu()
        elif whole and name not in model.tied_weights():
            weights[name] = value.detach().contiguous().cpu()
    partial = folder / (WEIGHTS + ".part")
    save_file(weights, partial, metadata={"format": "pt"})
    os.replace(partial, folder / WEIGHTS)


def _copy_components(config: VLMIGConfig, names: list[str], source: Path, folder: Path) -> None:
    """Copy the components inside a checkpoint (``./x``) into another folder, if new there."""
    for component in names:
        name = getattr(config, component).rpartition(":")[2]
        if name.startswith("./") and (source / name).is_dir() and not (folder / name).exists():
            partial = (folder / name).with_suffix(".part")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source / name, partial)
            partial.replace(folder / name)


def _upload(folder: Path, repo_id: str, **kwargs: Any) -> str:
    """Create a repository and upload a folder; return its address."""
    api = HfApi(token=kwargs.pop("token", None))
    create = {name: kwargs.pop(name) for name in REPOSITORY if name in kwargs}
    kwargs.setdefault("commit_message", "Upload vlmig adapter")
    repo_id = api.create_repo(repo_id, exist_ok=True, **create).repo_id
    return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder), **kwargs))
