"""Conversion of LLaVA in transformers' format (``LlavaForConditionalGeneration``), without
training.

The result is a complete checkpoint: language model and tokenizer, vision tower and preprocessor,
projector. Its outputs for an image and a text are compared with the original's before it is
written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)

from vlmig.errors import VLMIGError, one_line
from vlmig.io.hub import settle_hub
from vlmig.models.checkpoint import BASE, absolute, load_tokenizer
from vlmig.models.config import IMAGE, VLMIGConfig
from vlmig.models.fusion.prefix import add_image_token
from vlmig.models.modeling import VLMIGForCausalLM
from vlmig.vision import BLANK, VisionEncoder

logger = logging.getLogger(__name__)
VISION = "./vision_encoder"
LLAVA: dict[str, Any] = {
    "fusion": "prefix",
    "language_model": BASE,
    "vision_encoder": VISION,
    "mix": "prob",
    "weights": "uniform",
    "trained": True,
}
TEMPLATES = {"<|im_start|>": "chatml", "[INST]": "llama2", "USER": "vicuna"}
"""A string in the model's chat template, and the name of our equal template."""
PROBE = "USER: <image>\nWhat is it, 12 red cats?  ASSISTANT:"
TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}
"""Greatest difference, in standard deviations: our tower computes in float32."""


def is_llava(source: str | Path) -> bool:
    """Tell whether a folder or hub id is a LLaVA of transformers.

    Raises:
        VLMIGError: another kind of LLaVA.
    """
    if Path(source).is_file():
        return False
    settle_hub(source)
    try:
        kind = PreTrainedConfig.get_config_dict(str(source))[0].get("model_type") or ""
    except (OSError, ValueError) as error:
        if not Path(source).exists():
            raise VLMIGError(
                f"no weights at {source}, which is no file or folder here, and not to be had as a "
                f"hub id ({one_line(error)}); expected a published checkpoint, or the hub id of a "
                "LLaVA; check the name, or fetch it where there is a network"
            ) from None
        return False
    if "llava" in kind and kind != "llava":
        raise VLMIGError(
            f"{source} has model_type {kind!r}; expected 'llava', transformers' "
            "LlavaForConditionalGeneration, such as llava-hf/llava-1.5-7b-hf"
        )
    return kind == "llava"


def convert_llava(source: str | Path, out: Path, generator: str) -> list[str]:
    """Convert a LLaVA of transformers into a checkpoint, with its weights in their precision.

    Args:
        source: folder or hub id.
        out: folder to write.
        generator: text-to-image pipeline, for imagined images.

    Returns:
        A line on each component.

    Raises:
        VLMIGError: it cannot be loaded, or its outputs are not reproduced.
    """
    llava = load_llava(source)
    projector = map_projector(llava)
    base, tokenizer = language_model_of(llava), load_tokenizer(str(source))
    with TemporaryDirectory() as folder:
        save_tower(llava, source, Path(folder))
        encoder = VisionEncoder(folder, vision_layer_of(llava.config))
    blank = encoder.encode_blank()
    linear = "layers.2.weight" not in projector
    config = VLMIGConfig(
        text_config=base.config.to_dict(),
        vision_layer=encoder.layer,
        vision_patches=blank.shape[0],
        vision_width=blank.shape[1],
        projector="linear" if linear else "mlp",
        projector_width=None if linear else projector["layers.0.weight"].shape[0],
        imaginer=absolute(generator),
        image_token_id=_placeholder_id(tokenizer, llava.config.image_token_id),
        chat_template=template_of(tokenizer, base.config.model_type),
        **LLAVA,
    )
    add_image_token(tokenizer, config)
    model = VLMIGForCausalLM(config, base)
    model.projector.load_state_dict({name: value.float() for name, value in projector.items()})
    model.blank_features.copy_(blank)
    differences = compare(llava, model, encoder)
    check_tokenizer(tokenizer, base.config)
    tokenizer.save_pretrained(out / BASE)
    save_tower(llava, source, out / VISION)
    model.save_pretrained(out, save_base=True)
    return list(_describe(llava, model, differences))


