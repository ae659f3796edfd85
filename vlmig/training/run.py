"""From a recipe to a checkpoint: data, stages, card. A stopped run goes on with the same command."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import Accelerator, InitProcessGroupKwargs

from vlmig.checkpoint import write_json
from vlmig.errors import VLMIGError
from vlmig.predictor import VLMIG
from vlmig.store import FeatureStore
from vlmig.training.loop import LOG, STATE, fit
from vlmig.training.material import Material
from vlmig.training.objective import Objective
from vlmig.training.parts import choose_trained, count_parameters, frozen_digest, has_lora
from vlmig.training.pictures import Pictures
from vlmig.training.recipe import Recipe, Stage
from vlmig.training.session import Probing, Session
from vlmig.training.start import start
from vlmig.training.steps import Steps

logger = logging.getLogger(__name__)

CONFIG = "config.json"
"""What of a checkpoint is written behind its weights."""
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
) -> VLMIG:
    """Run all stages of a recipe and write the checkpoint.

    Args:
        out: becomes the checkpoint's folder; ``out/training`` keeps recipe, logs, lists of bad records and resumable states.
        data: folder against which the sources' paths are resolved first.
        store: where features are kept; the user's cache when None.
        own: further sources by name.
        probe: measured beside the validation loss.

    Raises:
        VLMIGError: ``out`` holds a run of another recipe; anything wrong with model or data; too many bad records.
    """
    accelerator = Accelerator(
        mixed_precision="no" if recipe.precision == "fp32" else recipe.precision,
        log_with=recipe.tracker,
        project_dir=out / "training",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    finished = _claim(recipe, out, accelerator)
    if finished:
        logger.warning("%s is trained already; choose another --out to train anew", out)
        return VLMIG.from_pretrained(out, store=store)
    if recipe.tracker:
        accelerator.init_trackers("vlmig", config={"recipe": json.dumps(recipe.resolved())})
    model = start(recipe, store)
    pictures = Pictures(model.imagination, model.model.blank_features, recipe.features == "stored", recipe.seed)
    session = Session(recipe, out / "training", model, accelerator, pictures, data, own or {}, probe)
    told = [_stage(session, number, stage) for number, stage in enumerate(recipe.stages)]
    accelerator.end_training()
    if accelerator.is_main_process:
        _write(model, recipe, told, out)
    accelerator.wait_for_everyone()
    model.model.eval()
    return model


def _claim(recipe: Recipe, out: Path, accelerator: Accelerator) -> bool:
    """See that ``out`` is new or this recipe's own; return whether it is finished."""
    path = out / "training" / "recipe.json"
    wanted = json.loads(json.dumps(recipe.deciding()))
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        if differing:
            name = differing[0]
            raise VLMIGError(
                f"{out} was begun with another recipe: {name} is {_short(found.get(name))} there, {_short(wanted[name])} here; "
                "choose another --out, or remove it"
            )
    elif (out / CONFIG).exists():
        raise VLMIGError(f"{out} holds a checkpoint that this command did not begin; choose another --out")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not path.exists():
        try:
            write_json(path, wanted)
        except OSError as error:
            raise VLMIGError(f"cannot write to {out}: {error}; choose another --out") from error
    return (out / CONFIG).exists()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _stage(session: Session, number: int, stage: Stage) -> dict[str, Any]:
    """Run one stage, or what is left of it; return what the card says of it."""
    network = session.model.model.to(session.accelerator.device)
    choose_trained(network, stage.trains, stage.lora)
    before = frozen_digest(network)
    data = Material(session, number, stage)
    steps = Steps(session, data, stage)
    log = fit(
        Objective(network),
        steps.losses,
        stage.optimisation(data.steps),
        session.folder / stage.name,
        accelerator=session.accelerator,
        measure=steps.measure,
        save_seconds=session.recipe.save_seconds,
        log_every=session.recipe.log_every,
    )
    if frozen_digest(network) != before:
        raise RuntimeError(f"stage {stage.name} changed what it was to keep: expected only {stage.trains} to train")
    measured = [line for line in log if "validation" in line or "probe" in line]
    return {
        "name": stage.name,
        "steps": data.steps,
        "batch": stage.batch,
        "learning_rate": stage.learning_rate,
        "trains": stage.trains,
        "parameters": sum(trained for trained, _ in count_parameters(network).values()),
        "data": data.told,
        "measured": measured[-1] if measured else {},
    }


def _write(model: VLMIG, recipe: Recipe, told: list[dict[str, Any]], out: Path) -> None:
    """Write the checkpoint with its card; the states are no longer needed."""
    packages = ("vlmig", "torch", "transformers", "accelerate")
    model.config.trained = True
    model.config.training = {
        "seed": recipe.seed,
        "precision": recipe.precision,
        "stages": told,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    moved = any("language_model" in stage.trains for stage in recipe.stages) or has_lora(model.model)
    model.model.save_pretrained(out, save_base=moved)
    for state in (out / "training").glob(f"*/{STATE}-*"):
        shutil.rmtree(state)


def read_log(out: Path, stage: str) -> list[dict[str, Any]]:
    """Read a stage's log: a mapping per logged step.

    Raises:
        VLMIGError: there is none.
    """
    path = out / "training" / stage / LOG
    if not path.exists():
        raise VLMIGError(f"no log at {path}; expected the --out of vlmig train, and the name of one of its stages")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
