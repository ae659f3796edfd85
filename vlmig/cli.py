"""The command line: ``vlmig ask | imagine | eval | calibrate | train | data | lm-eval | report | convert | doctor``.

Imports are lazy, so that help answers at once. What a user can get wrong ends in one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from vlmig import commands, data_commands
from vlmig.argument_types import each_pictures, numbers, pictures, shard, size, words
from vlmig.errors import VLMIGError

POLICIES = ["subject", "question", "sentences", "option"]
"""As in ``vlmig.config``, which takes seconds to import."""


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


class _Parser(argparse.ArgumentParser):
    """Report a wrong argument in one line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


class _Version(argparse.Action):
    """Print the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import vlmig

        print(f"vlmig {vlmig.__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Describe all commands."""
    parser = _Parser(prog="vlmig", description="A language model that imagines pictures before it answers.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and end")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument(
            "--verbose", action="store_true", help="say where the time goes, and show the libraries' warnings"
        )
        return sub

    ask = command("ask", commands.ask, "answer a question with imagined pictures")
    _ask_options(ask)
    _reading_options(ask)
    _model_options(ask)

    imagine = command("imagine", commands.imagine, "imagine pictures and keep their features in the store")
    _imagine_options(imagine)
    _model_options(imagine)

    evaluate = command("eval", commands.evaluate, "measure tasks")
    _eval_options(evaluate)
    _reading_options(evaluate)
    _model_options(evaluate)

    calibrate = command("calibrate", commands.calibrate, "set when --k auto stops, by a run of vlmig eval --k 0,10")
    calibrate.add_argument("folder", type=Path, help="folder of the run, whose items are not asked about later")
    calibrate.add_argument("--model", type=Path, required=True, help="folder of the checkpoint, which is written to")

    train = command("train", commands.train, "train an adapter by a recipe")
    _train_options(train)

    _data_command(subparsers)

    # Whatever follows is lm-eval's, --help too: none of it begins with a prefix of ours.
    text = "run any task of lm-eval with pictures; its options (see vlmig lm-eval run --help)"
    lm_eval = subparsers.add_parser("lm-eval", help=text, add_help=False, prefix_chars="\0")
    lm_eval.add_argument("arguments", nargs=argparse.REMAINDER)
    lm_eval.set_defaults(run=commands.lm_eval, verbose=False)

    report = command("report", commands.report, "render report.html again from a results folder, or compare two")
    _report_options(report)

    convert = command("convert", commands.convert, "import a published vLMIG, LaMI or LLaVA checkpoint")
    _convert_options(convert)

    doctor = command(
        "doctor", commands.doctor, "show versions, devices, where each component loads from, and what is missing"
    )
    doctor.add_argument("--model", default="pocket")
    return parser


def _ask_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("question", help="may hold marks <image> where pictures stand")
    sub.add_argument(
        "--choices", type=words, help="comma-separated answers; a text or the likeliest next words without"
    )
    sub.add_argument(
        "--k", type=pictures, help="pictures: a number (default: 6, or none with --image), or auto: as many as needed"
    )
    sub.add_argument("--prompt", help="what to imagine (default: the question's subject)")
    sub.add_argument(
        "--policy", choices=POLICIES[:3], help="what of the question to imagine (default: the checkpoint's)"
    )
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--mix", help="prob, logit, geometric or evidence (default: the checkpoint's)")
    sub.add_argument("--weights", help="uniform, clip, doubled or entropy (default: the checkpoint's)")
    sub.add_argument("--html", type=Path, help="write the answer with its pictures as a page")
    given = sub.add_argument_group("given pictures: in the text with early fusion, else in the place of imagined ones")
    given.add_argument("--image", type=Path, action="append", default=[], help="a picture; may be given again")
    given.add_argument("--video", type=Path, help="a video, whose frames follow as pictures")
    given.add_argument("--frames", type=int, default=8, help="frames of it, evenly spread (default: %(default)s)")
    parts, text = ("IMAGE", "QUESTION", "ANSWER"), "a demonstration that comes first; may be given again"
    given.add_argument("--shot", nargs=3, action="append", default=[], metavar=parts, help=text)
    given.add_argument("--steps", action="store_true", help="think step by step before the answer")


def _report_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", type=Path, metavar="OUT", help="what vlmig eval --out wrote")
    sub.add_argument("other", type=Path, metavar="OTHER", nargs="?", help="a second run, to compare item by item")
    sub.add_argument("--out", type=Path, help="file of the page (default: OUT/report.html, or OUT/against_OTHER.html)")
    sub.add_argument("--store", type=Path, help="where the runs' pictures are")


def _convert_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "source", type=Path, help="a file of weights or a folder; or a LLaVA of transformers, or its hub id"
    )
    sub.add_argument(
        "--language-model", help="hub id or folder of the LM it was trained around; a LLaVA brings its own"
    )
    sub.add_argument("--vision", help="open_clip encoder (default: ViT-B-32/openai, or the LLaVA's own)")
    sub.add_argument(
        "--generator", default="stabilityai/sdxl-turbo", help="text-to-image pipeline (default: %(default)s)"
    )
    sub.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")


