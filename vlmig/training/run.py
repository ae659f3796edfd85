"""From a recipe to a checkpoint: data, stages, card. A stopped run goes on with the same command."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch import nn

from vlmig.checkpoint import place_adapter, write_json
from vlmig.errors import VLMIGError
from vlmig.predictor import VLMIG
from vlmig.store import FeatureStore
from vlmig.training.loop import LOG, STATE, fit, optimizer_for
from vlmig.training.material import Material
from vlmig.training.objective import Objective
from vlmig.training.parts import choose_trained, count_parameters, frozen_digest
from vlmig.training.pictures import Pictures
from vlmig.training.recipe import Recipe
from vlmig.training.session import Probing, Session
from vlmig.training.start import start
from vlmig.training.steps import Steps

logger = logging.getLogger(__name__)

CONFIG = "config.json"
"""What of a checkpoint is written behind its weights."""
TRAINED = "trained.safetensors"
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
    if recipe.features == "stored" and store is not None and store.limit is not None:
        raise VLMIGError(
            "--store-limit beside features: stored; expected room for every picture: leave it out, or use live"
        )
    for stage in recipe.stages:
        optimizer_for([nn.Parameter(torch.zeros(1))], stage)  # what it refuses, it refuses before hours of encoding
    accelerator = _accelerator(recipe, out)
    if _claim(recipe, out, accelerator):
        logger.warning("%s is trained already; choose another --out to train anew", out)
        return VLMIG.from_pretrained(out, store=store)
    model = start(recipe, store)
    pictures = Pictures(model.imagination, model.model.blank_features, recipe.features == "stored", recipe.seed)
    session = Session(recipe, out / "training", model, accelerator, pictures, data, own or {}, probe)
    materials = [Material(session, number, stage) for number, stage in enumerate(recipe.stages)]
    told = [_stage(session, number, material) for number, material in enumerate(materials)]
    _describe(session.model, recipe, told)
    if accelerator.is_main_process:
        moved = any(part in ("language_model", "lora") for stage in recipe.stages for part in stage.trains)
        session.model.model.save_pretrained(out, save_base=moved)
        _clean(out)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    place_adapter(session.model.model).eval()
    return session.model


def _accelerator(recipe: Recipe, out: Path) -> Accelerator:
    """Start accelerate with the recipe's precision and tracker."""
    if recipe.precision == "fp16" and not torch.accelerator.is_available():
        raise VLMIGError("precision fp16 on a CPU; expected a GPU, or precision: bf16 or fp32")
    AcceleratorState._reset_state()  # of an earlier run in this process, perhaps of another precision
    try:
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # or torchrun's processes would not find each other
            mixed_precision="no" if recipe.precision == "fp32" else recipe.precision,
            log_with=recipe.tracker,
            project_dir=out / "training",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except (ImportError, ValueError) as error:
        raise VLMIGError(
            f"precision {recipe.precision}, tracker {recipe.tracker}: {' '.join(str(error).split())}; expected what this machine "
            "and accelerate have"
        ) from error
    if recipe.tracker:
        if not accelerator.log_with:
            raise VLMIGError(f"tracker {recipe.tracker} is not installed; install it with pip, or leave it out")
        accelerator.init_trackers("vlmig", config={"recipe": json.dumps(recipe.resolved())})
    return accelerator


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
    """Remove what only an unfinished run needs."""
    for state in [*(out / "training").glob(f"*/{STATE}-*"), *(out / "training").glob(f"*/{TRAINED}")]:
        shutil.rmtree(state) if state.is_dir() else state.unlink()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _stage(session: Session, number: int, data: Material) -> dict[str, Any]:
    """Run one stage, or what is left of it; return what the card says of it."""
    stage, network = session.recipe.stages[number], session.model.model
    if not session.sharded:  # accelerate places what it shards
        network.to(session.accelerator.device)
    choose_trained(network, stage.trains, stage.lora)
    before = frozen_digest(network)
    counts = count_parameters(network)
    parameters = sum(trained for trained, _ in counts.values())
    told = ", ".join(f"{name} {trained:,} of {trained + frozen:,}" for name, (trained, frozen) in counts.items())
    logger.info("stage %s trains %s parameters (%s)", stage.name, f"{parameters:,}", told)
    steps = Steps(session, number, stage, data)
    log, prepared = fit(
        Objective(network, stage.alignment),
        steps.losses,
        replace(stage, steps=data.steps),
        session.folder / stage.name,
        accelerator=session.accelerator,
        measure=steps.measure,
        save_seconds=session.recipe.save_seconds,
        log_every=session.recipe.log_every,
    )
    if session.sharded:
        session.model = _gathered(session, number, prepared)
    elif frozen_digest(network) != before:
        raise RuntimeError(f"stage {stage.name} changed what it was to keep: expected only {stage.trains} to train")
    measured = [line for line in log if "validation" in line or "probe" in line]
    return {
        "name": stage.name,
        "steps": data.steps,
        "batch": stage.batch,
        "learning_rate": stage.learning_rate,
        "trains": stage.trains,
        "parameters": parameters,
        "data": data.told,
        "measured": measured[-1] if measured else {},
    }


def _gathered(session: Session, number: int, prepared: nn.Module) -> VLMIG:
    """Make the model whole again whose parameters FSDP has spread over the processes; its frozen parts are loaded anew."""
    accelerator, stages = session.accelerator, session.recipe.stages[: number + 1]
    state = accelerator.get_state_dict(prepared)  # whole on the main process
    trained = {name for name, parameter in prepared.named_parameters() if parameter.requires_grad}
    if accelerator.is_main_process:
        kept = {name: value.contiguous() for name, value in state.items() if name in trained}
        save_file(kept, session.folder / stages[-1].name / TRAINED)
    accelerator.wait_for_everyone()
    model = start(session.recipe, session.model.imagination.store)
    for stage in stages:
        choose_trained(model.model, stage.trains, stage.lora)
        Objective(model.model).load_state_dict(load_file(session.folder / stage.name / TRAINED), strict=False)
    accelerator.wait_for_everyone()  # the files go when the run is over
    return model


def _describe(model: VLMIG, recipe: Recipe, told: list[dict[str, Any]]) -> None:
    """Note in the configuration, which the card tells, how the adapter was trained."""
    packages = ("vlmig", "torch", "transformers", "accelerate")
    model.config.trained = True
    model.config.training = {
        "seed": recipe.seed,
        "precision": recipe.precision,
        "stages": told,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def read_log(out: Path, stage: str) -> list[dict[str, Any]]:
    """Read a stage's log: a mapping per logged step.

    Raises:
        VLMIGError: there is none.
    """
    path = out / "training" / stage / LOG
    if not path.exists():
        raise VLMIGError(f"no log at {path}; expected the --out of vlmig train, and the name of one of its stages")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
