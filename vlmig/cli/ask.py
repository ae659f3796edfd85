"""``vlmig ask``: one question, choices or a conversation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmig.cli.options import POLICIES, load_model, pictures, words
from vlmig.errors import VLMIGError

if TYPE_CHECKING:
    from vlmig.predict.predictor import VLMIG


def ask_options(sub: argparse.ArgumentParser) -> None:
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


def ask(arguments: argparse.Namespace) -> None:
    """Answer one question, about given pictures or imagined ones."""
    if not arguments.question.strip():  # before anything heavy is loaded
        raise VLMIGError('the question is empty; ask something, e.g. vlmig ask "What is the color of a banana?"')
    if isinstance(arguments.k, int) and arguments.k < 0:
        raise VLMIGError(f"--k {arguments.k}; expected 0 (text only) or more pictures")
    given = _given(arguments)
    model = load_model(arguments, **({"prompt_policy": arguments.policy} if arguments.policy else {}))
    early = model.config.images_in_text
    if early and not arguments.choices and (given["images"] or given["shots"] or given["steps"]):
        _reply(model, arguments, given)
        return
    settings = {name: getattr(arguments, name) for name in ("prompt", "seed", "mix", "weights")}
    answer = model.ask(arguments.question, arguments.choices, arguments.k, **given, **settings)
    print(f"{answer.answer}  (p = {answer.probabilities[answer.answer]:.2f})")
    options = sorted(answer.probabilities, key=lambda option: -answer.probabilities[option])[:6]
    print(f"{'':<14}" + "".join(f"{option:>10}" for option in options))
    rows = [("with pictures", answer.probabilities), ("text only", answer.text_only)]
    rows += [(f"picture {i + 1}", distribution) for i, distribution in enumerate(answer.per_image)]
    for i, (name, distribution) in enumerate(rows):
        aligned = f"   alignment {cosine(answer.weights[i - 2])}" if i > 1 else ""
        print(f"{name:<14}" + "".join(f"{distribution[option]:>10.3f}" for option in options) + aligned)
    if answer.rationale:
        print(f"steps: {answer.rationale}")
    if answer.images:
        mean = sum(answer.weights) / len(answer.weights)
        doubt = ": low, the pictures are guesses" if mean < model.config.alignment_floor else ""
        print(
            f'{"compared with" if answer.given else "imagined"} "{answer.prompt}", mean alignment {cosine(mean)}{doubt}'
        )
    if arguments.html:
        from vlmig.report import write_answer

        write_answer(answer, arguments.html)
    _finish(model, arguments)


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Open the pictures of the command line, in their order: pictures, frames of a video, demonstrations."""
    from vlmig.vision import frames, opened

    images = [opened(path) for path in arguments.image]
    if arguments.video:
        images += frames(arguments.video, arguments.frames)
    marks = arguments.question.count("<image>")
    if marks > len(images):
        raise VLMIGError(f"{marks} <image> in the question, {len(images)} pictures; give one for each with --image")
    shots = [([opened(path)], question, answer) for path, question, answer in arguments.shot]
    return {"images": images, "shots": shots, "steps": arguments.steps}


def _reply(model: VLMIG, arguments: argparse.Namespace, given: dict[str, Any]) -> None:
    """Answer in words."""
    if arguments.prompt or arguments.mix or arguments.weights:
        raise VLMIGError("--prompt, --mix and --weights choose among answers; give --choices too, or leave them out")
    reply = model.chat(arguments.question, k=arguments.k, seed=arguments.seed, **given)
    print(reply or "(nothing)")
    if reply.rationale:
        print(f"steps: {reply.rationale}")
    if arguments.html:
        from vlmig.report import write_reply

        write_reply(arguments.question, reply, arguments.html)
    _finish(model, arguments)


def _finish(model: VLMIG, arguments: argparse.Namespace) -> None:
    if arguments.html:
        print(f"wrote {arguments.html}")
    if arguments.verbose:
        print("time: " + ", ".join(f"{step} {seconds:.2f} s" for step, seconds in model.stopwatch.seconds.items()))


def cosine(value: float) -> str:
    return "unknown" if value != value else f"{value:.2f}"
