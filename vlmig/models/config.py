"""The configuration of a checkpoint: everything that decides its answers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from pydantic import AfterValidator, Field, create_model
from transformers import AutoConfig, PreTrainedConfig

from vlmig.errors import VLMIGError, one_line
from vlmig.io.config_file import Checked, parse
from vlmig.io.places import package_path

COMPONENTS = ("language_model", "vision_encoder", "imaginer")
Mix = Literal["prob", "logit", "geometric", "evidence", "contrast"]
Weights = Literal["uniform", "clip", "doubled", "entropy", "learned"]
Policy = Literal["subject", "question", "sentences", "each", "option"]
LongPrompts = Literal["cut", "split", "refuse"]
MIX_RULES, WEIGHT_KINDS = get_args(Mix), get_args(Weights)
POLICIES, LONG_PROMPTS = get_args(Policy), get_args(LongPrompts)
Text = Annotated[str, Field(pattern=r"\S")]


def _inside(name: str) -> str:
    """Refuse a sub-folder that leaves the checkpoint: what is inside is copied with it."""
    steps = name.rpartition(":")[2].split("/")
    if steps[0] == "." and ".." in steps:
        raise ValueError(f"is {name!r}; expected a folder inside the checkpoint")
    return name


Place = Annotated[Text, AfterValidator(_inside)]
"""A hub id, or a folder, which begins with ``./`` inside the checkpoint."""
Count = Annotated[int, Field(ge=1, le=2**20)]
"""A count or a width; a larger one would only fill the memory."""
Amount = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
COUNTS_FROM_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet")
"""Families whose position table begins with rows for padding."""
IMAGE = "<image>"
"""The placeholder of an image in a text."""
REFERENCE = {"protocol": "reference", "mix": "logit", "weights": "clip"}
"""Fields with which a checkpoint predicts as the published code does."""
SAMPLING = ("revision", "steps", "guidance", "size", "batch", "dtype", "vae")
"""Settings of an image source, each a field ``imaginer_...``, which do not fit another source."""


def changed(fields: dict[str, Any]) -> dict[str, Any]:
    """Complete the fields that a user changes: another image source gets its family's settings."""
    if "imaginer" not in fields:
        return dict(fields)
    return {**{f"imaginer_{name}": None for name in SAMPLING}, **fields}


def take_fields(settings: dict[str, Any]) -> dict[str, Any]:
    """Take the fields of the configuration out of settings, whose rest goes to the base LM."""
    return {name: settings.pop(name) for name in VLMIGConfig.__annotations__ if name in settings}


def _text_config(fields: dict[str, Any]) -> PreTrainedConfig:
    """Make the base LM's configuration, one that can be written again."""
    try:
        config = AutoConfig.for_model(**fields)
        config.to_dict()
        return config
    except Exception as error:  # each family checks its fields in its own way
        raise VLMIGError(
            f"text_config in the configuration is no configuration of a language model "
            f"({one_line(error)}); expected its model_type and fields; correct it in config.json"
        ) from None


def _check_precision(field: str, given: Any) -> None:
    """Refuse what is no precision; transformers takes any name that torch has."""
    dtype = getattr(torch, given, None) if isinstance(given, str) else given
    if given is not None and not isinstance(dtype, torch.dtype | dict):
        raise VLMIGError(
            f"{field}={given!r} in the configuration; expected a precision of torch, such as "
            "float32; correct it in config.json"
        )


def _of_text(name: str) -> property:
    """Return a field that is the base LM's; None where it has none."""

    def read(config: VLMIGConfig) -> Any:
        return getattr(config.text_config, name, None)

    def write(config: VLMIGConfig, value: Any) -> None:
        setattr(config.text_config, name, value)

    return property(read, write)


