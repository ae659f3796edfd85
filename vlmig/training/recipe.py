"""Training recipes: one YAML file, checked before anything heavy is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vlmig.data.curation import Curation
from vlmig.data.index import check_limit
from vlmig.errors import VLMIGError
from vlmig.imagination.prompts import MOST_IMAGES
from vlmig.io.config_file import Checked, Number, assigned, parse, read_recipe, set_value

Count = Annotated[int, Field(ge=1, le=2**40)]
Amount = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Decay = Annotated[Number, Field(ge=0, lt=1)]


class Optimization(Checked):
    """Optimizer and schedule; schedules have the names of ``transformers.get_scheduler``."""

    learning_rate: Amount
    steps: Count | None = None
    schedule: str = "cosine_with_min_lr"
    schedule_options: dict[str, Any] = {}
    """Further arguments of the schedule; without any, ``cosine_with_min_lr`` ends at 2 %."""
    warmup: Share = 0.03
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: Amount = 0.01
    betas: list[Decay] = [0.9, 0.99]
    clip: Annotated[Number, Field(gt=0)] | None = 1.0
    """Largest norm of the gradients; None leaves them as they are."""
    average: Decay | None = None
    """Decay of an exponential moving average of the weights, which replaces them at the end."""


class Stage(Optimization):
    """One stage of training. Either ``steps`` or ``epochs``."""

    name: str
    data: Annotated[list[dict[str, Any]], Field(min_length=1)]
    """Sources with their options (docs/training.md). ``weight``: a source's share of the samples;
    those without one divide the rest by their sizes. ``limit``: read only so many records.
    ``curate``: see ``vlmig.data.curation.Curation``."""
    batch: Count
    """Samples per step, over all processes."""
    epochs: Amount | None = None
    """Passes over all pairs of the stage together."""
    micro_batch: Count | None = None
    """Most samples that go through the model together in one process; gradients accumulate."""
    trains: Annotated[
        list[Literal["projector", "fusion", "language_model", "lora"]], Field(min_length=1)
    ] = ["projector", "fusion"]
    """What trains; everything else is frozen."""
    lora: dict[str, Any] = {}
    """Arguments of ``peft.LoraConfig``."""
    max_tokens: Count = 100
    """Tokens of a text; longer ones are cut. Early fusion counts visual tokens, and cuts no
    image."""
    pack: Count | None = None
    """Fill rows with several texts up to so many tokens. It saves padding; the loss is the same.
    Early fusion only."""
    alignment: Amount = 0.0
    """Weight of the distance of visual tokens and words, ``vlmig.training.objective.chamfer``.
    Early fusion only."""
    among_text: Share = 0.0
    """Of a token that stands in its text before: the part of its loss that is over the tokens
    before it, not the vocabulary. In "Which is smaller, a car or a lemon? A lemon." it teaches
    which of the two, whatever an image does to other words. Causal LMs with late fusion."""
    blank_share: Share = 0.15
    """Share of samples with the blank image: predictions without evidence (``mix: evidence``)."""
    mask_share: Share = 0.2
    """Share of tokens that a masked LM has to predict."""

    @model_validator(mode="after")
    def _check(self) -> Stage:
        """Refuse values that no run could use."""
        if not re.fullmatch(r"[\w-]{1,100}", self.name):
            raise ValueError(
                f"has the name {self.name[:120]!r}; expected at most 100 letters, digits, _ and -"
            )
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"has steps={self.steps} and epochs={self.epochs}; expected one of them"
            )
        if len(self.betas) != 2:
            raise ValueError(f"has betas={self.betas}; expected two numbers, such as [0.9, 0.99]")
        for entry in self.data:
            _check_entry(entry)
        weights = [entry["weight"] for entry in self.data if "weight" in entry]
        if len(weights) < len(self.data) and sum(weights) >= 1:
            raise ValueError(
                f"has weights of {sum(weights):g} and a source without; expected less than 1 "
                "together"
            )
        return self


def _check_entry(entry: dict[str, Any]) -> None:
    """Refuse an entry of ``data`` that no source could have."""
    path, weight, limit = entry.get("path", ""), entry.get("weight", 1), entry.get("limit", 1)
    if not isinstance(path, str):
        raise ValueError(f"has data at the path {path!r}; expected a text")
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not (is_number and 0 < weight < math.inf):
        raise ValueError(f"has the weight {weight!r}; expected a number above 0")
    check_limit(limit, "a stage's data")
    Curation.from_mapping(entry.get("curate"))


class Validation(Checked):
    """Losses on held-out images during training: with matching, mismatched and blank images."""

    share: Annotated[Number, Field(ge=0, lt=1)] = 0.01
    """Share of the images held out."""
    every: Count = 500
    """Steps between measurements; also at the beginning and the end of a stage."""
    samples: Annotated[int, Field(ge=0)] = 512
    """Most pairs to measure."""


class Probe(Checked):
    """Tasks of ``vlmig eval`` measured with the validation loss, with few items and images."""

    tasks: list[str] = []
    k: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = 2
    limit: Count = 40


class Recipe(Checked):
    """Everything that decides a training run."""

    model: dict[str, Any]
    """Either ``from`` (checkpoint to start from, with ``adapter: new`` to replace its adapter, or
    ``doubled`` to give it twice the heads, ``CrossAttentionFusion.doubled``), or
    ``language_model``, ``vision`` and ``generator``; everything else is a field of ``VLMIGConfig``
    or goes to the base LM."""
    stages: Annotated[list[Stage], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """``bf16`` and ``fp16`` are mixed precision."""
    features: Literal["stored", "live"] = "stored"
    """``stored``: images are encoded once, before training, and kept; ``live``: in every step."""
    states: Literal["stored", "live"] = "live"
    """``stored``: a frozen causal LM reads every text once, before training, and a file in the
    run's folder keeps its states (4 bytes per token and unit of its width); ``live``: in every
    step."""
    validation: Validation = Validation()
    probe: Probe = Probe()
    max_bad: Share = 0.1
    """Share of bad records above which training stops."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that load data for the training one."""
    save_seconds: Amount = 120.0
    """Time between resumable states; a kill can cost so much."""
    log_every: Count = 1
    """Steps between lines of the log."""
    tracker: str | None = None
    """A tracker of accelerate, such as ``tensorboard`` or ``wandb``."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        """Refuse stages that do not fit each other."""
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"has the stages {', '.join(names)}; expected different names")
        if {"language_model", "lora"} <= self.trained:
            raise ValueError(
                "trains language_model and lora; expected one of them: only one could be saved"
            )
        if self.states == "stored" and {"language_model", "lora"} & self.trained:
            raise ValueError(
                f"has states: stored and trains {', '.join(sorted(self.trained))}; expected "
                "states: live, since the LM's states change"
            )
        return self

    @property
    def trained(self) -> set[str]:
        """The parts of the model that any stage trains."""
        return set().union(*(stage.trains for stage in self.stages))

    def resolved(self) -> dict[str, Any]:
        """Return every field, defaults included, as plain values."""
        return self.model_dump()

    def deciding(self) -> dict[str, Any]:
        """Return the fields that decide the result, but for its rounding; a run may be continued
        with others of the rest."""
        return self.model_dump(
            exclude={"workers", "save_seconds", "log_every", "tracker", "states"}
        )


def find_recipe(name: Path) -> Path:
    """Find a recipe: a file, or one of the package's by its name, such as ``pocket``.

    Raises:
        VLMIGError: neither.
    """
    if name.is_file():
        return name
    package = Path(__file__).parents[1]
    known: dict[str, Path] = {}
    for folder in (package, package.parent):  # where vlmig is installed, and in a checkout
        known |= {path.stem: path for path in sorted(folder.glob("configs/*.yaml"))}
    if str(name) not in known:
        raise VLMIGError(f"no recipe {name}; expected a YAML file, or one of {', '.join(known)}")
    return known[str(name)]


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        changes: ``key=value`` with a dotted key, such as ``stages.0.steps=100``; values are YAML.

    Raises:
        VLMIGError: no such file, not YAML, an unknown or missing field, a value of the wrong kind.
    """
    values = read_recipe(path)
    for key, value in assigned("--set", changes).items():
        set_value(values, key, value)
    recipe = parse(Recipe, values, str(path))
    _check_model(recipe.model)
    return recipe


def _check_model(model: dict[str, Any]) -> None:
    """Check what a recipe sets of the model before anything is loaded.

    Raises:
        VLMIGError: a field of the wrong type, range or choice; code from a hub, which only a user
            may allow.
    """
    from vlmig.models.config import VLMIGConfig, check_settings  # imports transformers

    if model.get("trust_remote_code"):
        raise VLMIGError(
            "trust_remote_code in a recipe: a file must not allow code to run; expected a base LM "
            "that transformers knows by itself"
        )
    if not isinstance(model.get("from", ""), str):
        raise VLMIGError(
            f"model has from {model['from']!r}; expected a checkpoint's name or folder"
        )
    if (adapter := model.get("adapter", "kept")) not in ("new", "kept", "doubled"):
        raise VLMIGError(f"model, adapter is {adapter!r}; expected new, kept or doubled")
    known = VLMIGConfig.__annotations__
    check_settings({name: value for name, value in model.items() if name in known})


def name_source(entry: dict[str, Any]) -> str:
    """Name a source as its recipe does, without the folders of this machine."""
    return " ".join(str(entry[name]) for name in ("source", "path") if name in entry)
