"""Rebuild the pocket world from nothing: ``python -m vlmig.pocket [stage ...]`` (all stages, in order, without arguments)."""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

from vlmig.pocket import generator
from vlmig.pocket.concepts import FOLDER

STAGES = {
    "autoencoder": lambda work: generator.train_autoencoder(FOLDER / "model" / "generator", work),
    "generator": lambda work: generator.train_generator(FOLDER / "model" / "generator", work),
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
