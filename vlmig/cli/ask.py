"""``vlmig ask``: answer a question, choose among candidates, or describe given images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmig.cli import options
from vlmig.errors import VLMIGError

if TYPE_CHECKING:
    from vlmig.predict.answer import Answer
    from vlmig.predict.attribution import Attribution
    from vlmig.predict.predictor import VLMIG

COLUMNS = 6
"""The likeliest candidates, which are printed with their probabilities."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s QUESTION [options]"
    text = "the question; each <image> in it is replaced by an image given with --image"
    parser.add_argument("question", metavar="QUESTION", help=text)
    text = (
        "candidate answers, separated by commas (default: the likeliest next words; "
        "with early fusion and given images, a written answer)"
    )
    parser.add_argument("--choices", type=options.words, metavar="A,B,...", help=text)
    text = "write the answer and its images to an HTML page"
    parser.add_argument("--html", type=options.new_file, metavar="FILE", help=text)
    text = "say how far each image moved the answer, and where in it the evidence lies"
    parser.add_argument("--why", action="store_true", help=text)
    _add_imagined(parser.add_argument_group("imagined images"))
    title = "given images"
    text = "With early fusion they stand in the text; with late fusion they replace imagined ones."
    _add_given(parser.add_argument_group(title, text))
    options.add_language_model(options.add_model(parser))
    options.add_store(parser)


def _add_imagined(group: argparse._ArgumentGroup) -> None:
    text = (
        "number of images, or auto: as many as the answer needs "
        "(default: 6, or 0 with given images)"
    )
    group.add_argument("--k", type=options.image_count, metavar="K", help=text)
    text = "what to imagine (default: the question's subject)"
    group.add_argument("--prompt", metavar="TEXT", help=text)
    text = "which text of the question to imagine (default: the checkpoint's)"
    group.add_argument("--policy", choices=options.POLICIES[:4], help=text)
    text = "seed of the imagined images (default: %(default)s)"
    group.add_argument("--seed", type=int, default=0, metavar="N", help=text)
    text = "mixing rule: prob, logit, geometric, evidence or contrast (default: the checkpoint's)"
    group.add_argument("--mix", metavar="RULE", help=text)
    text = "image weights: uniform, clip, doubled, entropy or learned (default: the checkpoint's)"
    group.add_argument("--weights", metavar="RULE", help=text)


def _add_given(group: argparse._ArgumentGroup) -> None:
    text = "an image file; may be repeated"
    group.add_argument("--image", type=Path, action="append", default=[], metavar="FILE", help=text)
    text = "a video file, whose frames are added as images"
    group.add_argument("--video", type=Path, metavar="FILE", help=text)
    text = "number of frames, at even distances (default: %(default)s)"
    group.add_argument("--frames", type=int, default=8, metavar="N", help=text)
    group.add_argument(
        "--shot",
        nargs=3,
        action="append",
        default=[],
        metavar=("IMAGE", "QUESTION", "ANSWER"),
        help="a few-shot example before the question; may be repeated",
    )
    group.add_argument("--steps", action="store_true", help="reason step by step before the answer")


def run(arguments: argparse.Namespace) -> None:
    if not arguments.question.strip():  # before anything heavy is loaded
        example = 'vlmig ask "What is the color of a banana?"'
        raise VLMIGError(f"the question is empty; ask something, e.g. {example}")
    if isinstance(arguments.k, int) and arguments.k < 0:
        raise VLMIGError(f"--k {arguments.k}; expected 0 (text only) or more images")
    given = _open_given(arguments)
    fields = {"prompt_policy": arguments.policy} if arguments.policy else {}
    model = options.load_model(arguments, **fields)
    early = model.config.images_in_text
    if early and not arguments.choices and (given["images"] or given["shots"] or given["steps"]):
        _write(model, arguments, given)
    else:
        _choose(model, arguments, given)
    if arguments.html:
        print(f"wrote {arguments.html}")
    if arguments.verbose:
        steps = [f"{name} {seconds:.2f} s" for name, seconds in model.stopwatch.seconds.items()]
        print("time: " + ", ".join(steps))


