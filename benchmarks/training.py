"""Training from stored features beside encoding, and imagining, in every step.

python -m benchmarks.training --rounds 5

``pocket``: the recipe of the pocket adapter on picture files. Sides train in one process, in
turns, from the same weights
on the same samples: ``stored`` reads features encoded before the clock starts, ``live`` opens and
encodes the pictures of
every step, ``photos`` files as large as photographs, ``imagined`` draws a picture for every
caption, as published for text.
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
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from accelerate import Accelerator
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.side_by_side import machine
from vlmig import VLMIG
from vlmig.data.sources.build import build_source
from vlmig.imagination.store import FeatureStore, Imagined
from vlmig.io.config_file import parse
from vlmig.models.checkpoint import POCKET, load_tokenizer
from vlmig.models.config import VLMIGConfig
from vlmig.models.modeling import VLMIGForCausalLM
from vlmig.pocket.concepts import load_concepts
from vlmig.pocket.scene_source import RecoloredScenes
from vlmig.pocket.scenes import COLORS
from vlmig.runtime import Stopwatch
from vlmig.training.loop import Loop
from vlmig.training.material import Material
from vlmig.training.model import choose_trained, start
from vlmig.training.objective import Objective
from vlmig.training.pictures import Pictures
from vlmig.training.recipe import Recipe
from vlmig.training.session import Session
from vlmig.training.stage import Steps

GPT2: dict[str, Any] = {}
"""What differs from the defaults of ``GPT2Config``, which are those of GPT-2-small."""
PATCHES, WIDTH, EMBEDDING = 49, 768, 512
"""The features of a ViT-B/32: 7 x 7 patches, their width, and the width of the picture's
embedding."""
PHOTO = (640, 480)
"""Width and height of a photograph."""
TABLE = "pairs.jsonl"
KINDS = {"stored": "png", "live": "png", "photos": "jpg"}
"""The files that each side reads."""
CAPTIONS = 5
"""What ``RecoloredScenes`` writes for each scene; one of them is taken."""
PHRASES = (
    "{a} on the {b}",
    "a {c} {a}",
    "the {a} is next to a {c} {b}",
    "{c} {a} in front of the {b}",
)
"""Captions as long as those of regions of Visual Genome, about five words."""
GROUPS = {
    "data": ("data", "tokens", "features", "pictures", "encode", "imagine", "store"),
    "model": ("LM", "fusion", "head and loss", "head, backward", "fusion, backward"),
    "other": ("optimiser", "rest"),
}
"""Parts of a step. data: samples are drawn, and on the sides without features pictures opened;
features: they are read from
the store; pictures: they are put together. The frozen LM has no backward pass."""


class Clock(Stopwatch):
    """A stopwatch whose parts add up: what runs inside a part is not counted to that part as
    well."""

    def __init__(self) -> None:
        super().__init__()
        self._running: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Time a block."""
        self._book()
        self._running.append(step)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def switch(self, step: str) -> None:
        """Count the rest of the innermost block to another part."""
        self._book()
        self._running[-1] = step

    def around(self, holder: Any, name: str, step: str) -> None:
        """Time every call of a method of one object."""
        work: Callable[..., Any] = getattr(holder, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(step):
                return work(*args, **kwargs)

        setattr(holder, name, timed)

    def _book(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._running:
            part = self._running[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now


class Side:
    """A run of the first stage of a recipe, some steps at a time.

    Args:
        each: steps per turn.
        folder: for the index, the log and lists of bad pictures.
    """

    def __init__(self, recipe: Recipe, model: VLMIG, each: int, folder: Path) -> None:
        self.each, self.clock, stage = each, Clock(), recipe.stages[0]
        model.imagination.stopwatch = self.clock
        accelerator = Accelerator(project_dir=folder)
        self.network = model.model.to(accelerator.device)
        choose_trained(self.network, stage.trains, stage.lora)
        pictures = Pictures(
            model.imagination, self.network.blank_features, recipe.features == "stored", recipe.seed
        )
        pictures.stopwatch = self.clock
        self.clock.around(pictures, "fill", "fill")
        session = Session(recipe, folder, model, accelerator, pictures, stopwatch=self.clock)
        self.clock.seconds.clear()
        self.data = Material(session, 0, stage)
        self.filling = sum(self.clock.seconds.values())
        objective, self.steps = Objective(self.network), Steps(session, 0, stage, self.data)
        self._time(objective, pictures, accelerator)
        self.run = Loop(
            objective,
            stage.model_copy(update={"steps": self.data.steps}),
            folder / stage.name,
            accelerator,
        )
        self.clock.around(self.run.optimizer, "step", "optimiser")
        self.batch, self.turns = stage.batch, []  # type: ignore[var-annotated]
        self.turn(1)
        self.turns.clear()  # that was to warm up, and to load what is loaded when needed

    def _time(self, objective: Objective, pictures: Pictures, accelerator: Accelerator) -> None:
        """See that the clock is told of every part that the package does not tell of itself."""
        clock, network, fuse = self.clock, self.network, self.network.fuse

        def fused(*args: Any) -> torch.Tensor:
            with clock("fusion"):
                states = fuse(*args)
            states.register_hook(
                lambda gradient: clock.switch("fusion, backward")
            )  # the head's part is over
            return states

        network.fuse = fused
        clock.around(network, "prepare", "fusion")
        clock.around(network.trunk, "forward", "LM")
        clock.around(objective, "loss", "head and loss")
        clock.around(accelerator, "backward", "head, backward")
        clock.around(accelerator, "clip_grad_norm_", "optimiser")
        clock.around(self.data.batches.tokens, "batch", "tokens")
        if pictures.stored:  # otherwise several are opened side by side
            clock.around(pictures, "load", "features")

    def turn(self, steps: int) -> None:
        """Run some steps as ``fit`` does, and keep seconds per step by part."""
        self.clock.seconds.clear()
        with self.clock("rest"):
            for _ in range(steps):
                torch.manual_seed(self.run.step)
                loss, norm, _, _ = self.run.advance(self.steps.losses, False, False)
                line = {
                    "step": self.run.step,
                    "loss": loss,
                    "gradient_norm": norm,
                    "learning_rate": self.run.rate,
                }
                self.run.note(line)
        self.turns.append({part: seconds / steps for part, seconds in self.clock.seconds.items()})

    @property
    def rates(self) -> list[float]:
        """Samples per second of each turn."""
        return [self.batch / sum(turn.values()) for turn in self.turns]


def recipe_for(entry: Mapping[str, Any], features: str, steps: int, batch: int) -> Recipe:
    """Make the recipe of the pocket adapter, on other data."""
    stage = {
        "name": "measured",
        "data": [dict(entry)],
        "steps": steps,
        "batch": batch,
        "learning_rate": 1e-3,
    }
    model = {"from": "pocket", "adapter": "new"}
    settings = {
        "model": model,
        "stages": [stage],
        "seed": 8,
        "features": features,
        "validation": {"share": 0.0},
    }
    return parse(Recipe, settings, "this benchmark")


def draw(folder: Path, count: int) -> None:
    """Save recoloured scenes as PNG and as large JPEG, and a table of these, their captions and
    what to imagine for them.

    Prompts are numbered: of equal ones only the first would be drawn.
    """
    concepts = sum(concept.split == "supervised" for concept in load_concepts())
    source = RecoloredScenes(-(-count // concepts))
    pairs: list[Any] = list(islice(source.pairs(), count * CAPTIONS))
    with (folder / TABLE).open("w", encoding="utf-8") as table:
        for i, pair in enumerate(pairs[CAPTIONS * i + i % CAPTIONS] for i in range(count)):
            picture = source.open(pair)
            picture.save(folder / f"{i}.png")
            picture.resize(PHOTO).save(folder / f"{i}.jpg", quality=90)
            row = {
                "caption": pair.caption,
                "png": f"{i}.png",
                "jpg": f"{i}.jpg",
                "prompt": f"{pair.caption} {i}",
            }
            print(json.dumps(row), file=table)


def pocket(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the sides in turns, and print and return what came out."""
    turns = arguments.rounds
    draw(folder, max(arguments.pictures, (1 + turns * arguments.imagined_steps) * arguments.batch))
    columns: dict[str, Any] = {name: {"image": kind} for name, kind in KINDS.items()}
    columns["imagined"] = {"image": None, "prompt": "prompt"}
    sides = {}
    for name, own in columns.items():
        each = arguments.imagined_steps if name == "imagined" else arguments.steps
        if each:
            features, entry = (
                "stored" if name == "stored" else "live",
                {"path": str(folder / TABLE), **own},
            )
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
    rates = {name: side.rates for name, side in sides.items()}
    others = [name for name in sides if name != "stored"]
    ratios = {
        name: [a / b for a, b in zip(rates["stored"], rates[name], strict=True)] for name in others
    }
    columns = [*rates.values(), *ratios.values()]
    titles = "".join(f"{title:>12}" for title in (*rates, *(f"/ {name}" for name in others)))
    print(f"{'round':<8}{titles}   (samples per second; stored / other)")
    rows = [
        *enumerate(zip(*columns, strict=True), 1),
        *((f.__name__, map(f, columns)) for f in (median, min, max)),
    ]
    for title, row in rows:
        print(f"{title:<8}" + "".join(f"{value:>12.2f}" for value in row))
    return ratios


def _breakdown(sides: Mapping[str, Side]) -> dict[str, list[dict[str, float]]]:
    """Print where the time of a step goes, and return it for each turn."""
    names = [part for parts in GROUPS.values() for part in parts]
    spent = [
        {p: median(turn.get(p, 0.0) for turn in side.turns) for p in names}
        for side in sides.values()
    ]
    print(
        f"\n{'ms per step':<20}"
        + "".join(f"{name:>20}" for name in sides)
        + "   (medians of the rounds)"
    )
    for group, parts in GROUPS.items():
        rows = {f"  {part}": (part,) for part in parts if any(own[part] for own in spent)}
        for title, row in {group: parts, **rows}.items():
            cells = [(sum(own[part] for part in row), sum(own.values())) for own in spent]
            print(
                f"{title:<20}"
                + "".join(f"{1000 * s:>11.1f} ({s / whole:>6.1%})" for s, whole in cells)
            )
    return {name: side.turns for name, side in sides.items()}


def _filling(stored: Side, live: Side) -> dict[str, float]:
    """Tell what encoding once costs, after how much training it has paid, and whether both sides
    did the same."""
    store, seconds = stored.steps.session.pictures.imagination.store, stored.filling
    pictures, each = len(store), store.size() / len(store)
    saved = 1 / median(live.rates) - 1 / median(stored.rates)
    epochs = seconds / saved / pictures if saved > 0 else math.inf
    apart = max(
        abs(a["loss"] - b["loss"]) for a, b in zip(stored.run.log, live.run.log, strict=True)
    )
    rate = f"{pictures / seconds:.1f} per second, {each / 1000:.1f} kB each"
    print(f"\nfilling the store, once: {pictures} pictures in {seconds:.2f} s ({rate})")
    print(f"it has paid after {epochs:.2f} epochs, with a caption for each picture")
    print(f"losses of stored and live, {len(live.run.log)} steps: at most {apart:.2g} apart")
    return {"pictures": pictures, "seconds": seconds, "epochs": epochs, "losses_apart": apart}


def gpt2(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure a step at the size of GPT-2-small and ViT-B/32, and print and return what came
    out."""
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(**GPT2))
    config = VLMIGConfig(
        text_config=base.config.to_dict(), vision_patches=PATCHES, vision_width=WIDTH
    )
    tokenizer = load_tokenizer(str(POCKET / "language_model"), None)
    model = VLMIG(VLMIGForCausalLM(config, base), tokenizer, POCKET, folder / "store")
    captions = keep_random(model, folder, arguments.pictures)
    steps = 1 + arguments.rounds * arguments.steps
    recipe = recipe_for({"path": str(folder / TABLE)}, "stored", steps, arguments.batch)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        side = Side(recipe, model, arguments.steps, folder / "gpt2")
    for _ in range(arguments.rounds):
        side.turn(side.each)
    words, tokens = (fmean(map(len, map(cut, captions))) for cut in (str.split, tokenizer.tokenize))
    shares = [
        sum(turn.get(part, 0.0) for part in GROUPS["model"]) / sum(turn.values())
        for turn in side.turns
    ]
    print(
        f"captions of {words:.1f} words, {tokens:.1f} tokens; {median(side.rates):.2f} samples "
        "per second"
    )
    told = _breakdown({"stored": side})
    print(
        f"LM, fusion and head: {median(shares):.1%} of a step (rounds: {min(shares):.1%} to "
        f"{max(shares):.1%})"
    )
    return {"seconds_per_step": told, "tokens": tokens, "model_share": shares}


def keep_random(model: VLMIG, folder: Path, count: int) -> list[str]:
    """Write a table of captions and of files that only bear the names of pictures, and store
    random features for these."""
    rng, names = random.Random(0), [concept.name for concept in load_concepts()]
    words = (
        {"a": rng.choice(names), "b": rng.choice(names), "c": rng.choice(COLORS)}
        for _ in range(count)
    )
    captions = [rng.choice(PHRASES).format(**own) for own in words]
    with (folder / TABLE).open("w", encoding="utf-8") as table:
        for i, caption in enumerate(captions):
            (folder / f"{i}.png").touch()  # nothing opens it
            print(json.dumps({"caption": caption, "image": f"{i}.png"}), file=table)
    source: Any = build_source({"path": str(folder / TABLE)})
    pictures = Pictures(model.imagination, model.model.blank_features, True, 0)
    addresses = (pictures.address(source, pair) for pair in source.pairs())
    random_ones = (
        Imagined(None, torch.randn(PATCHES, WIDTH).half(), torch.randn(EMBEDDING)) for _ in captions
    )
    model.imagination.store.put(zip(addresses, random_ones, strict=True))
    return captions


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", choices=("pocket", "gpt2", "all"), default="all", help="what to measure"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: 5)")
    parser.add_argument("--steps", type=int, help="steps per turn (default: 10; gpt2: 4)")
    parser.add_argument(
        "--imagined-steps",
        type=int,
        default=1,
        help="of the imagined side; 0: without (default: 1)",
    )
    parser.add_argument("--batch", type=int, help="samples per step (default: 64; gpt2: 32)")
    parser.add_argument(
        "--pictures", type=int, default=512, help="pictures, with a caption each (default: 512)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every figure to a file"
    )
    arguments = parser.parse_args(argv)
    told: dict[str, Any] = {"machine": machine()}
    print(", ".join(f"{name} {value}" for name, value in told["machine"].items()) + "; float32")
    print(
        "other work beside this makes the rounds differ, and slows several threads more than one "
        "(OMP_NUM_THREADS=1)"
    )
    for size, measure, steps, batch in (("pocket", pocket, 10, 64), ("gpt2", gpt2, 4, 32)):
        if arguments.size in (size, "all"):
            settings = {
                **vars(arguments),
                "steps": arguments.steps or steps,
                "batch": arguments.batch or batch,
            }
            own = argparse.Namespace(**settings)
            print(f"\n{size}: {own.rounds} rounds of {own.steps} steps of {own.batch} samples")
            with tempfile.TemporaryDirectory() as folder:
                told[size] = {"settings": {**settings, "json": None}, **measure(own, Path(folder))}
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
