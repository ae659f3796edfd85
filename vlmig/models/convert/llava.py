"""Import of LLaVA in transformers' format (``LlavaForConditionalGeneration``): early fusion, nothing trained again.

Out comes a checkpoint that needs no other: language model and tokenizer, vision tower and preprocessor, projector. What it
makes of a picture and of a text is compared with what the original makes of them before anything is written.
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
"""What a chat template of jinja contains, and ours that writes the same."""
PROBE = "USER: <image>\nWhat is it, 12 red cats?  ASSISTANT:"
TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}
"""How far the two may be apart, in units of the original's own spread: our tower computes in float32, theirs in its own precision."""


def is_llava(source: str | Path) -> bool:
    """Tell whether a folder or hub id is a LLaVA of transformers.

    Raises:
        VLMIGError: another kind of LLaVA.
    """
    if Path(source).is_file():
        return False
    try:
        kind = PreTrainedConfig.get_config_dict(str(source))[0].get("model_type") or ""
    except (OSError, ValueError):
        return False
    if "llava" in kind and kind != "llava":
        raise VLMIGError(
            f"{source} has model_type {kind!r}; expected 'llava', transformers' LlavaForConditionalGeneration, such as "
            "llava-hf/llava-1.5-7b-hf"
        )
    return kind == "llava"


def convert_llava(source: str | Path, out: Path, generator: str) -> list[str]:
    """Convert a LLaVA of transformers into a folder of ours, its weights in their own precision.

    Args:
        source: folder or hub id.
        out: folder to write.
        generator: text-to-image pipeline, for pictures that are imagined.

    Returns:
        What became of the parts, a line each.

    Raises:
        VLMIGError: it cannot be loaded, or computes in a way that early fusion here has not.
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
        image_token_id=_known_mark(tokenizer, llava.config.image_token_id),
        chat_template=template_of(tokenizer, base.config.model_type),
        **LLAVA,
    )
    add_image_token(tokenizer, config)
    model = VLMIGForCausalLM(config, base)
    model.projector.load_state_dict({name: value.float() for name, value in projector.items()})
    model.blank_features.copy_(blank)
    differences = compare(llava, model, encoder)
    check_tokenizer(tokenizer, base.config)
    base.save_pretrained(out / BASE)
    tokenizer.save_pretrained(out / BASE)
    save_tower(llava, source, out / VISION)
    model.save_pretrained(out)
    return list(_describe(llava, model, differences))


def load_llava(source: str | Path) -> Any:
    """Load a LLaVA in its own precision, strictly.

    Raises:
        VLMIGError: it cannot be loaded, lacks weights, or has settings that are not LLaVA's own.
    """
    try:
        llava, loading = LlavaForConditionalGeneration.from_pretrained(source, dtype="auto", output_loading_info=True)
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise VLMIGError(
            f"cannot load {source}: {one_line(error)}; expected a folder or hub id of LlavaForConditionalGeneration"
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise VLMIGError(f"{source} lacks {len(missing)} weights, the first {missing[0]}; download it again")
    config = llava.config
    if not isinstance(config.vision_feature_layer, int):
        raise VLMIGError(
            f"vision_feature_layer={config.vision_feature_layer} in {source}; expected one layer, such as -2: features of several are not read here"
        )
    if config.projector_hidden_act not in ("gelu", "linear"):
        raise VLMIGError(f"projector_hidden_act={config.projector_hidden_act!r} in {source}; expected gelu or linear")
    return llava.eval()


def map_projector(llava: Any) -> dict[str, Tensor]:
    """Give LLaVA's projector our names: two layers, or one where nothing but a product stands between them; no bias is a zero one."""
    layers = llava.model.multi_modal_projector.linear_1, llava.model.multi_modal_projector.linear_2
    (first, first_bias), (second, second_bias) = (
        (part.weight.detach(), part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias.detach())
        for part in layers
    )
    if llava.config.projector_hidden_act == "linear":
        product = second.double() @ first.double()
        return {
            "layers.0.weight": product,
            "layers.0.bias": second.double() @ first_bias.double() + second_bias.double(),
        }
    names = ("layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias")
    return dict(zip(names, (first, first_bias, second, second_bias), strict=True))


def language_model_of(llava: Any) -> PreTrainedModel:
    """Put LLaVA's language model and head together as the causal LM of their family."""
    config = llava.config.text_config
    config.tie_word_embeddings = llava.lm_head.weight is llava.get_input_embeddings().weight
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=llava.dtype)
    setattr(base, base.base_model_prefix, llava.model.language_model)
    base.set_output_embeddings(llava.lm_head)
    base.generation_config = llava.generation_config
    return base.eval()


