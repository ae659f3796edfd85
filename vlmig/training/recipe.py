"""A recipe: what is trained, on what, in which stages. One YAML file, checked before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from vlmig.errors import VLMIGError

PARTS = ("projector", "fusion", "language_model", "lora")
PRECISIONS = ("fp32", "bf16", "fp16")
FEATURES = ("stored", "live")
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Optimisation:
    """How a loss is minimised; the schedule's names are those of ``transformers.get_scheduler``."""

    steps: int
    learning_rate: float
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


@dataclass(frozen=True)
class Stage:
    """One stage of training. Either ``steps`` or ``epochs``."""

    name: str
    data: list[dict[str, Any]]
    """Sources with their options (docs/training.md); ``weight`` is a source's share of the samples, its size when absent."""
    learning_rate: float
    batch: int
    """Samples per step, over all processes."""
    steps: int | None = None
    epochs: float | None = None
    """Passes over all pairs of the stage together."""
    micro_batch: int | None = None
    """Most samples that go through the model at a time in one process; more are accumulated."""
    trains: list[str] = field(default_factory=lambda: ["projector", "fusion"])
    """Parts: ``projector``, ``fusion``, ``language_model``, ``lora``. All others are frozen."""
    lora: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``peft.LoraConfig``."""
    schedule: str = "cosine_with_min_lr"
    schedule_options: dict[str, Any] = field(default_factory=dict)
    warmup: float = 0.03
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    clip: float | None = 1.0
    max_tokens: int = 100
    """Tokens of a caption; longer ones are cut."""
    blank_share: float = 0.15
    """Share of samples read beside the empty picture: what the model says without evidence (``mix: evidence`` needs it)."""
    mask_share: float = 0.2
    """Share of tokens that a masked LM has to guess."""

    def optimisation(self, steps: int) -> Optimisation:
        """Return what the loop needs to know."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(Optimisation) if hasattr(self, f.name)}
        return Optimisation(**{**own, "steps": steps})


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


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        changes: ``key=value`` with a dotted key, such as ``stages.0.steps=100``; values are YAML.

    Raises:
        VLMIGError: no such file, no YAML, an unknown or missing field, a value of the wrong kind.
    """
    values = _read(path)
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise VLMIGError(f"--set {change}; expected key=value, such as stages.0.steps=100")
        _change(values, key.split("."), yaml.safe_load(value), change)
    recipe = parse(Recipe, values, str(path))
    _check(recipe, str(path))
    return recipe


def _read(path: Path) -> dict[str, Any]:
    """Read a file, and beneath it the one it ``extends``."""
    if not path.is_file():
        raise VLMIGError(f"no recipe {path}; expected a YAML file such as configs/pocket.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VLMIGError(f"{path} is not YAML: {' '.join(str(error).split())}; correct it") from error
    if not isinstance(values, dict):
        raise VLMIGError(f"{path} holds a {type(values).__name__}; expected a mapping with model and stages")
    if (parent := values.pop("extends", None)) is not None:
        return _merged(_read(path.parent / parent), values)
    return values


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another; lists of equal length are laid element by element, so that a stage can be changed."""
    merged = dict(below)
    for key, value in above.items():
        old = below.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merged(old, value)
        elif key == "stages" and isinstance(old, list) and isinstance(value, list) and len(old) == len(value):
            merged[key] = [_merged(a, b) for a, b in zip(old, value, strict=True)]
        else:
            merged[key] = value
    return merged


def _change(values: Any, keys: list[str], value: Any, change: str) -> None:
    """Set one value deep inside."""
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(values, list) and key.isdigit() and int(key) < len(values):
            place: Any = int(key)
        elif isinstance(values, dict):
            place = key
        else:
            raise VLMIGError(f"--set {change}; there is no {'.'.join(keys[: depth + 1])} in the recipe")
        if last:
            values[place] = value
        else:
            values = values.setdefault(place, {}) if isinstance(values, dict) else values[place]


def parse(kind: type[Parsed], values: Any, where: str) -> Parsed:
    """Make a dataclass of a mapping.

    Raises:
        VLMIGError: unknown or missing fields, values of the wrong kind.
    """
    if not isinstance(values, Mapping):
        raise VLMIGError(f"{where} is {values!r}; expected a mapping of {', '.join(_names(kind))}")
    for name in values:
        if name not in _names(kind):
            near = difflib.get_close_matches(str(name), _names(kind), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise VLMIGError(f"{where} has {name!r}; expected some of {', '.join(_names(kind))}{hint}")
    needed = [f.name for f in dataclasses.fields(kind) if _required(f) and f.name not in values]  # type: ignore[arg-type]
    if needed:
        raise VLMIGError(
            f"{where} has no {needed[0]}; expected {', '.join(needed)} beside {', '.join(values) or 'nothing'}"
        )
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{where}, {name}") for name, value in values.items()})


def _names(kind: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


def _required(declared: dataclasses.Field) -> bool:
    return declared.default is dataclasses.MISSING and declared.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, where: str) -> Any:
    """Check one value; YAML reads 5e-4 as a text, which becomes a number here."""
    if get_origin(hint) is types.UnionType:
        if value is None:
            return None
        hint = next(own for own in get_args(hint) if own is not type(None))
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is list:
        if not isinstance(value, list):
            raise VLMIGError(f"{where} is {value!r}; expected a list")
        return [_value(get_args(hint)[0], one, f"{where}.{i}") for i, one in enumerate(value)]
    wanted = get_origin(hint) or hint
    if wanted is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        words = {int: "a whole number", float: "a number", str: "a text", dict: "a mapping", bool: "true or false"}
        raise VLMIGError(f"{where} is {value!r}; expected {words[wanted]}")
    return value


def _check(recipe: Recipe, where: str) -> None:
    """Refuse values that no run could use."""
    for name, value, known in (("precision", recipe.precision, PRECISIONS), ("features", recipe.features, FEATURES)):
        if value not in known:
            raise VLMIGError(f"{where}, {name} is {value!r}; expected one of {', '.join(known)}")
    if not recipe.stages:
        raise VLMIGError(f"{where} has no stages; expected at least one")
    names = [stage.name for stage in recipe.stages]
    if len(set(names)) < len(names) or not all(name.replace("_", "").replace("-", "").isalnum() for name in names):
        raise VLMIGError(
            f"{where} has the stages {', '.join(names)}; expected different names of letters, digits, _ and -"
        )
    for stage in recipe.stages:
        place = f"{where}, stage {stage.name},"
        if (stage.steps is None) == (stage.epochs is None):
            raise VLMIGError(f"{place} has steps={stage.steps} and epochs={stage.epochs}; expected one of them")
        unknown = [part for part in stage.trains if part not in PARTS]
        if unknown or not stage.trains:
            raise VLMIGError(f"{place} trains {stage.trains}; expected some of {', '.join(PARTS)}")
        if not stage.data:
            raise VLMIGError(f"{place} has no data; expected at least one source")
        positive = ("batch", "max_tokens", "learning_rate", "steps", "epochs", "micro_batch")
        wrong = [name for name in positive if (number := getattr(stage, name)) is not None and number <= 0]
        if wrong:
            raise VLMIGError(f"{place} has {wrong[0]}={getattr(stage, wrong[0])}; expected more than 0")
