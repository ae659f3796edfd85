"""A recipe: what is trained, on what, in which stages. One YAML file, checked before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmig.errors import VLMIGError
from vlmig.io.config_file import _change, assigned, parse, read_yaml

PARTS = ("projector", "fusion", "language_model", "lora")
PRECISIONS = ("fp32", "bf16", "fp16")
FEATURES = ("stored", "live")


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a loss is minimised; the schedule's names are those of ``transformers.get_scheduler``."""

    learning_rate: float
    steps: int | None = None
    schedule: str = "cosine_with_min_lr"
    schedule_options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the schedule; ``cosine_with_min_lr`` ends at 2 % where none is given."""
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    clip: float | None = 1.0
    """Greatest norm of the gradients; None leaves them as they are."""
    average: float | None = None
    """Decay of an exponential moving average of the weights, which is what is left in the end."""


@dataclass(frozen=True, kw_only=True)
class Stage(Optimisation):
    """One stage of training. Either ``steps`` or ``epochs``."""

    name: str
    data: list[dict[str, Any]]
    """Sources with their options (docs/training.md). ``weight``: a source's share of the samples; those without one divide the
    rest by their sizes. ``limit``: read only so many records. ``curate``: see ``vlmig.data.curation.Curation``."""
    batch: int
    """Samples per step, over all processes."""
    epochs: float | None = None
    """Passes over all pairs of the stage together."""
    micro_batch: int | None = None
    """Most samples that go through the model at a time in one process; more are accumulated."""
    trains: list[str] = field(default_factory=lambda: ["projector", "fusion"])
    """Parts: ``projector``, ``fusion``, ``language_model``, ``lora``. All others are frozen."""
    lora: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``peft.LoraConfig``."""
    max_tokens: int = 100
    """Tokens of a text; longer ones are cut. Early fusion counts visual tokens too, and cuts no picture."""
    pack: int | None = None
    """Fill rows with several texts up to so many tokens, which saves padding; the loss is the same. Early fusion only."""
    alignment: float = 0.0
    """Weight of a Chamfer distance between visual tokens and words (``vlmig.training.objective.chamfer``). Early fusion only."""
    blank_share: float = 0.15
    """Share of samples read beside the empty picture: what the model says without evidence (``mix: evidence`` needs it)."""
    mask_share: float = 0.2
    """Share of tokens that a masked LM has to guess."""


@dataclass(frozen=True)
class Validation:
    """What is measured during training on pairs held out by image: losses beside own, other and empty pictures."""

    share: float = 0.01
    """Share of the images held out."""
    every: int = 500
    """Steps between measurements; also at the beginning and the end of a stage."""
    samples: int = 512
    """Most pairs to measure."""


@dataclass(frozen=True)
class Probe:
    """Tasks of ``vlmig eval`` measured beside the validation loss, with few items and pictures."""

    tasks: list[str] = field(default_factory=list)
    k: int = 2
    limit: int = 40


@dataclass(frozen=True)
class Recipe:
    """All that decides a training run."""

    model: dict[str, Any]
    """Either ``from`` (checkpoint to start from, with ``adapter: new`` to begin its adapter anew), or ``language_model``,
    ``vision`` and ``generator``; everything else is a field of ``VLMIGConfig`` or goes to the base LM."""
    stages: list[Stage]
    seed: int = 0
    precision: str = "fp32"
    """``fp32``, ``bf16`` or ``fp16`` (mixed)."""
    features: str = "stored"
    """``stored``: pictures are encoded once, before training, and kept; ``live``: in every step."""
    validation: Validation = field(default_factory=Validation)
    probe: Probe = field(default_factory=Probe)
    max_bad: float = 0.1
    """Share of bad records above which training stops."""
    workers: int = 0
    """Processes that read data beside the training one."""
    save_seconds: float = 120.0
    """Time between resumable states: what a kill can cost."""
    log_every: int = 1
    """Steps between lines of the log."""
    tracker: str | None = None
    """A tracker of accelerate, such as ``tensorboard`` or ``wandb``."""

    def resolved(self) -> dict[str, Any]:
        """Return every field, defaults included, as plain values."""
        return dataclasses.asdict(self)

    def deciding(self) -> dict[str, Any]:
        """Return the fields that decide what comes out; a run may be continued with others of the rest."""
        fields = self.resolved()
        for name in ("workers", "save_seconds", "log_every", "tracker"):
            del fields[name]
        return fields