def _open_given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Open the given images: images, then frames of the video; and those of the examples."""
    from vlmig.vision import frames, opened

    images = [opened(path) for path in arguments.image]
    if arguments.video:
        images += frames(arguments.video, arguments.frames)
    expected = arguments.question.count("<image>")
    if expected > len(images):
        raise VLMIGError(
            f"{expected} <image> in the question, {len(images)} images; "
            "give one for each with --image"
        )
    shots = [([opened(path)], question, answer) for path, question, answer in arguments.shot]
    return {"images": images, "shots": shots, "steps": arguments.steps}


def _choose(model: VLMIG, arguments: argparse.Namespace, given: dict[str, Any]) -> None:
    """Choose among candidates, and print what each image makes of them."""
    names = ("prompt", "seed", "mix", "weights", "why")
    settings = {name: getattr(arguments, name) for name in names}
    answer = model.ask(arguments.question, arguments.choices, arguments.k, **given, **settings)
    print(f"{answer.answer}  (p = {answer.probabilities[answer.answer]:.2f})")
    print(_probabilities(answer))
    _print_steps(answer.rationale)
    if answer.images:
        print(_about_images(answer, model.config.alignment_floor))
    if answer.attribution is not None and answer.images:
        print(_why(answer.attribution))
    if arguments.html:
        from vlmig.report.answer import write_answer

        write_answer(answer, arguments.html)


def _about_images(answer: Answer, floor: float) -> str:
    """Say what the images are, and whether they were listened to."""
    mean = sum(answer.alignment) / len(answer.weights)
    source = "compared with" if answer.given else "imagined"
    line = f'{source} "{answer.prompt}", mean CLIP similarity {options.similarity(mean)}'
    low = mean < floor and not answer.given
    remarks = ["low, the images are guesses"] if low else []
    if not answer.listened:
        remarks.append("the images were not listened to, the answer is that of text only")
    return ": ".join(filter(None, (line, "; ".join(remarks))))


def _probabilities(answer: Answer) -> str:
    """Lay out the candidates' probabilities: mixed, text only, and by image."""
    from vlmig.report.text_table import text_table

    likeliest = sorted(answer.probabilities, key=lambda name: -answer.probabilities[name])
    candidates = likeliest[:COLUMNS]
    distributions = [answer.probabilities, answer.text_only, *answer.per_image]
    names = ["with images", "text only"]
    remarks = ["", ""]
    for number, weight in enumerate(answer.alignment, 1):
        names.append(f"image {number}")
        remarks.append(f" CLIP similarity {options.similarity(weight)}")
    rows = [["", *candidates, ""]]
    for name, distribution, remark in zip(names, distributions, remarks, strict=True):
        rows.append([name, *(f"{distribution[text]:.3f}" for text in candidates), remark])
    return text_table(rows, "<" + ">" * len(candidates) + "<")


def _why(attribution: Attribution) -> str:
    """Lay out how far each image moved the answer, and where its evidence lies."""
    from vlmig.report.text_table import text_table

    rows = [[f"why {attribution.target}?", "over text only", "over the others", "evidence"]]
    for i, (gained, missed) in enumerate(
        zip(attribution.images, attribution.left_out, strict=True)
    ):
        region, share = attribution.where(i)
        where = f"{region} {share:.0%}" if share else "none"
        rows.append([f"image {i + 1}", f"{gained:+.2f}", f"{missed:+.2f}", where])
    return text_table(rows, "<>><")


def _write(model: VLMIG, arguments: argparse.Namespace, given: dict[str, Any]) -> None:
    """Print a written answer."""
    if arguments.prompt or arguments.mix or arguments.weights or arguments.why:
        raise VLMIGError(
            "--prompt, --mix, --weights and --why are about a choice among answers; "
            "give --choices too, or leave them out"
        )
    reply = model.chat(arguments.question, k=arguments.k, seed=arguments.seed, **given)
    print(reply or "(nothing)")
    _print_steps(reply.rationale)
    if arguments.html:
        from vlmig.report.answer import write_reply

        write_reply(arguments.question, reply, arguments.html)


def _print_steps(rationale: str) -> None:
    if rationale:
        print(f"steps: {rationale}")