class VLMIGConfig(PreTrainedConfig):
    """Components and settings of a visually grounded language model.

    Components are named by hub id and revision, by a sub-folder of the checkpoint
    (``./language_model``), or by what an installed package has (``package:NAME/FILE``).

    Raises:
        VLMIGError: a field has an unknown value.
    """

    model_type = "vlmig"
    sub_configs = {"text_config": AutoConfig}
    auto_map: ClassVar[dict[str, str]] = {}
    """No code inside the checkpoint; TRL asks."""

    text_config: Any = None
    """Configuration of the base LM (transformers)."""
    language_model: Place = "./language_model"
    """Base LM: hub id, folder or GGUF file; relative to the checkpoint when it begins with
    ``./``, in an installed package when with ``package:``."""
    language_model_revision: Text | None = None
    vision_encoder: Place = "./vision_encoder"
    """Model of open_clip or transformers, see ``vlmig.vision.VisionEncoder``."""
    vision_layer: Annotated[int, Field(ge=-1000, le=1000)] = -2
    """Transformer block whose patch features are read; -2 is the penultimate, as published."""
    vision_width: Count = 768
    """C, width of a patch feature."""
    vision_patches: Count = 49
    """P, patch features per image."""
    vision_features: Literal["patches", "pooled"] = "patches"
    """``patches``, or ``pooled``: the unit embedding as the only patch."""
    imaginer: Place = "./generator"
    """A pipeline, or ``http:URL#MODEL``, ``retrieval:PLACE``, ``folder:PLACE``, ``prior:NAME``,
    ``text``, ``blank``."""
    imaginer_revision: Text | None = None
    imaginer_steps: Annotated[Count, Field(le=10_000)] | None = None
    """None, here and in the next four: settings of the pipeline's family."""
    imaginer_guidance: Amount | None = None
    imaginer_size: Annotated[Count, Field(le=2**14)] | None = None
    """Side of an imagined image in pixels."""
    imaginer_batch: Annotated[Count, Field(le=2**12)] | None = None
    """Images per call of the pipeline, or concurrent requests to a server."""
    imaginer_dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Precision; float32 on a CPU when None."""
    imaginer_vae: Place | None = None
    """A smaller decoder in place of the pipeline's, such as madebyollin/taesd."""
    imaginer_compile: bool = False
    """Whether to compile the pipeline's denoiser."""
    prompt_policy: Policy = "subject"
    """How a text becomes prompts: ``subject``, ``question``, ``sentences`` or ``option``."""
    long_prompts: LongPrompts = "cut"
    """What to do with prompts that are too long: ``cut``, ``split`` or ``refuse``."""
    projector: Literal["linear", "mlp", "pooled", "resampler"] = "mlp"
    """``linear`` or ``mlp`` (two layers, GELU; paper section 3.1), a token per patch; ``pooled``, a
    token per 2 x 2 patches (VILA-1.5); ``resampler``, ``projector_queries`` tokens (after
    BLIP-2)."""
    projector_width: Count | None = None
    """Hidden width, a multiple of 8 for ``resampler``; the LM's width when None."""
    projector_queries: Count = 32
    """Visual tokens of the ``resampler``."""
    fusion: Literal["cross_attention", "decoder_layer", "prefix"] = "cross_attention"
    """``cross_attention``: queries from text, keys and values from text and visual tokens, gates
    that start at zero. ``decoder_layer``: one block of the LM's family and a final norm, as
    published. ``prefix``: early fusion, visual tokens among the LM's input embeddings (LLaVA,
    VILA)."""
    image_token_id: Annotated[int, Field(ge=0, le=2**31)] | None = None
    """Id of an image token (``prefix``); the first id beyond the LM's vocabulary when None."""
    chat_template: Text = "question"
    """How a turn of a conversation is written, see ``vlmig.processing.chat_templates``."""
    fusion_heads: Annotated[Count, Field(le=1024)] = 8
    fusion_width: Count | None = None
    """Width of ``cross_attention``, a quarter of its feed-forward width; None: the LM's."""
    mix: Mix = "evidence"
    """How distributions are mixed, see ``vlmig.models.mixture``."""
    weights: Weights = "uniform"
    """How much each image counts, see ``vlmig.models.mixture``."""
    strength: Amount = 1.0
    """Factor of the evidence."""
    doubt: Amount = 0.0
    """Exponent of the text model's doubt (1 - its highest probability); 0: images always count."""
    alignment_floor: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] = 0.2
    """CLIP similarity below which ``entropy`` weights ignore an image."""
    auto: dict[str, Any] | None = None
    """When ``k="auto"`` stops (``vlmig.predict.adaptive_k.Stopping``); None if not calibrated."""
    learned: dict[str, Any] | None = None
    """What ``learned`` weights were fitted to (``vlmig.models.learned``); None if they were not."""
    protocol: Literal["default", "reference"] = "default"
    """``reference`` reproduces the numbers of the published code, see ``docs/fidelity.md``."""
    trained: bool = False
    """Whether the adapter was trained; an untrained one cannot be evaluated."""
    training: dict[str, Any] | None = None
    """Record of ``vlmig train``: data, steps, seeds, versions, measured figures."""

    def __post_init__(self, **kwargs: Any) -> None:
        _check_spelling(kwargs)
        names = VLMIGConfig.__annotations__.keys() - {"auto_map"}
        check_settings({name: getattr(self, name) for name in names})
        if isinstance(self.text_config, dict):
            self.text_config = _text_config(self.text_config)
        elif not isinstance(self.text_config, PreTrainedConfig | None):
            raise VLMIGError(
                f"text_config={self.text_config!r} in the configuration; expected the base LM's "
                "configuration, a mapping; correct it in config.json"
            )
        # Transformers writes into sub-configurations; the LM's must not change.
        elif self.text_config is not None:
            self.text_config = copy.deepcopy(self.text_config)
        self._check_projector()
        _check_precision("dtype", self.dtype)
        _check_precision("torch_dtype", kwargs.get("torch_dtype"))
        super().__post_init__(**kwargs)
        # Whoever has a configuration may ask transformers' auto classes for its model.
        import_module("vlmig.models.modeling")

    def _check_projector(self) -> None:
        if (
            self.projector == "pooled"
            and round(self.vision_patches**0.5) ** 2 != self.vision_patches
        ):
            raise VLMIGError(
                f"projector='pooled' with vision_patches={self.vision_patches}; expected a square "
                "of patches: use mlp or resampler"
            )
        if self.projector == "resampler" and (self.projector_width or 8) % 8:
            raise VLMIGError(
                f"projector_width={self.projector_width}; expected a multiple of 8 for a resampler"
            )

    @property
    def visual_tokens(self) -> int:
        """Return N, the visual tokens of an image."""
        if self.projector == "pooled":
            return ((round(self.vision_patches**0.5) + 1) // 2) ** 2
        return self.projector_queries if self.projector == "resampler" else self.vision_patches

    @property
    def images_in_text(self) -> bool:
        """Whether images are tokens of the text (early fusion)."""
        return self.fusion == "prefix"

    @property
    def placeholder_id(self) -> int:
        """Return the token id of the placeholder of a visual token."""
        return self.text_config.vocab_size if self.image_token_id is None else self.image_token_id

    @property
    def text_limit(self) -> int | None:
        """Return how many text tokens fit beside an image in the LM's positions; None: no limit."""
        positions = getattr(self.text_config, "max_position_embeddings", None)
        if positions is None:
            return None
        if self.text_config.model_type in COUNTS_FROM_PADDING:
            positions -= self.text_config.pad_token_id + 1
        return positions if self.fusion == "cross_attention" else positions - self.visual_tokens

    # The base LM's; trainers read and set them here.
    vocab_size, pad_token_id = _of_text("vocab_size"), _of_text("pad_token_id")
    bos_token_id, eos_token_id = _of_text("bos_token_id"), _of_text("eos_token_id")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, without the path of the base LM on this machine."""
        described = super().to_dict()
        if isinstance(described.get("text_config"), dict):
            described["text_config"].pop("_name_or_path", None)
        return described

    @staticmethod
    def locate(name: str, folder: Path) -> str:
        """Return where a component is: ``./x`` inside the checkpoint's folder, ``package:NAME/x``
        inside an installed package, anything else as it is.

        Another kind before a colon (``folder:./x``) is kept.

        Raises:
            VLMIGError: no such package.
        """
        kind, colon, path = name.rpartition(":")
        if kind == "package":
            return str(package_path(path))
        return f"{kind}{colon}{folder / path[2:]}" if path.startswith("./") else name


# `import vlmig` brings this line to transformers (`vlmig/__init__.py`).
AutoConfig.register(VLMIGConfig.model_type, VLMIGConfig, exist_ok=True)


@cache
def _checks() -> type[Checked]:
    """Return the model that checks a configuration's fields, made of their annotations."""
    kinds = get_annotations(VLMIGConfig, eval_str=True)
    del kinds["auto_map"]  # of the class
    fields: dict[str, Any] = {name: (kind, None) for name, kind in kinds.items()}
    return create_model("Fields", __base__=Checked, **fields)


def check_settings(values: Mapping[str, Any]) -> None:
    """Check some fields of a configuration by type, range and choice.

    Raises:
        VLMIGError: the first that is wrong, by name.
    """
    parse(_checks(), dict(values), "the configuration", "; correct it")


def _check_spelling(given: Iterable[str]) -> None:
    """Refuse fields that look like a misspelled one; transformers adds others of its own.

    Raises:
        VLMIGError: with the field that was probably meant.
    """
    known = VLMIGConfig.__annotations__
    for name in given:
        near = get_close_matches(name, known, 1, cutoff=0.8)
        if near and name not in known:
            raise VLMIGError(
                f"unknown field {name!r} in the configuration; did you mean {near[0]}?"
            )
