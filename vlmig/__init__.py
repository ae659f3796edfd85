"""vlmig: language models that look at imagined images before answering (arXiv 2406.13621).

from vlmig import VLMIG
VLMIG.from_pretrained("pocket").ask("What is the color of a banana?", choices=["yellow", "red"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmig.errors import VLMIGError
    from vlmig.models.config import VLMIGConfig
    from vlmig.models.modeling import VLMIGForCausalLM, VLMIGForMaskedLM
    from vlmig.predict.predictor import VLMIG

    __version__: str

__all__ = [
    "VLMIG",
    "VLMIGConfig",
    "VLMIGError",
    "VLMIGForCausalLM",
    "VLMIGForMaskedLM",
    "__version__",
]

_HOMES = {
    "VLMIG": "predict.predictor",
    "VLMIGConfig": "models.config",
    "VLMIGError": "errors",
    "VLMIGForCausalLM": "models.modeling",
    "VLMIGForMaskedLM": "models.modeling",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``vlmig --help`` answers at once."""
    if name == "__version__":  # of the installed package, whose metadata takes a moment to find
        from importlib.metadata import version

        return version("vlmig")
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmig' has no attribute {name!r}")
    return getattr(import_module(f"vlmig.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, those not imported yet too."""
    return sorted({*globals(), *__all__})
