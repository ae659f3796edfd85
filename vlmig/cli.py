"""The command line: ``vlmig ask | imagine | eval | report | convert | doctor``.

Imports are lazy, so that help answers at once. What a user can get wrong ends in one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vlmig.errors import VLMIGError

if TYPE_CHECKING:
    from vlmig.predictor import VLMIG


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


def build_parser() -> argparse.ArgumentParser:
    """Describe all commands."""
    parser = _Parser(prog="vlmig", description="A language model that imagines pictures before it answers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument(
            "--verbose", action="store_true", help="say where the time goes, and show the libraries' warnings"
        )
        return sub

    ask = command("ask", _ask, "answer a question with imagined pictures")
    ask.add_argument("question")
    ask.add_argument("--choices", type=_words, help="comma-separated answers; the likeliest next words without")
    ask.add_argument("--k", type=int, default=6, help="pictures to imagine (default: 6; 0: text only)")
    ask.add_argument("--prompt", help="what to imagine (default: the question's subject)")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--mix", help="prob, logit or evidence (default: the checkpoint's)")
    ask.add_argument("--weights", help="uniform, clip or entropy (default: the checkpoint's)")
    ask.add_argument("--html", type=Path, help="write the answer with its pictures as a page")
    _protocol_option(ask)
    _model_options(ask)

    imagine = command("imagine", _imagine, "imagine pictures for prompts and keep their features in the store")
    imagine.add_argument("prompt", nargs="*")
    imagine.add_argument(
        "--prompts", type=Path, help="file of prompts: a line each, or .jsonl or .csv with a field prompt"
    )
    imagine.add_argument("--shard", type=_shard, help="I/N: only part I of N of the prompts (default: torchrun's rank)")
    imagine.add_argument("--stats", action="store_true", help="only say what the store holds")
    imagine.add_argument("--k", type=int, default=6)
    imagine.add_argument("--seed", type=int, default=0)
    imagine.add_argument("--out", type=Path, help="folder to write the pictures to as PNG")
    _model_options(imagine)

    evaluate = command("eval", _evaluate, "measure tasks")
    _eval_options(evaluate)
    _protocol_option(evaluate)
    _model_options(evaluate)

    report = command("report", _report, "render report.html again from a results folder")
    report.add_argument("out", type=Path)
    report.add_argument("--store", type=Path)

    convert = command("convert", _convert, "import a published vLMIG or LaMI checkpoint")
    convert.add_argument("source", type=Path, help="a .bin, .pt or .safetensors file, or a folder of them")
    convert.add_argument("--language-model", required=True, help="hub id or folder of the LM it was trained around")
    convert.add_argument("--vision", default="ViT-B-32/openai", help="open_clip encoder (default: %(default)s)")
    convert.add_argument(
        "--generator", default="stabilityai/sdxl-turbo", help="text-to-image pipeline (default: %(default)s)"
    )
    convert.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")

    doctor = command("doctor", _doctor, "show versions, devices, where each component loads from, and what is missing")
    doctor.add_argument("--model", default="pocket")
    return parser


def _eval_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--tasks", type=_words, required=True, help="comma-separated task names")
    sub.add_argument("--k", type=_numbers, default=[0, 6], help="comma-separated numbers of pictures (default: 0,6)")
    sub.add_argument("--out", type=Path, required=True, help="folder for results.json, samples and report.html")
    sub.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("VLMIG_DATA"),
        help="folder of benchmark files (or VLMIG_DATA; default: download)",
    )
    sub.add_argument("--limit", type=int, help="only the first N items of each task")
    sub.add_argument("--seed", type=_numbers, default=[0], help="comma-separated imagination seeds")
    sub.add_argument("--mix", type=_words, default=[], help="further mixing rules: prob, logit, evidence")
    sub.add_argument("--weights", type=_words, default=[], help="further weights: uniform, clip, entropy")
    sub.add_argument("--control", type=_words, default=["none"], help="none, blank, shuffled")


def _protocol_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--protocol",
        choices=["default", "reference"],
        help="reference: predict and mix as the published code does (docs/fidelity.md; default: the checkpoint's)",
    )


def _model_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", default="pocket", help="pocket, a checkpoint folder, or a hub id (default: pocket)")
    sub.add_argument(
        "--store", type=Path, help="folder of imagined features (default: VLMIG_STORE or the user's cache)"
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected comma-separated whole numbers") from None


def _shard(text: str) -> tuple[int, int]:
    part, _, count = text.partition("/")
    if not (part.isdigit() and count.isdigit() and 1 <= int(part) <= int(count)):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected I/N with I from 1 to N, such as 2/4")
    return int(part) - 1, int(count)


def _quiet(verbose: bool) -> None:
    """Keep the libraries' progress bars and advice off the terminal unless asked for."""
    import logging
    import warnings

    logging.basicConfig(level=logging.WARNING if verbose else logging.ERROR, format="%(message)s")
    logging.getLogger("vlmig").setLevel(logging.INFO if verbose else logging.ERROR)
    if not verbose:
        warnings.filterwarnings("ignore")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")


