"""Base LMs of 8 or 4 bits per weight, for devices with little memory: bitsandbytes, on CPU and GPU alike.

bitsandbytes because it takes GPT-2's transposed layers (``Conv1D``) as it takes linear ones; torchao and quanto leave them
whole and say nothing, which makes a GPT-2 no smaller. Embeddings, head, projector and fusion layer stay whole.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any, TypeVar

from torch import nn
from transformers import BitsAndBytesConfig

from vlmig.errors import VLMIGError

Model = TypeVar("Model", bound=nn.Module)
KINDS: dict[str, dict[str, Any]] = {
    "8bit": {"load_in_8bit": True},
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}
"""``8bit``: LLM.int8. ``4bit``: normal floats, whose scales are quantised too."""


def config_for(kind: str) -> BitsAndBytesConfig:
    """Return what ``VLMIG.from_pretrained(..., quantization_config=...)`` takes.

    Args:
        kind: ``8bit`` or ``4bit``.

    Raises:
        VLMIGError: another kind; bitsandbytes is not installed.
    """
    if kind not in KINDS:
        raise VLMIGError(f"quantize={kind!r}; expected one of {', '.join(KINDS)}")
    if find_spec("bitsandbytes") is None:
        raise VLMIGError(f'quantize={kind!r} needs bitsandbytes; install it with pip install "vlmig[quantize]"')
    # In float32 it says at every call that it computes products in half precision.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return BitsAndBytesConfig(**KINDS[kind])


def keep_stored_form(model: Model) -> Model:
    """Keep weights of 4 bits as they are stored, and return the model.

    On CPUs with bfloat16 instructions bitsandbytes packs them anew at the first pass. Its way back rounds their scales once
    more, so a model that was used would be saved with other weights, and its answers would depend on the machine.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def weight_bytes(model: nn.Module) -> int:
    """Count the bytes of a model's weights, those that are shared once, and the scales of quantised ones with them."""
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    for weight in model.parameters():
        state = getattr(weight, "quant_state", None)
        for part in (state, getattr(state, "state2", None)):  # 4 bits: scales, and the scales of these
            tensors += [getattr(part, name, None) for name in ("absmax", "code", "offset")]
    for holder in (*model.parameters(), *(getattr(module, "state", None) for module in model.modules())):
        tensors.append(getattr(holder, "SCB", None))  # 8 bits: a scale for each row, elsewhere after the first pass
    sizes = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None}
    return sum(sizes.values())
