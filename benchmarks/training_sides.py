"""One side of ``benchmarks.training``: some steps of a recipe on its data, timed part by part from
outside."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from vlmig import VLMIG
from vlmig.data.sources.build import build_source
from vlmig.imagination.store import Imagined
from vlmig.io.config_file import parse
from vlmig.pocket.concepts import load_concepts
from vlmig.pocket.lessons import SOURCES
from vlmig.pocket.scene_source import CAPTIONS, RecoloredScenes
from vlmig.pocket.scenes import COLORS
from vlmig.runtime import Stopwatch
from vlmig.training.images import ImageFeatures
from vlmig.training.loop import Loop
from vlmig.training.material import Material
from vlmig.training.model import choose_trained
from vlmig.training.objective import Objective
from vlmig.training.recipe import Recipe
from vlmig.training.session import Session
from vlmig.training.stage import Steps

PATCHES, WIDTH, EMBEDDING = 49, 768, 512
"""The features of a ViT-B/32: 7 x 7 patches, their width, and the width of the image's
embedding."""
PHOTO = (640, 480)
"""Width and height of a photograph."""
TABLE = "pairs.jsonl"
PHRASES = (
    "{a} on the {b}",
    "a {c} {a}",
    "the {a} is next to a {c} {b}",
    "{c} {a} in front of the {b}",
)
"""Captions as long as those of regions of Visual Genome, about five words."""


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
        pictures = ImageFeatures(
            model.imagination, self.network.blank_features, recipe.features == "stored", recipe.seed
        )
        pictures.stopwatch = self.clock
        self.clock.around(pictures, "fill", "fill")
        session = Session(
            recipe, folder, model, accelerator, pictures, own=SOURCES, stopwatch=self.clock
        )
        self.clock.seconds.clear()
        self.data = Material(session, 0, stage)
        self.filling = dict(self.clock.seconds)
        objective, self.steps = Objective(self.network), Steps(session, 0, stage, self.data)
        self._time(objective, pictures, accelerator)
        self.run = Loop(
            objective,
            stage.model_copy(update={"steps": self.data.steps}),
            folder / stage.name,
            accelerator,
        )
        self.clock.around(self.run.optimizer, "step", "optimizer")
        self.batch = stage.batch
        self.turns: list[dict[str, float]] = []
        self.turn(1)
        self.turns.clear()  # that was to warm up, and to load what is loaded when needed

    def _time(
        self, objective: Objective, pictures: ImageFeatures, accelerator: Accelerator
    ) -> None:
        """See that the clock is told of every part that the package does not tell of itself."""
        clock, network, fuse = self.clock, self.network, self.network.fuse

        def fused(*args: Any) -> torch.Tensor:
            with clock("fusion"):
                states = fuse(*args)
            # When its gradient comes, the head's part is over.
            states.register_hook(lambda gradient: clock.switch("fusion, backward"))
            return states

        network.fuse = fused
        clock.around(network, "prepare", "fusion")
        clock.around(network.trunk, "forward", "LM")
        clock.around(objective, "loss", "head and loss")
        clock.around(accelerator, "backward", "head, backward")
        clock.around(accelerator, "clip_grad_norm_", "optimizer")
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
                line = {"step": self.run.step, "loss": loss, "gradient_norm": norm}
                self.run.note({**line, "learning_rate": self.run.rate})
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
    settings = {
        "model": {"from": "pocket", "adapter": "new"},
        "stages": [stage],
        "seed": 8,
        "features": features,
        "validation": {"share": 0.0},
    }
    return parse(Recipe, settings, "this benchmark")


def draw(folder: Path, count: int) -> None:
    """Save recolored scenes as PNG and as large JPEG, and a table of these, their captions and
    what to imagine for them.

    Prompts are numbered: of equal ones only the first would be drawn.
    """
    concepts = sum(concept.split == "supervised" for concept in load_concepts())
    source = RecoloredScenes(-(-count // concepts))
    pairs: list[Any] = list(islice(source.pairs(), count * CAPTIONS))
    with (folder / TABLE).open("w", encoding="utf-8") as table:
        for i in range(count):
            pair, png, jpg = pairs[CAPTIONS * i + i % CAPTIONS], f"{i}.png", f"{i}.jpg"
            image = source.open(pair)
            image.save(folder / png)
            image.resize(PHOTO).save(folder / jpg, quality=90)
            caption = pair.caption
            row = {"caption": caption, "png": png, "jpg": jpg, "prompt": f"{caption} {i}"}
            print(json.dumps(row), file=table)


def keep_random(model: VLMIG, folder: Path, count: int) -> list[str]:
    """Write a table of captions and of files that only bear the names of images, and store random
    features for these."""
    rng, names, captions = random.Random(0), [concept.name for concept in load_concepts()], []
    with (folder / TABLE).open("w", encoding="utf-8") as table:
        for i in range(count):
            words = {"a": rng.choice(names), "b": rng.choice(names), "c": rng.choice(COLORS)}
            captions.append(rng.choice(PHRASES).format(**words))
            (folder / f"{i}.png").touch()  # nothing opens it
            print(json.dumps({"caption": captions[-1], "image": f"{i}.png"}), file=table)
    source: Any = build_source({"path": str(folder / TABLE)})
    pictures = ImageFeatures(model.imagination, model.model.blank_features, True, 0)
    entries = []
    for pair in source.pairs():
        features, embedding = torch.randn(PATCHES, WIDTH).half(), torch.randn(EMBEDDING)
        entries.append((pictures.address(source, pair), Imagined(None, features, embedding)))
    model.imagination.store.put(entries)
    return captions
