"""Training: stages from a recipe, one loop, exact resume. The only place that knows accelerate."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmig.training.loop import fit
    from vlmig.training.recipe import Optimization, Recipe, Stage, load_recipe
    from vlmig.training.run import train

__all__ = ["Optimization", "Recipe", "Stage", "fit", "load_recipe", "train"]

_HOMES = {
    "Optimization": "recipe",
    "Recipe": "recipe",
    "Stage": "recipe",
    "fit": "loop",
    "load_recipe": "recipe",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a recipe is read, and planned, without
    accelerate."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmig.training' has no attribute {name!r}")
    return getattr(import_module(f"vlmig.training.{_HOMES[name]}"), name)
