"""Make the embedded generator: ``python -m tools.generator train``, again after any interruption;
then ``distil``, then ``export``."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from tools.generator.autoencoder import encode_pool, scene_pools, train_autoencoder
from tools.generator.distillation import distil
from tools.generator.transformer import export, train_transformer
from tools.pocket.encoder import train_encoder

COMMANDS = ("autoencoder", "encoder", "train", "distil", "export")


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m tools.generator", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "--state", type=Path, default=Path("runs/generator"), help="folder of everything unfinished"
    )
    parser.add_argument("--autoencoder-steps", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=3000, help="steps of the transformer")
    parser.add_argument("--distil-steps", type=int, default=400, help="steps of the student")
    parser.add_argument("--out", type=Path, help="where export writes; default: STATE/exported")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.state.mkdir(parents=True, exist_ok=True)
    if args.command != "export":
        (args.state / "pid").write_text(f"{os.getpid()}\n")
    if args.command in ("distil", "export") and not (args.state / "transformer.pt").exists():
        parser.error(f"{args.state} has no checkpoint of the transformer yet")
    autoencoder = train_autoencoder(args.state, args.autoencoder_steps)
    if args.command == "train":
        train_transformer(args.state, autoencoder, args.steps)
    elif args.command == "encoder":
        pools = scene_pools(autoencoder, args.state)
        train_encoder(args.state / "vision_encoder", args.state, pools=pools, steps=1400, batch=192)
    elif args.command == "distil":
        distil(args.state, autoencoder, args.distil_steps)
    elif args.command == "export":
        out = args.out or args.state / "exported"
        logging.info("step %d written to %s", export(args.state, autoencoder, out), out)
    else:
        encode_pool(autoencoder, args.state)


if __name__ == "__main__":
    main()
