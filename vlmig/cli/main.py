"""The command line: ``vlmig ask | imagine | eval | calibrate | train | data | lm-eval | report | convert | doctor``.

Imports are lazy, so that help answers at once. What a user can get wrong ends in one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from vlmig.cli.ask import ask, ask_options
from vlmig.cli.data import data_command
from vlmig.cli.evaluate import (
    calibrate,
    eval_options,
    evaluate,
    lm_eval,
    report,
    report_options,
)
from vlmig.cli.imagine import imagine, imagine_options
from vlmig.cli.options import Parser, model_options, reading_options
from vlmig.cli.tools import convert, convert_options, doctor
from vlmig.cli.train import train, train_options
from vlmig.errors import VLMIGError


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = build_parser().parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        _quiet(arguments.verbose)
        arguments.run(arguments)
    except VLMIGError as error:
        print(f"vlmig: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vlmig: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


class _Version(argparse.Action):
    """Print the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import vlmig

        print(f"vlmig {vlmig.__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Describe all commands."""
    parser = Parser(prog="vlmig", description="A language model that imagines pictures before it answers.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and end")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument(
            "--verbose", action="store_true", help="say where the time goes, and show the libraries' warnings"
        )
        return sub

    sub = command("ask", ask, "answer a question with imagined pictures")
    ask_options(sub)
    reading_options(sub)
    model_options(sub)

    sub = command("imagine", imagine, "imagine pictures and keep their features in the store")
    imagine_options(sub)
    model_options(sub)

    sub = command("eval", evaluate, "measure tasks")
    eval_options(sub)
    reading_options(sub)
    model_options(sub)

    sub = command("calibrate", calibrate, "set when --k auto stops, by a run of vlmig eval --k 0,10")
    sub.add_argument("folder", type=Path, help="folder of the run, whose items are not asked about later")
    sub.add_argument("--model", type=Path, required=True, help="folder of the checkpoint, which is written to")

    sub = command("train", train, "train an adapter by a recipe")
    train_options(sub)

    data_command(subparsers)

    # Whatever follows is lm-eval's, --help too: none of it begins with a prefix of ours.
    text = "run any task of lm-eval with pictures; its options (see vlmig lm-eval run --help)"
    sub = subparsers.add_parser("lm-eval", help=text, add_help=False, prefix_chars="\0")
    sub.add_argument("arguments", nargs=argparse.REMAINDER)
    sub.set_defaults(run=lm_eval, verbose=False)

    sub = command("report", report, "render report.html again from a results folder, or compare two")
    report_options(sub)

    sub = command("convert", convert, "import a published vLMIG, LaMI or LLaVA checkpoint")
    convert_options(sub)

    sub = command("doctor", doctor, "show versions, devices, where each component loads from, and what is missing")
    sub.add_argument("--model", default="pocket")
    return parser


def _quiet(verbose: bool) -> None:
    """Keep the libraries' progress bars and advice off the terminal unless asked for."""
    import logging
    import warnings

    logging.basicConfig(level=logging.WARNING if verbose else logging.ERROR, format="%(message)s")
    logging.getLogger("vlmig").setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:
        warnings.filterwarnings("ignore")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
