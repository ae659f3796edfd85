"""The model that a recipe starts from."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch

from vlmig.checkpoint import load_language_model, load_tokenizer, place_adapter, resolve_checkpoint
from vlmig.config import VLMIGConfig, changed
from vlmig.errors import VLMIGError
from vlmig.modeling import class_for
from vlmig.predictor import VLMIG
from vlmig.store import FeatureStore
from vlmig.training.recipe import Recipe
from vlmig.vision import VisionEncoder

NEEDED = ("language_model", "vision", "generator")


def start(recipe: Recipe, store: FeatureStore | None) -> VLMIG:
    """Load or build the model that ``recipe.model`` describes; its adapter is kept in full precision.

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
            raise VLMIGError(f"model has {name}; expected --store, or a field such as language_model_revision")
    if adapter not in ("new", "kept"):
        raise VLMIGError(f"model, adapter is {adapter!r}; expected new or kept")
    if source is None:
        missing = [name for name in NEEDED if name not in settings]
        if missing:
            raise VLMIGError(f"model has no {missing[0]}; expected from: CHECKPOINT, or {', '.join(NEEDED)}")
        model = VLMIG.from_base(settings.pop("language_model"), store=store, **settings)
    elif adapter == "kept":
        model = VLMIG.from_pretrained(source, store=store, **settings)
    else:
        model = _renewed(source, store, settings)
    if model.model.language_model.dtype != torch.float32 and recipe.precision == "fp32":
        raise VLMIGError(
            f"model, dtype is {settings.get('dtype')}, precision fp32; expected precision: bf16 (or fp16) beside it, so that the "
            "adapter trains in full precision"
        )
    model.model.projector.float()
    model.model.fusion.float()
    model.config.training = None  # of an earlier run
    return model


def _renewed(source: str, store: FeatureStore | None, settings: dict[str, Any]) -> VLMIG:
    """Build a new adapter around a checkpoint's frozen parts."""
    folder = resolve_checkpoint(source)
    fields = {name: settings.pop(name) for name in VLMIGConfig.__annotations__ if name in settings}
    config = VLMIGConfig.from_pretrained(folder, **changed(fields))
    config.trained = False
    place = config.locate(config.vision_encoder, folder)
    blank = VisionEncoder(place, config.vision_layer, config.vision_features).encode_blank()
    config.vision_patches, config.vision_width = blank.shape
    place = config.locate(config.language_model, folder)
    built = class_for(config)
    base = load_language_model(built.auto_class, place, config.language_model_revision, **settings)
    network = place_adapter(built(config, base))
    network.config.name_or_path = str(folder)
    network.blank_features.copy_(blank)
    return VLMIG(network, load_tokenizer(place, config.language_model_revision), Path(folder), store)
