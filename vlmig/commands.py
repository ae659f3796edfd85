"""What each command does. Imports are lazy, so that help and wrong arguments are answered at once."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmig.errors import VLMIGError

if TYPE_CHECKING:
    from vlmig.predictor import VLMIG
    from vlmig.store import FeatureStore
    from vlmig.visuals import Imagination, Visuals


def _load(arguments: argparse.Namespace, **fields: Any) -> VLMIG:
    """Load the model; the libraries' own loading bars are noise beside our one bar for long work."""
    from transformers.utils import logging as transformers_logging

    from vlmig.predictor import VLMIG

    if not arguments.verbose:
        transformers_logging.disable_progress_bar()
    if arguments.quantize:
        from vlmig.quantisation import config_for

        fields["quantization_config"] = config_for(arguments.quantize)
    return VLMIG.from_pretrained(arguments.model, store=_store(arguments), **_fields(arguments), **fields)


def _imagination(arguments: argparse.Namespace) -> Imagination:
    """Load what imagines and sees; no language model."""
    from vlmig.checkpoint import resolve_checkpoint
    from vlmig.config import VLMIGConfig, changed
    from vlmig.timing import Stopwatch
    from vlmig.visuals import Imagination

    folder = resolve_checkpoint(arguments.model)
    config = VLMIGConfig.from_pretrained(folder, **changed(_fields(arguments)))
    return Imagination(config, folder, _store(arguments), Stopwatch())


def _store(arguments: argparse.Namespace) -> FeatureStore:
    from vlmig.store import FeatureStore, default_store

    return FeatureStore(arguments.store or default_store(), arguments.store_limit, not arguments.no_pictures)