def vision_layer_of(config: Any) -> int:
    """Count the layer whose features are read from the last one: LLaVA counts the patches' embedding as the first, we do not."""
    layer = config.vision_feature_layer
    return layer if layer < 0 else layer - config.vision_config.num_hidden_layers - 1


def save_tower(llava: Any, source: str | Path, folder: Path) -> None:
    """Save the vision tower with its preprocessor as a model of transformers.

    Raises:
        VLMIGError: there is no preprocessor.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise VLMIGError(f"no image processor at {source}: {reason}; save the model's processor beside it") from error
    llava.model.vision_tower.save_pretrained(folder)
    processor.save_pretrained(folder)


def template_of(tokenizer: Any, family: str) -> str:
    """Choose how conversations are written by what the model's own chat template contains; without one, LLaVA 1.5's for a Llama."""
    own = tokenizer.chat_template
    if not isinstance(own, str):
        return "vicuna" if family == "llama" else "question"
    return next((name for mark, name in TEMPLATES.items() if mark in own), "question")


@torch.no_grad()
def compare(llava: Any, model: VLMIGForCausalLM, encoder: VisionEncoder) -> tuple[float, float]:
    """Compare visual tokens of a picture and logits of a text with the original's: largest differences.

    Raises:
        VLMIGError: they are not the same.
    """
    picture = torch.tensor(BLANK, dtype=torch.uint8)[:, None, None].repeat(1, 48, 64)
    picture[:, :24, :40] = 255
    pixels = encoder.tower.prepare([picture])
    theirs = llava.get_image_features(pixels.to(llava.dtype)).pooler_output[0].float()
    features = encoder.tower.encode_images(pixels, encoder.layer)[0]
    if len(theirs) != features.shape[1]:
        strategy = llava.config.vision_feature_select_strategy
        raise VLMIGError(
            f"vision_feature_select_strategy={strategy!r} makes {len(theirs)} visual tokens of {features.shape[1]} patches; expected "
            "as many: 'default' for a tower with one token before the patches, such as CLIP's, 'full' for one without, such as SigLIP's"
        )
    ids = torch.tensor([[1, 2, 3]])
    found = []
    for name, own, other in (
        ("visual tokens", model.projector(features)[0], theirs),
        ("logits", model.language_model(ids).logits, llava(ids).logits),
    ):
        difference = (own.float() - other.float()).abs().max().item()
        if not difference <= TOLERANCE[llava.dtype] * max(1e-6, other.float().std().item()):
            raise VLMIGError(
                f"{name} differ by {difference:.2g} from the original's; expected the same: {model.config.text_config.model_type} "
                f"with a {llava.config.vision_config.model_type} tower computes in a way that is not known here"
            )
        found.append(difference)
    return found[0], found[1]


def check_tokenizer(tokenizer: Any, config: PreTrainedConfig) -> None:
    """See that a tokenizer beside a language model alone is still the same: for some families transformers takes their own class.

    Raises:
        VLMIGError: it reads a text in another way.
    """
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        ids = [part(PROBE).input_ids for part in (tokenizer, load_tokenizer(folder))]
    if ids[0] != ids[1]:
        raise VLMIGError(
            f"the tokenizer ({type(tokenizer).__name__}) reads texts in another way once it stands beside a {config.model_type}; "
            "expected one of the family's own class"
        )


def _known_mark(tokenizer: Any, token: int) -> int | None:
    """Return the id of a picture's place if our mark has it in this tokenizer; otherwise the mark gets an id of its own."""
    return token if tokenizer.convert_ids_to_tokens(token) == IMAGE else None


def _describe(llava: Any, model: VLMIGForCausalLM, differences: tuple[float, float]) -> Iterator[str]:
    """Say what became of the parts."""
    config = model.config

    def size(part: nn.Module) -> str:
        return f"{sum(parameter.numel() for parameter in part.parameters()):,} weights"

    yield f"language model: {config.text_config.model_type}, {size(model.language_model)}, {str(llava.dtype).removeprefix('torch.')}"
    kind = llava.config.vision_config.model_type
    yield (
        f"vision tower: {kind}, {size(llava.model.vision_tower)}; {config.visual_tokens} visual tokens per picture, of its "
        f"layer {config.vision_layer}"
    )
    yield f"projector: {config.projector}, {size(model.projector)}; conversations are written as {config.chat_template}"
    yield "the original's own, at most {:.1g} apart in visual tokens, {:.1g} in logits".format(*differences)
