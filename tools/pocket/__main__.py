"""Rebuild the pocket world from scratch: ``python -m tools.pocket [stage ...]``, by default all
stages in order.

An interrupted stage resumes. Steps and batch sizes are in ``world.yaml`` beside this file.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import yaml

from tools.pocket import (
    adapter,
    autoencoder,
    calibration,
    distillation,
    encoder,
    groups,
    labels,
    language,
    looks,
    several,
    smollm2,
    transformer,
)
from vlmig.pocket.concepts import FOLDER

MODEL = FOLDER / "model"
CONFIG = Path(__file__).with_name("world.yaml")
STAGES: dict[str, Any] = {
    "labels": lambda model, work: labels.label_concepts(),
    "autoencoder": lambda model, work, **size: autoencoder.train_autoencoder(
        model / "generator", work, **size
    ),
    "encoder": lambda model, work, **size: encoder.train_encoder(
        model / "vision_encoder",
        work,
        pools=autoencoder.scene_pools(model / "generator", work),
        grouped=groups.group_pools(model / "generator", work) if size.get("groups") else (),
        **size,
    ),
    "looks": lambda model, work, **size: looks.train_looks(model, work, **size),
    "language": lambda model, work, **size: language.train_language_model(
        model / "language_model", work, **size
    ),
    "adapter": lambda model, work, **size: adapter.train_pocket_adapter(model, work, **size),
    "smaller": lambda model, work, **size: adapter.train_pocket_adapter(model, work, **size),
    "generator": lambda model, work, **size: transformer.train_generator(
        model / "generator", work, **size
    ),
    "student": lambda model, work, **size: distillation.train_student(
        model / "generator", work, **size
    ),
    "several": lambda model, work, **size: several.teach_several(model / "generator", work, **size),
    "calibration": lambda model, work: calibration.calibrate(model, work),
    "smollm2": lambda model, work, **size: smollm2.train_smollm2_adapter(model, work, **size),
}


def main() -> None:
    """Run the stages given on the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.pocket", description=__doc__)
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(STAGES)}; all when omitted")
    parser.add_argument(
        "--config", type=Path, default=CONFIG, help=f"steps and batch sizes (default: {CONFIG})"
    )
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="folder to write (default: the embedded model)"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/pocket"), help="checkpoints and caches"
    )
    arguments = parser.parse_args()
    unknown = [stage for stage in arguments.stages if stage not in STAGES]
    if unknown:
        parser.error(f"unknown stage {unknown[0]!r}; expected some of {', '.join(STAGES)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    warnings.filterwarnings("ignore", category=FutureWarning)
    sizes = yaml.safe_load(arguments.config.read_text(encoding="utf-8"))
    arguments.work.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stages or STAGES:
        STAGES[stage](arguments.model, arguments.work, **sizes.get(stage, {}))


if __name__ == "__main__":
    main()
