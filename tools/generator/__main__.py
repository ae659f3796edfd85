"""Make the embedded generator: ``python -m tools.generator train``, again after any interruption;
then ``export``."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from tools.generator.autoencoder import encode_pool, train_autoencoder
from tools.generator.transformer import export, train_transformer


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m tools.generator", description=__doc__)
    parser.add_argument("command", choices=("autoencoder", "train", "export"))
    parser.add_argument(
        "--state", type=Path, default=Path("runs/generator"), help="folder of everything unfinished"
    )
    parser.add_argument("--autoencoder-steps", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=20000, help="steps of the transformer")
    parser.add_argument("--out", type=Path, help="where export writes; default: STATE/exported")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.state.mkdir(parents=True, exist_ok=True)
    if args.command != "export":
        (args.state / "pid").write_text(f"{os.getpid()}\n")
    elif not (args.state / "transformer.pt").exists():
        parser.error(f"{args.state} has no checkpoint of the transformer yet")
    autoencoder = train_autoencoder(args.state, args.autoencoder_steps)
    if args.command == "train":
        train_transformer(args.state, autoencoder, args.steps)
    elif args.command == "export":
        out = args.out or args.state / "exported"
        logging.info("step %d written to %s", export(args.state, autoencoder, out), out)
    else:
        encode_pool(autoencoder, args.state)


if __name__ == "__main__":
    main()