def _imagine_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("prompt", nargs="*")
    sub.add_argument("--k", type=int, default=6)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument(
        "--policy", choices=POLICIES[:3], default="question", help="what of a prompt to imagine (default: all)"
    )
    sub.add_argument("--out", type=Path, help="folder to write the pictures to as PNG")
    many = sub.add_argument_group("many prompts: resumes by itself, in parts under torchrun or with --shard")
    many.add_argument(
        "--prompts", help="file with a prompt on each line, .jsonl, .csv, or a dataset's folder or hub id"
    )
    many.add_argument("--column", default="prompt", help="field of .jsonl, .csv or dataset (default: prompt)")
    many.add_argument("--split", default="train", help="split of a dataset (default: train)")
    many.add_argument("--shard", type=shard, help="I/N: only part I of N of the prompts (default: torchrun's rank)")
    many.add_argument(
        "--report", type=Path, help="write alignment, diversity and redraws of each prompt to a .jsonl file"
    )
    care = sub.add_argument_group("looking after the store")
    care.add_argument("--stats", action="store_true", help="only say what the store holds")
    care.add_argument(
        "--mend", action="store_true", help="check every entry, and write the store anew without damaged ones"
    )
    care.add_argument("--merge", type=Path, nargs="+", metavar="STORE", help="take over what other stores hold")


def _eval_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--tasks",
        type=words,
        required=True,
        help="comma-separated tasks: names, with @split for another split, or .yaml files",
    )
    text = "comma-separated numbers of pictures, or auto: as many as each answer needs (default: 0,6)"
    sub.add_argument("--k", type=each_pictures, default=[0, 6], help=text)
    sub.add_argument("--out", type=Path, required=True, help="folder for results.json, samples and report.html")
    sub.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("VLMIG_DATA"),
        help="folder of benchmark files (or VLMIG_DATA; default: download)",
    )
    sub.add_argument("--limit", type=int, help="only the first N items of each task")
    sub.add_argument(
        "--subset", choices=["all", "covered"], default="all", help="covered: only what the pocket world can draw"
    )
    sub.add_argument("--seed", type=numbers, default=[0], help="comma-separated imagination seeds")
    sub.add_argument("--mix", type=words, default=[], help="further mixing rules: prob, logit, geometric, evidence")
    sub.add_argument(
        "--weights", type=words, default=[], help="further weights: uniform, clip, doubled, entropy, learned"
    )
    sub.add_argument(
        "--control",
        type=words,
        help="what stands beside the pictures: none,blank,shuffled,caption,few-shot (default: all of them; with --k auto alone not shuffled)",
    )
    sub.add_argument(
        "--calibrated", action="store_true", help="divide by the LM's prediction for a content-free question"
    )
    sub.add_argument(
        "--policy",
        choices=["item", *POLICIES],
        help="what to imagine (default: the task's way, mostly item, what the item is about, once for all its wordings)",
    )


def _train_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("recipe", type=Path, help="a YAML file, or the name of a recipe of the package, such as pocket")
    sub.add_argument("--out", type=Path, help="folder of the checkpoint; the same command goes on with a stopped run")
    sub.add_argument(
        "--data", default=os.environ.get("VLMIG_DATA"), help="folder of the recipe's sources (or VLMIG_DATA)"
    )
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe, e.g. stages.0.steps=100; may be given again",
    )
    sub.add_argument("--plan", action="store_true", help="only say what would run: parameters, memory, steps, storage")
    _store_options(sub)