def load_llava(source: str | Path) -> Any:
    """Load a LLaVA in its precision, strictly.

    Raises:
        VLMIGError: it cannot be loaded, lacks weights, or has settings that are not supported.
    """
    try:
        llava, loading = LlavaForConditionalGeneration.from_pretrained(
            source, dtype="auto", output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise VLMIGError(
            f"cannot load {source}: {one_line(error)}; expected a folder or hub id of "
            "LlavaForConditionalGeneration"
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise VLMIGError(
            f"{source} lacks {len(missing)} weights, the first {missing[0]}; download it again"
        )
    config = llava.config
    if not isinstance(config.vision_feature_layer, int):
        raise VLMIGError(
            f"vision_feature_layer={config.vision_feature_layer} in {source}; expected one layer, "
            "such as -2: features of several are not supported"
        )
    if config.projector_hidden_act not in ("gelu", "linear"):
        raise VLMIGError(
            f"projector_hidden_act={config.projector_hidden_act!r} in {source}; expected gelu or "
            "linear"
        )
    return llava.eval()


def map_projector(llava: Any) -> dict[str, Tensor]:
    """Return the weights of LLaVA's projector by our names: two layers, or their product if no
    activation is between them.

    A missing bias becomes zeros.
    """
    first, first_bias = _weight_and_bias(llava.model.multi_modal_projector.linear_1)
    second, second_bias = _weight_and_bias(llava.model.multi_modal_projector.linear_2)
    if llava.config.projector_hidden_act == "linear":
        product = second.double() @ first.double()
        return {
            "layers.0.weight": product,
            "layers.0.bias": second.double() @ first_bias.double() + second_bias.double(),
        }
    names = ("layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias")
    return dict(zip(names, (first, first_bias, second, second_bias), strict=True))


def _weight_and_bias(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    weight = layer.weight.detach()
    return weight, weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()


def language_model_of(llava: Any) -> PreTrainedModel:
    """Combine LLaVA's language model and head into a causal LM of their family."""
    config = llava.config.text_config
    config.tie_word_embeddings = llava.lm_head.weight is llava.get_input_embeddings().weight
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=llava.dtype)
    setattr(base, base.base_model_prefix, llava.model.language_model)
    base.set_output_embeddings(llava.lm_head)
    base.generation_config = llava.generation_config
    return base.eval()


def vision_layer_of(config: Any) -> int:
    """Return the layer counted from the last: LLaVA's layer 0 is the embedding of the patches."""
    layer = config.vision_feature_layer
    return layer if layer < 0 else layer - config.vision_config.num_hidden_layers - 1


def save_tower(llava: Any, source: str | Path, folder: Path) -> None:
    """Save the vision tower and its preprocessor as a model of transformers.

    Raises:
        VLMIGError: there is no preprocessor.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise VLMIGError(
            f"no image processor at {source}: {reason}; save the model's processor beside it"
        ) from error
    llava.model.vision_tower.save_pretrained(folder)
    processor.save_pretrained(folder)


def template_of(tokenizer: Any, family: str) -> str:
    """Return the chat template that equals the model's; without one, LLaVA 1.5's for a Llama."""
    template = tokenizer.chat_template
    if not isinstance(template, str):
        return "vicuna" if family == "llama" else "question"
    return next((name for mark, name in TEMPLATES.items() if mark in template), "question")


@torch.no_grad()
def compare(llava: Any, model: VLMIGForCausalLM, encoder: VisionEncoder) -> tuple[float, float]:
    """Return the largest differences from the original: of an image's visual tokens, and of a
    text's logits.

    Raises:
        VLMIGError: they are too large.
    """
    image = torch.tensor(BLANK, dtype=torch.uint8)[:, None, None].repeat(1, 48, 64)
    image[:, :24, :40] = 255
    pixels = encoder.tower.prepare([image])
    theirs = llava.get_image_features(pixels.to(llava.dtype)).pooler_output[0].float()
    features = encoder.tower.encode_images(pixels, encoder.layer)[0]
    if len(theirs) != features.shape[1]:
        strategy = llava.config.vision_feature_select_strategy
        raise VLMIGError(
            f"vision_feature_select_strategy={strategy!r} makes {len(theirs)} visual tokens of "
            f"{features.shape[1]} patches; expected as many: 'default' for a tower with one token "
            "before the patches, such as CLIP's, 'full' for one without, such as SigLIP's"
        )
    ids = torch.tensor([[1, 2, 3]])
    differences = []
    for name, ours, original in (
        ("visual tokens", model.projector(features)[0], theirs),
        ("logits", model.language_model(ids).logits, llava(ids).logits),
    ):
        difference = (ours.float() - original.float()).abs().max().item()
        if not difference <= TOLERANCE[llava.dtype] * max(1e-6, original.float().std().item()):
            raise VLMIGError(
                f"{name} differ by {difference:.2g} from the original's; expected the same: "
                f"{model.config.text_config.model_type} with a "
                f"{llava.config.vision_config.model_type} tower computes in a way that "
                "vlmig does not reproduce"
            )
        differences.append(difference)
    return differences[0], differences[1]


def check_tokenizer(tokenizer: Any, config: PreTrainedConfig) -> None:
    """Check that the tokenizer is unchanged when saved with the language model alone: transformers
    may choose another class.

    Raises:
        VLMIGError: it gives other tokens.
    """
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        saved = load_tokenizer(folder)
    if tokenizer(PROBE).input_ids != saved(PROBE).input_ids:
        raise VLMIGError(
            f"the tokenizer ({type(tokenizer).__name__}) gives other tokens when it is saved with "
            f"a {config.model_type}; expected one of the family's class"
        )


def _placeholder_id(tokenizer: Any, token: int) -> int | None:
    """Return the id of LLaVA's image token if it is ``<image>``; else None, for a new id."""
    return token if tokenizer.convert_ids_to_tokens(token) == IMAGE else None


def _describe(
    llava: Any, model: VLMIGForCausalLM, differences: tuple[float, float]
) -> Iterator[str]:
    """Yield a line on each component."""
    config = model.config

    def size(module: nn.Module) -> str:
        return f"{sum(map(torch.numel, module.parameters())):,} weights"

    dtype = str(llava.dtype).removeprefix("torch.")
    family = config.text_config.model_type
    yield f"language model: {family}, {size(model.language_model)}, {dtype}"
    kind = llava.config.vision_config.model_type
    yield (
        f"vision tower: {kind}, {size(llava.model.vision_tower)}; {config.visual_tokens} visual "
        f"tokens per image, of its layer {config.vision_layer}"
    )
    projector = f"{config.projector}, {size(model.projector)}"
    yield f"projector: {projector}; conversations are written as {config.chat_template}"
    yield "differences from the original: at most {:.1g} in visual tokens, {:.1g} in logits".format(
        *differences
    )
