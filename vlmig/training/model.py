"""The model of a run, the parameters that a stage trains, and a digest of the frozen rest."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlmig.errors import VLMIGError
from vlmig.imagination.store import FeatureStore
from vlmig.io.hashing import content_of
from vlmig.models.checkpoint import (
    PACKAGE,
    absolute,
    describe_language_model,
    load_language_model,
    load_tokenizer,
    place_adapter,
    resolve_checkpoint,
    tokenizer_place,
)
from vlmig.models.config import VLMIGConfig, changed, take_fields
from vlmig.models.fusion.cross_attention import CrossAttentionFusion
from vlmig.models.low_rank import add_low_rank, has_low_rank
from vlmig.models.modeling import Model, class_for
from vlmig.predict.predictor import VLMIG
from vlmig.training.recipe import Recipe
from vlmig.vision import VisionEncoder


def choose_trained(model: Model, components: Sequence[str], lora: dict[str, Any]) -> None:
    """Let only the named components train.

    Args:
        components: of ``projector``, ``fusion``, ``language_model``, ``lora``.
        lora: arguments of ``peft.LoraConfig``; low-rank layers of an earlier stage stay, and
            continue to train if ``components`` names them again.

    Raises:
        VLMIGError: ``fusion`` where there is no such layer; ``lora`` without peft, or arguments
            that it does not take.
    """
    if "fusion" in components and model.config.images_in_text:
        raise VLMIGError(
            f"trains: {list(components)} with fusion prefix, which has no fusion layer; expected "
            "projector, language_model or lora"
        )
    if "lora" in components and not has_low_rank(model.language_model):
        add_low_rank(model.language_model, lora)
    model.freeze_base()
    model.requires_grad_(False)
    for component in set(components) - {"lora"}:
        getattr(model, component).requires_grad_(True)
    for name, parameter in model.language_model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_("lora" in components)
    set_modes(model, components)


def set_modes(model: Model, components: Sequence[str]) -> None:
    """Put trained parts in train mode and frozen parts in eval mode."""
    model.train()
    if not {"language_model", "lora"} & set(components):
        model.language_model.eval()


def count_parameters(model: Model) -> dict[str, tuple[int, int]]:
    """Count the trained and the frozen parameters of projector, fusion layer and base LM."""
    counts = {}
    for component in ("projector", "fusion", "language_model"):
        trained = frozen = 0
        for parameter in getattr(model, component).parameters():
            if parameter.requires_grad:
                trained += parameter.numel()
            else:
                frozen += parameter.numel()
        counts[component] = trained, frozen
    return counts


def frozen_digest(module: nn.Module) -> str:
    """Digest every parameter that does not train, and every buffer."""
    digest = hashlib.sha256()
    # By address, not by name: a tied head trains with its embeddings.
    trained = {parameter.data_ptr() for parameter in module.parameters() if parameter.requires_grad}
    for name, value in module.state_dict().items():
        if value.device.type != "meta" and value.data_ptr() not in trained:
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(content_of(value))
    return digest.hexdigest()[:16]


NEEDED = ("language_model", "vision", "generator")


def start(recipe: Recipe, store: FeatureStore | None) -> VLMIG:
    """Load or build the model that ``recipe.model`` describes, its adapter in full precision.

    Raises:
        VLMIGError: it names neither a checkpoint nor all components, or one that cannot be loaded.
    """
    torch.manual_seed(recipe.seed)
    settings = dict(recipe.model)
    source, adapter = settings.pop("from", None), settings.pop("adapter", "kept")
    for name in settings:
        near = difflib.get_close_matches(name, [*NEEDED, *VLMIGConfig.__annotations__], 1, 0.8)
        if near and near[0] != name:  # anything else goes to the base LM
            raise VLMIGError(f"model has {name!r}; did you mean {near[0]}?")
        if name in ("store", "revision"):
            raise VLMIGError(
                f"model has {name}; expected --store, or a field such as language_model_revision"
            )
    if source is None:
        missing = [name for name in NEEDED if name not in settings]
        if missing:
            raise VLMIGError(
                f"model has no {missing[0]}; expected from: CHECKPOINT, or {', '.join(NEEDED)}"
            )
        model = VLMIG.from_base(settings.pop("language_model"), store=store, **settings)
    elif adapter == "new":
        model = _renewed(source, store, settings)
    else:
        model = VLMIG.from_pretrained(source, store=store, **settings)
        if adapter == "doubled":
            _double(model.model)
    if model.model.language_model.dtype != torch.float32 and recipe.precision == "fp32":
        raise VLMIGError(
            f"model, dtype is {settings.get('dtype')}, precision fp32; expected precision: bf16 "
            "(or fp16) beside it, so that the adapter trains in full precision"
        )
    model.model.projector.float()
    model.model.fusion.float()
    model.config.training = None  # of an earlier run
    return model


def _double(network: Model) -> None:
    """Give a trained fusion layer twice the heads."""
    config, fusion = network.config, network.fusion
    if not isinstance(fusion, CrossAttentionFusion):
        raise VLMIGError(
            f"model, adapter is doubled, of fusion {config.fusion}; expected fusion cross_attention"
        )
    network.fusion = fusion.doubled()
    config.fusion_heads = network.fusion.heads
    config.fusion_width = network.fusion.out.in_features


def _renewed(source: str, store: FeatureStore | None, settings: dict[str, Any]) -> VLMIG:
    """Build a new adapter around a checkpoint's frozen parts, or around another base LM beside its
    encoder and image source."""
    folder = resolve_checkpoint(source)
    fields = take_fields(settings)
    config = VLMIGConfig.from_pretrained(folder, **changed(fields))
    config.trained = False
    if "language_model" in fields:
        _exchange_base(config, folder)
    location = config.locate(config.vision_encoder, folder)
    blank = VisionEncoder(location, config.vision_layer, config.vision_features).encode_blank()
    config.vision_patches, config.vision_width = blank.shape
    location = config.locate(config.language_model, folder)
    built = class_for(config)
    revision = config.language_model_revision
    base = load_language_model(built.auto_class, location, revision, **settings)
    network = place_adapter(built(config, base))
    network.config.name_or_path = "" if "language_model" in fields else str(folder)
    network.blank_features.copy_(blank)
    if "language_model" not in fields:
        location, revision = tokenizer_place(config, folder)
    tokenizer = load_tokenizer(location, revision, config.text_config)
    return VLMIG(network, tokenizer, folder, store)


def _exchange_base(config: VLMIGConfig, folder: Path) -> None:
    """Describe another base LM in a checkpoint's configuration; its other components are named by
    where they are, so that a run does not copy them."""
    config.language_model = absolute(config.language_model)
    location = config.locate(config.language_model, folder)
    config.text_config = describe_language_model(location, config.language_model_revision)
    config.auto = config.learned = None  # fitted to the other LM
    config.architectures = [class_for(config.text_config).__name__]
    embedded = folder.is_relative_to(PACKAGE)
    inside = f"package:vlmig/{folder.relative_to(PACKAGE)}" if embedded else folder.absolute()
    for component in ("vision_encoder", "imaginer"):
        name = getattr(config, component)
        if name.startswith("./"):
            setattr(config, component, f"{inside}/{name.removeprefix('./')}")