def _load(arguments: argparse.Namespace) -> VLMIG:
    """Load the model; the libraries' own loading bars are noise beside our one bar for long work."""
    from transformers.utils import logging as transformers_logging

    from vlmig.config import REFERENCE
    from vlmig.predictor import VLMIG

    if not arguments.verbose:
        transformers_logging.disable_progress_bar()
    protocol = getattr(arguments, "protocol", None)
    fields = REFERENCE if protocol == "reference" else {"protocol": protocol} if protocol else {}
    return VLMIG.from_pretrained(arguments.model, store=arguments.store, **fields)


def _ask(arguments: argparse.Namespace) -> None:
    if not arguments.question.strip():  # before anything heavy is loaded
        raise VLMIGError('the question is empty; ask something, e.g. vlmig ask "What is the color of a banana?"')
    if arguments.k < 0:
        raise VLMIGError(f"--k {arguments.k}; expected 0 (text only) or more pictures")
    from vlmig.evaluation.report import write_answer

    model = _load(arguments)
    answer = model.ask(
        arguments.question,
        arguments.choices,
        arguments.k,
        prompt=arguments.prompt,
        seed=arguments.seed,
        mix=arguments.mix,
        weights=arguments.weights,
    )
    print(f"{answer.answer}  (p = {answer.probabilities[answer.answer]:.2f})")
    options = sorted(answer.probabilities, key=lambda option: -answer.probabilities[option])[:6]
    print(f"{'':<14}" + "".join(f"{option:>10}" for option in options))
    rows = [("with pictures", answer.probabilities), ("text only", answer.text_only)]
    rows += [(f"picture {i + 1}", distribution) for i, distribution in enumerate(answer.per_image)]
    for i, (name, distribution) in enumerate(rows):
        aligned = f"   alignment {answer.weights[i - 2]:.2f}" if i > 1 else ""
        print(f"{name:<14}" + "".join(f"{distribution[option]:>10.3f}" for option in options) + aligned)
    if answer.images:
        mean = sum(answer.weights) / len(answer.weights)
        doubt = "" if mean >= model.config.alignment_floor else ": low, the pictures are guesses"
        print(f'imagined "{answer.prompt}", mean alignment {mean:.2f}{doubt}')
    if arguments.html:
        write_answer(answer, arguments.html)
        print(f"wrote {arguments.html}")
    if arguments.verbose:
        print("time: " + ", ".join(f"{step} {seconds:.2f} s" for step, seconds in answer.seconds.items()))


