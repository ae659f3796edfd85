"""Load the model of a checkpoint, or build one with an untrained adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmig.models.checkpoint import (
    absolute,
    describe_language_model,
    load_language_model,
    load_tokenizer,
    place_adapter,
    resolve_checkpoint,
    tokenizer_place,
)
from vlmig.models.config import VLMIGConfig, changed, take_fields
from vlmig.models.modeling import Model, class_for
from vlmig.vision import VisionEncoder


def load_checkpoint(
    name: str | Path, revision: str | None = None, **settings: Any
) -> tuple[Model, Any, Path]:
    """Return a checkpoint's model, tokenizer and folder, see ``VLMIG.from_pretrained``."""
    folder = resolve_checkpoint(name, revision)
    model_class = class_for(VLMIGConfig.from_pretrained(folder))
    model = model_class.from_pretrained(folder, **changed(settings))
    source, version = tokenizer_place(model.config, folder)
    return model, load_tokenizer(source, version, model.config.text_config), folder


def build_untrained(
    language_model: str, vision: str, generator: str, **settings: Any
) -> tuple[Model, Any]:
    """Return a model with an untrained adapter, and its tokenizer, see ``VLMIG.from_base``."""
    fields = take_fields(settings)
    language_model, vision, generator = map(absolute, (language_model, vision, generator))
    names = {"language_model": language_model, "vision_encoder": vision, "imaginer": generator}
    source = VLMIGConfig.locate(language_model, Path.cwd())
    built = class_for(describe_language_model(source))
    base = load_language_model(built.auto_class, source, **settings)
    layer, features = fields.get("vision_layer", -2), fields.get("vision_features", "patches")
    encoder = VisionEncoder(VLMIGConfig.locate(vision, Path.cwd()), layer, features)
    blank = encoder.encode_blank()
    shape = {"vision_patches": blank.shape[0], "vision_width": blank.shape[1]}
    model = built(VLMIGConfig(text_config=base.config.to_dict(), **names, **shape, **fields), base)
    model.blank_features.copy_(blank)
    place_adapter(model)
    return model.eval(), load_tokenizer(source)
