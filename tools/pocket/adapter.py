"""Train the pocket adapter on recolored scenes of supervised concepts and captions with their
colors.

The color of every scene is random and its label is computed from the pixels, so that text alone
cannot predict it; with natural colors the layer would learn to ignore images. The recipe is
``configs/pocket_sizes.yaml``, with scenes of several things; ``configs/pocket.yaml`` has none.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from tools.pocket.drawings import drawers
from vlmig.imagination.store import FeatureStore
from vlmig.io.atomic import write_text
from vlmig.models.checkpoint import load_language_model
from vlmig.models.config import VLMIGConfig
from vlmig.models.modeling import VLMIGForCausalLM
from vlmig.pocket.scene_source import RecoloredScenes
from vlmig.pocket.size_lessons import ComparedScenes
from vlmig.vision import VisionEncoder

VISION_LAYER = -2
"""The third block of four. Those of the last tell more of shapes, but no longer where things are:
of what speaks for an answer less would lie on the thing than by chance."""


def train_pocket_adapter(model: Path, work: Path, *, recipe: str) -> None:
    """Train the adapter by a recipe, as ``vlmig train`` does, and save it in the model's folder."""
    # Imports accelerate, which begin_checkpoint does not need.
    from vlmig.training import load_recipe, train

    if not (model / "config.json").exists():
        begin_checkpoint(model)
    sets = drawers(work)

    def scenes_of_sets(scenes: int, generator: str) -> RecoloredScenes:
        return RecoloredScenes(scenes, generator, sets=sets)

    def compared_of_sets(scenes: int, generator: str, less: bool = True) -> ComparedScenes:
        return ComparedScenes(scenes, less=less, generator=generator, sets=sets)

    chosen = load_recipe(Path(recipe), [f"model.from={model}"])
    for entry in chosen.stages[0].data:
        entry["generator"] = str(model / "generator")
    trained = train(
        chosen,
        work / Path(recipe).stem,
        store=FeatureStore(work / "store"),
        own={"pocket": scenes_of_sets, "pocket_sizes": compared_of_sets},
    )
    trained.model.save_pretrained(model)


def begin_checkpoint(out: Path) -> None:
    """Write a checkpoint of the components in a folder, with an untrained adapter."""
    base = load_language_model(VLMIGForCausalLM.auto_class, str(out / "language_model"))
    AutoTokenizer.from_pretrained(out / "language_model")  # fail early without a tokenizer
    blank = VisionEncoder(out / "vision_encoder", VISION_LAYER).encode_blank()
    config = VLMIGConfig(
        text_config=base.config.to_dict(),
        vision_width=blank.shape[1],
        vision_patches=blank.shape[0],
        vision_layer=VISION_LAYER,
        imaginer_steps=4,
        imaginer_guidance=1.0,  # folded into the weights
        imaginer_size=96,
        imaginer_batch=6,
        projector_width=256,
        fusion_heads=6,
    )
    write_text(out / "README.md", (Path(__file__).parent / "card.md").read_text())
    VLMIGForCausalLM(config, base).save_pretrained(out)
