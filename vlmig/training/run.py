"""From a recipe to a checkpoint: data, stages, card. A stopped run goes on with the same
command."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch import nn

from vlmig.errors import VLMIGError, one_line
from vlmig.imagination.engine import Engine
from vlmig.imagination.store import FeatureStore
from vlmig.io.atomic import write_json
from vlmig.io.weights import written
from vlmig.models.checkpoint import place_adapter
from vlmig.predict.predictor import VLMIG
from vlmig.runtime import installed
from vlmig.training.images import ImageFeatures
from vlmig.training.loop import LOG, STATE, optimizer_for
from vlmig.training.material import Material
from vlmig.training.model import start
from vlmig.training.recipe import Recipe
from vlmig.training.session import Probing, Session
from vlmig.training.stage import TRAINED, _stage
from vlmig.training.states import ENDING

logger = logging.getLogger(__name__)
CONFIG = "config.json"
"""The last file of a checkpoint to be written: with it, the checkpoint is complete."""
PATIENCE = timedelta(days=2)
"""How long processes wait while one of them reads or encodes data."""


def train(
    recipe: Recipe,
    out: Path,
    *,
    data: Path | None = None,
    store: FeatureStore | None = None,
    own: Mapping[str, Callable] | None = None,
    probe: Probing | None = None,
    engine: Engine | None = None,
) -> VLMIG:
    """Run all stages of a recipe and write the checkpoint.

    Args:
        out: the checkpoint's folder; ``out/training`` keeps recipe, logs, lists of bad records and
            resumable states.
        data: folder that the sources' paths start from, if they exist there.
        store: keeps features; the user's cache when None.
        own: further sources by name.
        probe: measured together with the validation loss.
        engine: draws and encodes the images of the data in place of this process.

    Raises:
        VLMIGError: ``out`` holds a run of another recipe; anything wrong with model or data; too
            many bad records.
    """
    if recipe.features == "stored" and store is not None and store.limit is not None:
        raise VLMIGError(
            "--store-limit beside features: stored; expected room for every image: leave it out, "
            "or use live"
        )
    for stage in recipe.stages:  # a wrong schedule is refused before hours of encoding
        optimizer_for([nn.Parameter(torch.zeros(1))], stage)
    accelerator = _accelerator(recipe, out)
    if _claim(recipe, out, accelerator):
        logger.warning("%s is trained already; choose another --out to train anew", out)
        return VLMIG.from_pretrained(out, store=store)
    model = start(recipe, store)
    model.imagination.engine = engine
    blank, stored = model.model.blank_features, recipe.features == "stored"
    images = ImageFeatures(model.imagination, blank, stored, recipe.seed)
    folder = out / "training"
    session = Session(recipe, folder, model, accelerator, images, data, own or {}, probe)
    # All data is read first: a bad source is reported before hours of training.
    materials = [Material(session, number, stage) for number, stage in enumerate(recipe.stages)]
    stages = [_stage(session, number, material) for number, material in enumerate(materials)]
    _describe(session.model, recipe, stages)
    if accelerator.is_main_process:
        base_changed = bool({"language_model", "lora"} & recipe.trained)
        with written(out):
            session.model.model.save_pretrained(out, save_base=base_changed)
        _clean(out)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    place_adapter(session.model.model).eval()
    return session.model


def _accelerator(recipe: Recipe, out: Path) -> Accelerator:
    """Start accelerate with the recipe's precision and tracker."""
    if recipe.precision == "fp16" and not torch.accelerator.is_available():
        raise VLMIGError("precision fp16 on a CPU; expected a GPU, or precision: bf16 or fp32")
    AcceleratorState._reset_state()  # of an earlier run in this process
    try:
        accelerator = Accelerator(
            # Without it torchrun's processes would not find each other.
            cpu=not torch.accelerator.is_available(),
            mixed_precision="no" if recipe.precision == "fp32" else recipe.precision,
            log_with=recipe.tracker,
            project_dir=out / "training",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except (ImportError, ValueError) as error:
        raise VLMIGError(
            f"precision {recipe.precision}, tracker {recipe.tracker}: "
            f"{one_line(error, whole=True)}; expected what this machine and accelerate have"
        ) from error
    if recipe.tracker:
        if not accelerator.log_with:
            raise VLMIGError(
                f"tracker {recipe.tracker} is not installed; install it with pip, or leave it out"
            )
        accelerator.init_trackers("vlmig", config={"recipe": json.dumps(recipe.resolved())})
    return accelerator


def _claim(recipe: Recipe, out: Path, accelerator: Accelerator) -> bool:
    """Make sure that ``out`` is new or of this recipe; return whether its run is finished."""
    path = out / "training" / "recipe.json"
    wanted = json.loads(json.dumps(recipe.deciding()))
    if path.exists():
        recorded = json.loads(path.read_text(encoding="utf-8"))
        for name, value in wanted.items():
            if recorded.get(name) != value:
                raise VLMIGError(
                    f"{out} was begun with another recipe: {name} is {_short(recorded.get(name))} "
                    f"there, {_short(value)} here; choose another --out, or remove it"
                )
    elif (out / CONFIG).exists():
        raise VLMIGError(
            f"{out} holds a checkpoint that this command did not begin; choose another --out"
        )
    accelerator.wait_for_everyone()
    finished = (out / CONFIG).exists()
    if accelerator.is_main_process:
        try:
            if finished:
                _clean(out)
            elif not path.exists():
                write_json(path, wanted)
        except OSError as error:
            raise VLMIGError(f"cannot write to {out}: {error}; choose another --out") from error
    return finished


def _clean(out: Path) -> None:
    """Remove the files that only an unfinished run needs."""
    for pattern in (f"*/{STATE}-*", f"*/{TRAINED}", f"*{ENDING}"):
        for state in list((out / "training").glob(pattern)):
            shutil.rmtree(state) if state.is_dir() else state.unlink()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _describe(model: VLMIG, recipe: Recipe, stages: list[dict[str, Any]]) -> None:
    """Record in the configuration, for the model card, how the adapter was trained."""
    packages = ("vlmig", "torch", "transformers", "accelerate")
    model.config.trained = True
    model.config.training = {
        "seed": recipe.seed,
        "precision": recipe.precision,
        "stages": stages,
        "versions": {name: installed(name) for name in packages},
    }


def read_log(out: Path, stage: str) -> list[dict[str, Any]]:
    """Read a stage's log: a mapping per logged step.

    Raises:
        VLMIGError: there is none.
    """
    path = out / "training" / stage / LOG
    if not path.exists():
        raise VLMIGError(
            f"no log at {path}; expected the --out of vlmig train, and the name of one of its "
            "stages"
        )
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