def _fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the configuration that the command line changes."""
    from vlmig.checkpoint import absolute
    from vlmig.config import REFERENCE

    protocol = getattr(arguments, "protocol", None)
    fields: dict[str, Any] = REFERENCE if protocol == "reference" else {"protocol": protocol} if protocol else {}
    return {**fields, "imaginer": absolute(arguments.imaginer)} if arguments.imaginer else fields


def ask(arguments: argparse.Namespace) -> None:
    """Answer one question, about given pictures or imagined ones."""
    if not arguments.question.strip():  # before anything heavy is loaded
        raise VLMIGError('the question is empty; ask something, e.g. vlmig ask "What is the color of a banana?"')
    if isinstance(arguments.k, int) and arguments.k < 0:
        raise VLMIGError(f"--k {arguments.k}; expected 0 (text only) or more pictures")
    given = _given(arguments)
    model = _load(arguments, **({"prompt_policy": arguments.policy} if arguments.policy else {}))
    early = model.config.fusion == "prefix"
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
        aligned = f"   alignment {_cosine(answer.weights[i - 2])}" if i > 1 else ""
        print(f"{name:<14}" + "".join(f"{distribution[option]:>10.3f}" for option in options) + aligned)
    if answer.rationale:
        print(f"steps: {answer.rationale}")
    if answer.images:
        mean = sum(answer.weights) / len(answer.weights)
        doubt = ": low, the pictures are guesses" if mean < model.config.alignment_floor else ""
        print(
            f'{"compared with" if answer.given else "imagined"} "{answer.prompt}", mean alignment {_cosine(mean)}{doubt}'
        )
    if arguments.html:
        from vlmig.evaluation.report import write_answer

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
        from vlmig.evaluation.report import write_reply

        write_reply(arguments.question, reply, arguments.html)
    _finish(model, arguments)


def _finish(model: VLMIG, arguments: argparse.Namespace) -> None:
    if arguments.html:
        print(f"wrote {arguments.html}")
    if arguments.verbose:
        print("time: " + ", ".join(f"{step} {seconds:.2f} s" for step, seconds in model.stopwatch.seconds.items()))


def imagine(arguments: argparse.Namespace) -> None:
    """Imagine a few prompts or many, or look after the store."""
    if arguments.k < 1:
        raise VLMIGError(f"--k {arguments.k}; expected at least one picture")
    if arguments.prompts and (arguments.prompt or arguments.out):
        raise VLMIGError("--prompts fills the store; it goes neither with a prompt nor with --out")
    if arguments.prompt and (arguments.report or arguments.shard):
        raise VLMIGError("--report and --shard are for many prompts; give them with --prompts")
    if arguments.stats or arguments.mend or arguments.merge:
        _look_after(arguments)
    elif arguments.prompts:
        _imagine_many(arguments)
    elif arguments.prompt:
        _imagine_few(arguments)
    else:
        raise VLMIGError("nothing to imagine; give a prompt, or a file of them with --prompts")


def _imagine_few(arguments: argparse.Namespace) -> None:
    imagination = _imagination(arguments)
    prompts = [imagination.prompts(prompt, arguments.k, arguments.policy) for prompt in arguments.prompt]
    for visuals in imagination.visuals(prompts, arguments.k, arguments.seed, progress=True):
        alignment = " ".join(map(_cosine, visuals.alignment.tolist()))
        print(f"{visuals.prompt}: alignment {alignment}, diversity {visuals.diversity:.2f}")
        if arguments.out:
            _write_pictures(visuals, arguments.out)
    print(f"{imagination.tally}; {len(imagination.store)} pictures in {imagination.store.path}")


def _write_pictures(visuals: Visuals, folder: Path) -> None:
    """Write pictures so that the imaginer ``folder:`` finds them."""
    from vlmig.imagination.prompts import slug

    if any(item.picture is None for item in visuals.items):
        raise VLMIGError(
            f"no pictures of {visuals.prompt!r} to write: the store keeps none, or the imaginer gives none; choose another --store"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for i, (prompt, picture) in enumerate(zip(visuals.prompts, visuals.images, strict=True)):
            picture.save(folder / f"{slug(prompt)}_{visuals.prompts[:i].count(prompt)}.png")
    except OSError as error:
        raise VLMIGError(f"cannot write pictures to {folder}: {error}; choose a folder that can be written") from error


def _cosine(value: float) -> str:
    return "unknown" if value != value else f"{value:.2f}"


def _imagine_many(arguments: argparse.Namespace) -> None:
    """Fill the store for a list of prompts: this process's part of them, under torchrun or with --shard."""
    import time

    from vlmig.imagination.prompts import read_prompts, shard_of

    index, count = arguments.shard or (int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    prompts = shard_of(read_prompts(arguments.prompts, arguments.column, arguments.split), index, count)
    part = f"part {index + 1} of {count}: " if count > 1 else ""
    report = arguments.report
    if report and count > 1:
        report = report.with_name(f"{report.stem}_{index + 1}_of_{count}{report.suffix}")
    imagination = _imagination(arguments)
    start = time.monotonic()
    imagination.fill(prompts, arguments.k, arguments.seed, arguments.policy, report)
    rate = imagination.tally.drawn / (time.monotonic() - start)
    print(f"{part}{len(prompts)} prompts, {imagination.tally}, {rate:.2f} pictures per second")


def _look_after(arguments: argparse.Namespace) -> None:
    """Merge, mend and describe a store."""
    from vlmig.store import FeatureStore

    store = _store(arguments)
    for other in arguments.merge or []:
        if not (other / store.path.name).is_file():
            raise VLMIGError(f"no store to merge at {other}; expected a folder that --store named")
        print(f"{store.merge(FeatureStore(other))} pictures taken over from {other}")
    if arguments.mend:
        kept, damaged = store.mend()
        print(f"{kept} whole entries kept, {damaged} damaged ones left out; imagine again to make them")
    print(f"{len(store)} pictures with features, {store.size() / 1e6:.1f} MB, in {store.path}")
    for row in store.statistics():
        named = row.pop("identity").strip("{}").replace('"', "")
        counts = ", ".join(f"{value} {name}" for name, value in row.items() if name != "bytes")
        print(f"  {counts}, {row['bytes'] / max(1, row['entries']) / 1e3:.1f} kB each: {named}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Measure tasks."""
    from vlmig.evaluation.declared import choose_tasks
    from vlmig.evaluation.report import table, write_report
    from vlmig.evaluation.results import measure_tasks
    from vlmig.evaluation.run import Evaluator
    from vlmig.evaluation.settings import CONTROLS, Settings
    from vlmig.evaluation.sources import fetch
    from vlmig.pocket import tasks as pocket
    from vlmig.stopping import MOST
    from vlmig.store import default_store

    tasks = choose_tasks(arguments.tasks, pocket.TASKS, arguments.protocol or "default")
    numbers = [k for k in arguments.k if isinstance(k, int)]
    whole = len(numbers) == len(arguments.k) or max(numbers, default=0) >= MOST
    settings = Settings(
        ks=arguments.k,
        mixes=arguments.mix,
        weights=arguments.weights,
        controls=arguments.control or [name for name in CONTROLS if whole or name != "shuffled"],
        seeds=arguments.seed,
        limit=arguments.limit,
        policy=arguments.policy,
        subset=arguments.subset,
        calibrated=arguments.calibrated,
    )
    shots = "few-shot" in settings.controls
    files = [file for task in tasks for file in task.files + (task.demonstration_files if shots else ())]
    data = Path(arguments.data) if arguments.data else fetch(files, default_store() / "data")
    for task in tasks:
        task.load(data)  # a missing file is said before hours of imagining
    model = _load(arguments)
    covered = pocket.covered if pocket.draws_pocket_pictures(model) else None
    evaluator = Evaluator(model, settings, data, arguments.out, covered)
    results = measure_tasks(evaluator, tasks)
    if results:
        print(table(results))
        print(write_report(arguments.out, model.imagination.store))


def train(arguments: argparse.Namespace) -> None:
    """Run a recipe's stages, or say what they would be."""
    from vlmig.training.recipe import find_recipe, load_recipe

    recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
    data = Path(arguments.data) if arguments.data else None
    if not arguments.plan and arguments.out is None:
        raise VLMIGError("vlmig train writes a checkpoint; expected --out DIR, or --plan to be told what would run")
    from vlmig.pocket.lessons import SOURCES

    if arguments.plan:
        from vlmig.training.plan import plan

        print(plan(recipe, _store(arguments), data, SOURCES))
        return
    from vlmig.evaluation.probe import probe_of
    from vlmig.pocket.tasks import TASKS
    from vlmig.training import train

    probe = probe_of(recipe.probe.tasks, recipe.probe.k, recipe.probe.limit, data, TASKS)
    model = train(recipe, arguments.out, data=data, store=_store(arguments), own=SOURCES, probe=probe)
    if os.environ.get("RANK", "0") != "0":
        return
    for stage in (model.config.training or {})["stages"]:
        measured = {name: value for name, value in stage["measured"].items() if isinstance(value, dict)}
        print(f"{stage['name']}: {stage['steps']} steps", *(f"{k} {v}" for k, v in measured.items()), sep="; ")
    print(f"wrote {arguments.out}; use it with --model {arguments.out}")


def lm_eval(arguments: argparse.Namespace) -> None:
    """Run lm-eval's own command line."""
    try:
        from vlmig.integrations.launch import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise VLMIGError('lm-eval is not installed; install it with pip install "vlmig[lm-eval]"') from None
    run(arguments.arguments)


def calibrate(arguments: argparse.Namespace) -> None:
    """Set when ``--k auto`` imagines and stops."""
    from vlmig.evaluation.calibration import calibrate

    rule = calibrate(arguments.folder, arguments.model)
    print(
        f"text alone is enough from a probability of {rule.sure:.3f}; pictures scatter by {rule.spread:.3f} nats; "
        f"level {rule.level}, at most {rule.most} pictures"
    )


def report(arguments: argparse.Namespace) -> None:
    """Write the report of a results folder again, or of two compared."""
    from vlmig.evaluation.report.samples import read_run

    first, second = arguments.folder, arguments.other
    _ = read_run(first), second and read_run(second)  # what is wrong is said before torch is loaded
    from vlmig.evaluation.report import compare_runs, write_report
    from vlmig.store import FeatureStore, default_store

    store = FeatureStore(arguments.store or default_store())
    if second is None:
        print(write_report(first, store, arguments.out))
    else:
        print(compare_runs(first, second, arguments.out or first / f"against_{second.resolve().name}.html", store))


def convert(arguments: argparse.Namespace) -> None:
    """Import a published checkpoint."""
    from transformers.utils import logging as transformers_logging

    from vlmig.convert import convert

    if not arguments.verbose:
        transformers_logging.disable_progress_bar()
    lines = convert(
        arguments.source,
        arguments.out,
        language_model=arguments.language_model,
        vision=arguments.vision,
        generator=arguments.generator,
    )
    print("\n".join([*lines, f"wrote {arguments.out}; use it with --model {arguments.out}"]))


def doctor(arguments: argparse.Namespace) -> None:
    """Say what is installed, and where components come from."""
    from vlmig.doctor import diagnose

    print(diagnose(arguments.model))