def _data_command(subparsers: argparse._SubParsersAction[_Parser]) -> None:
    text = "look after training data"
    data = subparsers.add_parser("data", help=text, description=text)
    works = data.add_subparsers(dest="work", required=True, metavar="COMMAND", parser_class=_Parser)
    text = "read every record and every picture of training data, and say what is wrong with them"
    sub = works.add_parser("check", help=text, description=text)
    sub.set_defaults(run=data_commands.check_data, verbose=False)
    sub.add_argument("path", help="a folder, a .jsonl, .csv, .parquet or .tar file, or a recipe (.yaml)")
    sub.add_argument("--source", help="what it is, such as visual_genome or table (default: told by the path)")
    for name, text in (
        ("--option", "an option of the source, e.g. min_side=8; may be given again"),
        ("--curate", "tell what a rule would drop, e.g. min_words=3; may be given again"),
    ):
        sub.add_argument(name, action="append", default=[], metavar="KEY=VALUE", help=text)
    sub.add_argument(
        "--data", type=Path, default=os.environ.get("VLMIG_DATA"), help="folder that paths start from (or VLMIG_DATA)"
    )
    sub.add_argument("--limit", type=int, help="only the first N records of each source")
    sub.add_argument("--max-bad", type=float, default=0.1, help="largest share of bad records (default: 0.1)")
    sub.add_argument(
        "--model",
        default="pocket",
        help="whose encoder compares for min_alignment, whose tokenizer cuts wikitext (default: pocket)",
    )
    sub.set_defaults(imaginer=None)
    _store_options(sub)
    sub.add_argument("--out", type=Path, help="write a page with samples and the bad records")
    text = "have a language model write LLaVA's kinds of instruction data about the pictures of Visual Genome"
    _instruct_options(works.add_parser("instruct", help=text, description=text))


def _instruct_options(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(run=data_commands.instruct, verbose=False)
    sub.add_argument("path", metavar="VG_FOLDER", help="folder with region_descriptions.json and the pictures")
    sub.add_argument("--out", type=Path, required=True, help="folder of the rows; the same command goes on there")
    sub.add_argument("--teacher", required=True, help="who writes: a chat model's folder, hub id or name at --endpoint")
    sub.add_argument("--endpoint", metavar="URL", help="address that speaks OpenAI's protocol (default: this machine)")
    sub.add_argument("--key-variable", metavar="NAME", help="environment variable of its key (default: OPENAI_API_KEY)")
    kinds = ["conversation", "detail", "reasoning"]
    sub.add_argument("--kinds", type=words, default=kinds, help=f"what to write (default: {','.join(kinds)})")
    for name, kind, default, text in (
        ("limit", int, None, "only the first N images"),
        ("regions", int, 16, "most phrases, and most boxes, that the teacher is told of an image"),
        ("seed", int, 0, "of the choice of phrases, questions and words"),
        ("retries", int, 2, "how often a reply of no use is asked for again"),
        ("parallel", int, None, "requests to an endpoint at a time (default: 4)"),
        ("timeout", float, 120.0, "seconds to wait for an endpoint's next byte"),
        ("max-tokens", int, 800, "longest reply"),
        ("temperature", float, 0.7, "0: always the likeliest token"),
        ("price-in", float, None, "price of a million tokens of prompt"),
        ("price-out", float, None, "price of a million tokens of reply"),
        ("max-cost", float, None, "stop when the replies cost this much"),
        ("max-rejected", float, 0.5, "stop when a larger share of at least 20 is rejected"),
    ):
        told = f"{text} (default: %(default)s)" if default is not None else text
        sub.add_argument(f"--{name}", type=kind, default=default, metavar="N" if kind is int else "X", help=told)


def _reading_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--protocol",
        choices=["default", "reference"],
        help="reference: predict and mix as the published code does (docs/fidelity.md; default: the checkpoint's)",
    )
    sub.add_argument("--quantize", choices=["8bit", "4bit"], help="keep the language model's weights in so many bits")


def _model_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", default="pocket", help="pocket, a checkpoint folder, or a hub id (default: pocket)")
    _store_options(sub)
    sub.add_argument(
        "--imaginer",
        help="another source of pictures: a diffusers pipeline, retrieval:PLACE, folder:PLACE, prior:NAME, text, blank",
    )


def _store_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--store", type=Path, help="folder of imagined features (default: VLMIG_STORE or the user's cache)"
    )
    sub.add_argument("--store-limit", type=size, help="keep at most this much, such as 20GB (default: everything)")
    sub.add_argument("--no-pictures", action="store_true", help="keep features only, not the pictures")


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


if __name__ == "__main__":
    sys.exit(main())
