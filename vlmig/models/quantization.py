"""Base LMs in 8-bit or 4-bit precision, by bitsandbytes, on CPU and GPU.

bitsandbytes quantizes GPT-2's transposed layers (``Conv1D``) too; torchao and quanto silently skip
them. Embeddings, head, projector and fusion layer are not quantized.
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
"""``8bit``: LLM.int8. ``4bit``: normal floats, with quantized scales."""


def config_for(kind: str) -> BitsAndBytesConfig:
    """Return the ``quantization_config`` for ``VLMIG.from_pretrained``.

    Args:
        kind: ``8bit`` or ``4bit``.

    Raises:
        VLMIGError: another kind; bitsandbytes is not installed.
    """
    if kind not in KINDS:
        raise VLMIGError(f"quantize={kind!r}; expected one of {', '.join(KINDS)}")
    if find_spec("bitsandbytes") is None:
        raise VLMIGError(
            f'quantize={kind!r} needs bitsandbytes; install it with pip install "vlmig[quantize]"'
        )
    # In float32 it warns at every call that it computes products in half precision.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return BitsAndBytesConfig(**KINDS[kind])


def keep_stored_form(model: Model) -> Model:
    """Keep bitsandbytes from repacking 4-bit weights, and return the model.

    On CPUs with bfloat16 instructions it repacks them at the first pass. Unpacking rounds their
    scales again, so that a model would be saved with other weights after use, and its answers would
    depend on the machine.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def weight_bytes(model: nn.Module) -> int:
    """Count the bytes of a model's weights and their scales; shared weights count once."""
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    for weight in model.parameters():
        tensors.append(getattr(weight, "SCB", None))  # 8 bits: a scale per row
        state = getattr(weight, "quant_state", None)
        for scales in (state, getattr(state, "state2", None)):  # 4 bits: scales, and their scales
            for name in ("absmax", "code", "offset"):
                tensors.append(getattr(scales, name, None))
    for module in model.modules():  # 8 bits: the scales move here at the first pass
        tensors.append(getattr(getattr(module, "state", None), "SCB", None))
    sizes: dict[int, int] = {}
    for tensor in tensors:
        if tensor is not None:
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(sizes.values())
