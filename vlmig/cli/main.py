"""The command line: ``vlmig COMMAND``.

Heavy imports happen inside the commands, so ``vlmig --help`` answers at once. Wrong input ends in
one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vlmig.cli import (
    app,
    ask,
    calibrate,
    convert,
    data_attributes,
    data_check,
    data_instruct,
    doctor,
    evaluate,
    imagine,
    lm_eval,
    report,
    tasks,
    train,
)
from vlmig.cli.options import Parser
from vlmig.errors import VLMIGError, one_line

ABOUT = "A language model that looks at imagined images before answering."
VERBOSE = "show the libraries' warnings; after an answer, the time of each step"
ROOM = "make room, and run the same command again"
ALLOWED = "choose a place that can be written, or change its permissions"
NETWORK = "check the network, or name files that are on this machine"
CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), ALLOWED),
}
"""What to do about an error of the system."""
DATA_COMMANDS = {
    "commands": {
        "check": (data_check, "Read every record and image, and list what is wrong with them."),
        "instruct": (data_instruct, "Generate LLaVA-style instruction data from Visual Genome."),
        "attributes": (data_attributes, "Write what Visual Genome says of nouns, as a benchmark."),
    }
}
COMMANDS: dict[str, Any] = {
    "answer and imagine": {
        "ask": (ask, "Answer a question with imagined images, or with yours."),
        "app": (app, "Open a page on this machine to ask, look and mix."),
        "imagine": (imagine, "Generate images and store their features; maintain the store."),
    },
    "measure": {
        "eval": (evaluate, "Evaluate on benchmark tasks and write a report."),
        "tasks": (tasks, "List the tasks of vlmig eval, and which of their files are there."),
        "report": (report, "Write the report of a results folder again, or compare two."),
        "calibrate": (calibrate, "Fit --k auto to a run of vlmig eval --k 0,10."),
        "lm-eval": (lm_eval, "Run lm-eval tasks with images (see vlmig lm-eval run --help)."),
    },
    "train": {
        "train": (train, "Train an adapter from a recipe, or print what the recipe would do."),
        "data": (
            DATA_COMMANDS,
            "Check training data, generate instruction data, count attributes.",
        ),
    },
    "set up": {
        "convert": (convert, "Import a published vLMIG, LaMI or LLaVA checkpoint."),
        "doctor": (doctor, "Show versions, devices and where each model component comes from."),
    },
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = build_parser().parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        _quiet(arguments.verbose)
        with _terminable():
            arguments.run(arguments)
    except VLMIGError as error:
        return _say(one_line(error, whole=True), 2)
    except BrokenPipeError:  # as of `vlmig tasks | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        is_remote = isinstance(error, ConnectionError | TimeoutError)
        cure = NETWORK if is_remote else CURES.get(error.errno or 0, "correct the path")
        return _say(f"{one_line(error)}; {cure}", 2)
    except _Terminated:
        return _say("terminated; run the same command again to resume", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return _say("interrupted; run the same command again to resume", 128 + signal.SIGINT)
    return 0


class _Terminated(BaseException):
    """The process got SIGTERM."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a block as Ctrl-C does: by an exception, so that it is told how to go on."""

    def stop(*_: object) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # only the main thread can listen
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str, status: int) -> int:
    """Print the one line of an error; return the exit status."""
    print(f"vlmig: {text}", file=sys.stderr)
    return status


def build_parser() -> argparse.ArgumentParser:
    """Describe all commands; ``parse_args`` of the result parses without running anything."""
    parser = Parser(prog="vlmig", description=ABOUT)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.set_defaults(verbose=False)
    _add_commands(parser, COMMANDS)
    return parser


def _add_commands(parser: argparse.ArgumentParser, groups: dict[str, Any]) -> None:
    """Add commands, which the parser's help lists by group."""
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS
    )
    parser.usage = "%(prog)s COMMAND [options]"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"{parser.prog} COMMAND --help lists the options of a command."
    for title, group in groups.items():
        parser.description = f"{parser.description}\n\n{title}:"
        for name, (module, text) in group.items():
            parser.description += f"\n  {name:<11}{text}"
            if isinstance(module, dict):
                _add_commands(commands.add_parser(name, description=text), module)
                continue
            settings = getattr(module, "PARSER", {})
            sub = commands.add_parser(name, description=text, **settings)
            if not settings:
                sub.add_argument("--verbose", action="store_true", help=VERBOSE)
            module.add_options(sub)
            sub.set_defaults(run=module.run)


class _Version(argparse.Action):
    """Print the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import vlmig

        print(f"vlmig {vlmig.__version__}")
        parser.exit()


def _quiet(verbose: bool) -> None:
    """Keep the libraries' progress bars and warnings off the terminal unless --verbose is given."""
    import logging
    import warnings

    logging.basicConfig(level=logging.WARNING if verbose else logging.ERROR, format="%(message)s")
    logging.getLogger("vlmig").setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:
        warnings.filterwarnings("ignore")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
