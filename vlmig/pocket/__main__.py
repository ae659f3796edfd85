"""Rebuild the pocket world from nothing: ``python -m vlmig.pocket [stage ...]``; all stages, in order, by default.

Each stage goes on where it was stopped. Steps and batch sizes are in ``configs/pocket.yaml``.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import yaml

from vlmig.pocket import adapter, calibration, encoder, generator, labels, language
from vlmig.pocket.concepts import FOLDER

MODEL = FOLDER / "model"
CONFIG = Path("configs/pocket.yaml")
STAGES: dict[str, Any] = {
    "labels": lambda work: labels.label_concepts(),
    "autoencoder": lambda work, **size: generator.train_autoencoder(MODEL / "generator", work, **size),
    "latents": lambda work: generator.encode_pool(MODEL / "generator", work),
    "encoder": lambda work, **size: encoder.train_encoder(MODEL / "vision_encoder", work, **size),
    "language": lambda work, **size: language.train_language_model(MODEL / "language_model", work, **size),
    "adapter": lambda work, **size: adapter.train_pocket_adapter(MODEL, work, **size),
    "generator": lambda work, **size: generator.train_generator(MODEL / "generator", work, **size),
    "calibration": lambda work: calibration.calibrate(MODEL, work),
}


def main() -> None:
    """Run the stages named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m vlmig.pocket", description=__doc__)
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(STAGES)}; all when omitted")
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"steps and batch sizes (default: {CONFIG})")
    parser.add_argument("--work", type=Path, default=Path("runs/pocket"), help="checkpoints and caches")
    arguments = parser.parse_args()
    unknown = [stage for stage in arguments.stages if stage not in STAGES]
    if unknown:
        parser.error(f"unknown stage {unknown[0]!r}; expected some of {', '.join(STAGES)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    warnings.filterwarnings("ignore", category=FutureWarning)
    sizes = yaml.safe_load(arguments.config.read_text(encoding="utf-8"))
    arguments.work.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stages or STAGES:
        STAGES[stage](arguments.work, **sizes.get(stage, {}))


if __name__ == "__main__":
    main()
