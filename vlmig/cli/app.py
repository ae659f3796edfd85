"""``vlmig app``: a page on this machine to ask questions and look at the answers."""

from __future__ import annotations

import argparse
from functools import partial

from vlmig.cli import options
from vlmig.errors import VLMIGError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [options]"
    text = "a second model, whose answers stand beside the first's"
    options.add_language_model(options.add_model(parser))
    parser.add_argument("--beside", metavar="MODEL", help=text)
    text = "address to listen on (default: %(default)s, which only this machine reaches)"
    parser.add_argument("--host", default="127.0.0.1", help=text)
    text = "port to listen on; 0: any that is free (default: %(default)s)"
    parser.add_argument("--port", type=int, default=7860, metavar="N", help=text)
    options.add_store(parser)


def run(arguments: argparse.Namespace) -> None:
    from vlmig.app.desk import Desk
    from vlmig.app.server import Server, is_loopback
    from vlmig.app.worker import Worker

    if arguments.beside == arguments.model:
        raise VLMIGError(f"--beside {arguments.beside} is the model itself; expected another one")
    names = [name for name in (arguments.model, arguments.beside) if name]
    loaders = {}
    for name in names:
        chosen = argparse.Namespace(**{**vars(arguments), "model": name})
        loaders[name] = partial(options.load_model, chosen)
    worker = Worker(loaders)
    with Server(Desk(worker), names, arguments.host, arguments.port) as server:
        worker.start()
        print(f"{server.url}  (Ctrl-C ends it; the model is loaded meanwhile)", flush=True)
        if not is_loopback(arguments.host):
            print("anyone who reaches this address can ask, and send images", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")
