"""Training: stages from a recipe, one loop, exact resume. The only place that knows accelerate."""

from vlmig.training.loop import Optimisation, fit
from vlmig.training.recipe import Recipe, Stage, load_recipe
from vlmig.training.run import train

__all__ = ["Optimisation", "Recipe", "Stage", "fit", "load_recipe", "train"]