def find_recipe(name: Path) -> Path:
    """Find a recipe: a file, or one of the package's own by its name, such as ``pocket``.

    Raises:
        VLMIGError: neither.
    """
    if name.is_file():
        return name
    package = Path(__file__).parents[1]  # the recipes lie in it where it is installed, beside it in a checkout
    known = {path.stem: path for place in (package, package.parent) for path in sorted(place.glob("configs/*.yaml"))}
    if str(name) not in known:
        raise VLMIGError(f"no recipe {name}; expected a YAML file, or one of {', '.join(known)}")
    return known[str(name)]


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        changes: ``key=value`` with a dotted key, such as ``stages.0.steps=100``; values are YAML.

    Raises:
        VLMIGError: no such file, no YAML, an unknown or missing field, a value of the wrong kind.
    """
    values = read_yaml(path)
    for key, value in assigned("--set", changes).items():
        _change(values, key.split("."), value, f"{key}={value}")
    recipe = parse(Recipe, values, str(path))
    _check(recipe, str(path))
    return recipe


def _check(recipe: Recipe, where: str) -> None:
    """Refuse values that no run could use."""
    for name, value, known in (("precision", recipe.precision, PRECISIONS), ("features", recipe.features, FEATURES)):
        if value not in known:
            raise VLMIGError(f"{where}, {name} is {value!r}; expected one of {', '.join(known)}")
    if not recipe.stages:
        raise VLMIGError(f"{where} has no stages; expected at least one")
    names = [stage.name for stage in recipe.stages]
    if len(set(names)) < len(names) or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise VLMIGError(
            f"{where} has the stages {', '.join(names)}; expected different names of letters, digits, _ and -"
        )
    _at_least(recipe, where, 1, ("log_every",))
    _at_least(recipe, where, 0, ("seed", "workers", "save_seconds", "max_bad"))
    _at_least(recipe.validation, f"{where}, validation,", 1, ("every",))
    _at_least(recipe.validation, f"{where}, validation,", 0, ("share", "samples"))
    _at_least(recipe.probe, f"{where}, probe,", 1, ("limit", "k"))
    for stage in recipe.stages:
        _check_stage(stage, f"{where}, stage {stage.name},")
    if {"language_model", "lora"} <= {part for stage in recipe.stages for part in stage.trains}:
        raise VLMIGError(f"{where} trains language_model and lora; expected one of them: only one could be saved")


def _check_stage(stage: Stage, place: str) -> None:
    if (stage.steps is None) == (stage.epochs is None):
        raise VLMIGError(f"{place} has steps={stage.steps} and epochs={stage.epochs}; expected one of them")
    unknown = [part for part in stage.trains if part not in PARTS]
    if unknown or not stage.trains:
        raise VLMIGError(f"{place} trains {stage.trains}; expected some of {', '.join(PARTS)}")
    if len(stage.betas) != 2:
        raise VLMIGError(f"{place} has betas={stage.betas}; expected two numbers, such as [0.9, 0.99]")
    _at_least(stage, place, 1, ("batch", "max_tokens", "steps", "micro_batch", "pack"))
    _at_least(stage, place, 0, ("learning_rate", "epochs", "warmup", "weight_decay"))
    _at_least(stage, place, 0, ("blank_share", "mask_share", "alignment"))
    if not stage.data:
        raise VLMIGError(f"{place} has no data; expected at least one source")
    weights = [entry["weight"] for entry in stage.data if "weight" in entry]
    wrong = [w for w in weights if isinstance(w, bool) or not isinstance(w, int | float) or w <= 0]
    if wrong:
        raise VLMIGError(f"{place} has the weight {wrong[0]!r}; expected a number above 0")
    if len(weights) < len(stage.data) and sum(weights) >= 1:
        raise VLMIGError(f"{place} has weights of {sum(weights):g} and a source without; expected less than 1 together")


def _at_least(holder: Any, where: str, least: int, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(holder, name)
        if value is not None and value < least:
            raise VLMIGError(f"{where} has {name}={value}; expected at least {least}")


def told_source(entry: dict[str, Any]) -> str:
    """Name a source as its recipe does, without the folders of this machine."""
    return " ".join(str(entry[name]) for name in ("source", "path") if name in entry)