def _imagine(arguments: argparse.Namespace) -> None:
    if arguments.k < 1:
        raise VLMIGError(f"--k {arguments.k}; expected at least one picture")
    if arguments.stats:
        _store_statistics(arguments.store)
    elif arguments.prompts:
        _imagine_many(arguments)
    elif arguments.prompt:
        _imagine_few(arguments)
    else:
        raise VLMIGError("nothing to imagine; give a prompt, or a file of them with --prompts")


def _imagine_few(arguments: argparse.Namespace) -> None:
    model = _load(arguments)
    for visuals in model.imagine(arguments.prompt, arguments.k, arguments.seed, progress=True):
        print(f"{visuals.prompt}: alignment " + " ".join(f"{a:.2f}" for a in visuals.alignment.tolist()))
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            for i, picture in enumerate(visuals.images):
                picture.save(arguments.out / f"{'_'.join(visuals.prompt.split())}_{i}.png")
    print(f"{len(model.imagination.store)} pictures in {model.imagination.store.path}")


def _imagine_many(arguments: argparse.Namespace) -> None:
    """Fill the store for a file of prompts: this process's part of them, under torchrun or with --shard."""
    import time

    from vlmig.imagination.prompts import read_prompts, shard_of

    index, count = arguments.shard or (int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    prompts = shard_of(read_prompts(arguments.prompts), index, count)
    model = _load(arguments)
    start = time.monotonic()
    there, drawn = model.imagination.fill(prompts, arguments.k, arguments.seed)
    rate = drawn / (time.monotonic() - start)
    part = f"part {index + 1} of {count}: " if count > 1 else ""
    print(f"{part}{len(prompts)} prompts, {there} pictures were there, {drawn} drawn, {rate:.2f} pictures per second")


def _store_statistics(folder: Path | None) -> None:
    from vlmig.store import FeatureStore, default_store

    store = FeatureStore(folder or default_store())
    print(f"{len(store)} pictures with features, {store.size() / 1e6:.1f} MB, in {store.path}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from vlmig.evaluation.report import table, write_report
    from vlmig.evaluation.results import write_results
    from vlmig.evaluation.run import Evaluator, Settings
    from vlmig.evaluation.sources import fetch
    from vlmig.evaluation.tasks import TASKS, choose_tasks
    from vlmig.pocket import tasks as pocket
    from vlmig.store import default_store

    tasks = choose_tasks(arguments.tasks, {**TASKS, **pocket.TASKS})
    settings = Settings(
        ks=arguments.k,
        mixes=arguments.mix,
        weights=arguments.weights,
        controls=arguments.control,
        seeds=arguments.seed,
        limit=arguments.limit,
    )
    files = [file for task in tasks for file in task.files]
    data = Path(arguments.data) if arguments.data else fetch(files, default_store() / "data")
    for task in tasks:
        task.load(data)  # a missing file is said before hours of imagining
    model = _load(arguments)
    covered = pocket.covered if pocket.draws_pocket_pictures(model) else None
    evaluator = Evaluator(model, settings, data, arguments.out, covered)
    outcomes = []
    for task in tasks:
        outcomes.append(evaluator.run(task))
        results = write_results(evaluator, outcomes, arguments.out)
    print(table(results))
    print(write_report(arguments.out, model.imagination.store))


def _report(arguments: argparse.Namespace) -> None:
    from vlmig.evaluation.report import write_report
    from vlmig.store import FeatureStore, default_store

    print(write_report(arguments.out, FeatureStore(arguments.store or default_store())))


def _convert(arguments: argparse.Namespace) -> None:
    from vlmig.convert import convert

    lines = convert(
        arguments.source,
        arguments.out,
        language_model=arguments.language_model,
        vision=arguments.vision,
        generator=arguments.generator,
    )
    print("\n".join([*lines, f"wrote {arguments.out}; use it with --model {arguments.out}"]))


def _doctor(arguments: argparse.Namespace) -> None:
    from vlmig.doctor import diagnose

    print(diagnose(arguments.model))


if __name__ == "__main__":
    sys.exit(main())
