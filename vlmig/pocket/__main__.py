"""Rebuild the pocket world from nothing: ``python -m vlmig.pocket [stage ...]`` (all stages, in order, without arguments)."""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

from vlmig.pocket import adapter, calibration, encoder, generator, labels, language
from vlmig.pocket.concepts import FOLDER

MODEL = FOLDER / "model"
STAGES = {
    "labels": lambda work: labels.label_concepts(),
    "autoencoder": lambda work: generator.train_autoencoder(MODEL / "generator", work),
    "latents": lambda work: generator.encode_pool(MODEL / "generator", work),
    "encoder": lambda work: encoder.train_encoder(MODEL / "vision_encoder", work),
    "language": lambda work: language.train_language_model(MODEL / "language_model", work),
    "generator": lambda work: generator.train_generator(MODEL / "generator", work),
    "adapter": lambda work: adapter.train_pocket_adapter(MODEL, work),
    "calibration": lambda work: calibration.calibrate(MODEL, work),
}


def main() -> None:
    """Run the stages named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m vlmig.pocket", description=__doc__)
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], help=f"of {', '.join(STAGES)}; all when omitted")
    parser.add_argument("--work", type=Path, default=Path("runs/pocket"), help="checkpoints and caches")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    warnings.filterwarnings("ignore", category=FutureWarning)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stages or STAGES:
        STAGES[stage](arguments.work)


if __name__ == "__main__":
    main()
